//! What the rings cost, measured through the two public ends that drivers and devices use.
//!
//! A [`row`] names a ring layout, the shape of its chains, what is negotiated and how the ring is driven; it
//! is parsed at run time, so that nothing about it is folded away. A [`case`] is both ends of such a ring
//! joined in memory, driven in three parts, each a function of its own so that callgrind can tell them apart:
//!
//! | part | what it holds |
//! |---|---|
//! | `submit` | take buffers from a pool, add the chain; publish once per batch |
//! | `device` | take, go over every segment, mark as written, complete; publish once per batch |
//! | `reap` | get the chain back, look at token and length, return the buffers to the pool |
//!
//! `cargo bench` prints instructions per operation (the regression gate, `--check`) and nanoseconds.
#![forbid(unsafe_code)]

pub mod args;
pub mod callgrind;
pub mod case;
pub mod report;
pub mod row;
pub mod stats;
pub mod two_cores;
