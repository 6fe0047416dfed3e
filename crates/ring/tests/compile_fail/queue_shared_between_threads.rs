//! Two threads cannot both operate on a queue.
use virtio_kit_ring::DmaBuf;
use virtio_kit_ring::driver::Queue;

fn share(queue: &mut Queue<DmaBuf, ()>) {
    std::thread::scope(|scope| {
        scope.spawn(|| queue.publish());
        scope.spawn(|| queue.publish());
    });
}

fn main() {
    let _ = share;
}
