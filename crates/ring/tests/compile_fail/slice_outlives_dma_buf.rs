//! Not even an unsafe slice outlives its buffer.
use virtio_kit_ring::DmaBuf;

fn look(buffer: DmaBuf) -> u8 {
    // SAFETY: no device has the buffer.
    let slice = unsafe { buffer.as_slice() };
    drop(buffer);
    slice[0]
}

fn main() {
    let _ = look;
}
