//! What shutdown hands back is taken before the queue is used again.
use virtio_kit_ring::DmaBuf;
use virtio_kit_ring::driver::{Queue, Quiesced};

fn end(queue: &mut Queue<Chain<(), DmaBuf>, ()>, proof: Quiesced) {
    let mut chains = queue.shutdown(proof);
    queue.revive();
    chains.next();
}

fn main() {
    let _ = end;
}
