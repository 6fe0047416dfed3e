//! Buffers are handed back on proof that the device let go.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn end(queue: &mut Queue<Chain<(), DmaBuf>, ()>) {
    let _ = queue.shutdown(());
}

fn main() {
    let _ = end;
}
