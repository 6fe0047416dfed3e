//! A slice of a buffer cannot be kept while the device has the buffer.
use virtio_kit_ring::driver::Queue;
use virtio_kit_ring::{Chain, DmaBuf};

fn look(queue: &mut Queue<Chain<(), DmaBuf>, ()>, buffer: DmaBuf) -> u8 {
    // SAFETY: no device has the buffer.
    let slice = unsafe { buffer.as_slice() };
    let _ = queue.add_buf(Chain::writable(buffer), ());
    slice[0]
}

fn main() {
    let _ = look;
}
