//! Virtqueues in shared memory: split and packed, for the driver and for the device.
//!
//! This crate is the ground floor of virtio-kit and the only part of its core that has `unsafe` code.
//! Everything above it, drivers, devices, bus and transports, is safe code over what is here:
//!
//! | module | what it holds |
//! |---|---|
//! | [`mem`] | arenas and [`DmaBuf`]s on the driver's side, [`Memory`](mem::Memory) on the device's, and the only ways to look into either |
//! | [`chain`], [`parts`] | what a driver adds: lists of owned buffers, readable ones first |
//! | [`driver`] | the driver's side of a queue: add, publish, reap, hand everything back |
//! | [`device`] | the device's side: take, read and write, complete |
//! | [`notify`] | the one notification primitive of both roles and both layouts |
//! | [`store`] | private storage, from the heap or donated as static slices |
//!
//! # What is trusted
//!
//! Nothing that the other end can write. Ring words are read once into private memory, checked, and the
//! copy is used; free lists, slots and indices never live in shared memory. A broken rule latches the queue
//! with a typed error. Contents of shared memory are copied in and out, never borrowed as slices, so they
//! may change at any moment without undefined behaviour.
//!
//! Memory stays valid because handles keep it: a [`DmaBuf`] or a taken
//! [`Chain`](device::Chain) that is leaked leaks its memory and never frees it under the other end.
#![no_std]
#![warn(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod chain;
pub mod device;
pub mod driver;
pub mod mem;
pub mod notify;
pub mod parts;
pub mod store;
mod words;

pub use chain::{AnyChain, Chain, Either};
pub use mem::{Arena, DeviceAddr, DmaBuf, Domain};
pub use parts::{Bufs, Parts};
pub use store::Store;
