//! An entropy driver (5.4).
//!
//! [`RngDriver`] registers on a bus and hands each device that it takes to its owner as an [`Rng`], which asks for
//! random bytes and gives them out as they come, without blocking or as a future. [`BlockingRng`] waits for them,
//! for a bounded time, and with the feature `rand_core` is a fallible generator of that crate. It claims nothing of
//! the quality of the bytes: they are the device's word.

mod blocking;
mod driver;
mod error;
mod source;

pub use blocking::BlockingRng;
pub use driver::{Options, RngDevice, RngDriver, open};
pub use error::Error;
pub use source::Rng;
