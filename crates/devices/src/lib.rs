//! Virtio devices, one folder per type, in safe code: written once, served over any transport.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod blk;
pub mod console;
pub mod net;
pub mod rng;
pub mod vsock;
