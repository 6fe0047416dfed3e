//! No two operations at once on one queue.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn twice(queue: &mut Queue<Chain<(), DmaBuf>, ()>) {
    let _ = queue.get_batch(1, |_| {
        queue.publish();
    });
}

fn main() {
    let _ = twice;
}
