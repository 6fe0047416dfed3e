//! Two threads cannot both operate on a queue.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn share(queue: &mut Queue<Chain<(), DmaBuf>, ()>) {
    std::thread::scope(|scope| {
        scope.spawn(|| queue.publish());
        scope.spawn(|| queue.publish());
    });
}

fn main() {
    let _ = share;
}
