//! Donating a range of memory is a promise.
use std::ptr::NonNull;
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::RawMemory;

fn main() {
    let _ = RawMemory::new(NonNull::dangling(), 4096, 0, Domain::new());
}
