//! A chain comes from a queue alone.
use std::ptr::NonNull;
use virtio_kit_ring::device::Chain;

fn main() {
    let _ = Chain(NonNull::dangling());
}
