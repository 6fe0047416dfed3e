//! Completing a chain consumes it.
use virtio_kit_ring::device::{Chain, Queue};

fn complete(queue: &mut Queue, chain: Chain) {
    let _ = queue.complete(chain);
    let _ = queue.complete(chain);
}

fn main() {
    let _ = complete;
}
