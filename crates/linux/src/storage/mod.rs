//! Storage for block devices: a file or a block device of the host, through io_uring.
//!
//! [`FileBackend`] is the file; each queue of the device gets a [`UringStorage`] of its own, with a ring of
//! its own, so queues share nothing but the file and its [`Counters`]. Data move between the file and the
//! driver's memory without a copy, except with direct I/O from or to memory that is not aligned for it.
//!
//! With the feature `qcow2` there is also `Qcow2Backend`, for images of that format, on threads of its own.
//!
//! Linux 5.11 or later is needed, for waits with a time limit.

mod counters;
mod error;
mod file;
mod job;
mod lock;
#[cfg(feature = "qcow2")]
mod qcow2;
mod slot;
mod uring;

#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use error::{OpenError, OpenErrorKind};
pub use file::{FileBackend, Options};
#[cfg(feature = "qcow2")]
pub use qcow2::Qcow2Backend;
pub use uring::UringStorage;
