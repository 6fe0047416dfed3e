//! Whoever says that memory is mapped promises something.
use std::ptr::NonNull;
use virtio_kit_ring::mem::RegionMemory;

struct Liar;

impl RegionMemory for Liar {
    fn base(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn len(&self) -> usize {
        4096
    }
}

fn main() {}
