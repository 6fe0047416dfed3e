//! A buffer that was added is out of reach until it comes back.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn add(queue: &mut Queue<Chain<(), DmaBuf>, ()>, mut buffer: DmaBuf) {
    let _ = queue.add_buf(Chain::writable(buffer), ());
    buffer.fill(0);
}

fn main() {
    let _ = add;
}
