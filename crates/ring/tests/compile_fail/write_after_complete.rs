//! A completed chain is the driver's again.
use virtio_kit_ring::device::{Chain, Queue};

fn complete(queue: &mut Queue, mut chain: Chain) {
    let _ = queue.complete(chain);
    let _ = chain.write(&[1]);
}

fn main() {
    let _ = complete;
}
