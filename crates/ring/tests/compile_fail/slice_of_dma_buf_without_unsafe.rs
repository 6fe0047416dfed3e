//! No reference into shared memory exists in safe code.
use virtio_kit_ring::DmaBuf;

fn look(buffer: &DmaBuf) -> &[u8] {
    buffer.as_slice()
}

fn main() {
    let _ = look;
}
