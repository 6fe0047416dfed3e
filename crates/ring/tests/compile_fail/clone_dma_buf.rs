//! A buffer has one owner.
use virtio_kit_ring::DmaBuf;

fn two(buffer: DmaBuf) -> (DmaBuf, DmaBuf) {
    (buffer.clone(), buffer)
}

fn main() {
    let _ = two;
}
