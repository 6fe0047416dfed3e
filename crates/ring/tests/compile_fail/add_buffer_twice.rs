//! A buffer that was added cannot be added again.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn add(queue: &mut Queue<Chain<(), [DmaBuf; 2]>, ()>, buffer: DmaBuf) {
    let _ = queue.add_buf(Chain::writable([buffer, buffer]), ());
}

fn main() {
    let _ = add;
}
