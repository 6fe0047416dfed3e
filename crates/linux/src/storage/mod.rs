//! Storage for block devices: a file or a block device of the host, through io_uring.
//!
//! [`FileBackend`] is the file; each queue of the device gets a [`UringStorage`] of its own, with a ring of
//! its own, so queues share nothing but the file and its [`Counters`]. Data move between the file and the
//! driver's memory without a copy, except with direct I/O from or to memory that is not aligned for it.
//!
//! Linux 5.11 or later is needed, for waits with a time limit.

mod counters;
mod error;
mod file;
mod job;
mod lock;
mod slot;
mod uring;

#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use error::{OpenError, OpenErrorKind};
pub use file::{FileBackend, Options};
pub use uring::UringStorage;
