//! A buffer is a piece of an arena: nobody else makes one.
use std::ptr::NonNull;
use virtio_kit_ring::DmaBuf;

fn main() {
    let _ = DmaBuf { arena: NonNull::dangling(), start: 0, len: 64 };
}
