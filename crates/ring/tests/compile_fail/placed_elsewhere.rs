//! What was put into one place does not fill another.
use virtio_kit_ring::driver::{Place, Placed, Queue};
use virtio_kit_ring::{Chain, DmaBuf};

type Tx = Queue<Chain<DmaBuf>, ()>;

fn keep<'p>(_: Place<'p, Chain<DmaBuf>, ()>, other: Placed<'p>) -> Placed<'p> {
    other
}

fn confuse(one: &mut Tx, other: &mut Tx, mut buffers: Vec<DmaBuf>) {
    let _ = one.add_batch(|place| {
        let placed = place.put(Chain::readable(buffers.pop()?), ());
        let mut placed = Some(placed);
        let _ = other.add_batch(|empty| Some(keep(empty, placed.take()?)));
        None
    });
}

fn main() {
    let _ = confuse;
}
