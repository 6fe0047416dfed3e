//! No two operations at once on one queue.
use virtio_kit_ring::DmaBuf;
use virtio_kit_ring::driver::Queue;

fn twice(queue: &mut Queue<DmaBuf, ()>) {
    let _ = queue.get_batch(1, |_| {
        queue.publish();
    });
}

fn main() {
    let _ = twice;
}
