//! Whoever says where devices see memory promises something.
use std::ptr::NonNull;
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::DmaMemory;

struct Liar(Domain);

impl DmaMemory for Liar {
    fn base(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn len(&self) -> usize {
        4096
    }
    fn device_base(&self) -> u64 {
        0
    }
    fn domain(&self) -> Domain {
        self.0
    }
}

fn main() {}
