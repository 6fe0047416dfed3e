//! The device's end of vhost-user: any [`Device`](virtio_kit::device::Device) for front-ends such as QEMU.
//!
//! [`BackEnd`] is the device with at most one front-end at a time, and [`QueueEnd`] one queue of it. Neither has a
//! thread, and neither waits: both are descriptors to wait for and a call for when they are ready, for whatever loop
//! a program has. [`Runner`] is one ready made: a thread for the messages, and one for each queue or one for all.
//!
//! # Rings
//!
//! A ring runs while it has a kick event (or is to be polled), is enabled, and has a size, addresses and memory:
//! in whatever order these come. It is looked at as soon as it runs, for what waits in it already, so the first kick
//! need not be waited for. Disabling it lets what is in flight come to its end; enabling it goes on from there.
//! GET_VRING_BASE does the same and answers with where the ring stands.
//!
//! # What a front-end cannot do
//!
//! A request that is wrong is answered with an error if it asks for an answer; else the connection ends. A ring that
//! breaks the rules, or a device that fails, ends that queue: it is no longer run, its error event is set and the
//! status reads DEVICE_NEEDS_RESET. A file that is cut short under its mapping ends the connection, given that
//! [`mapping::guard`](crate::mapping::guard) is in place. All of these are one line of the log, and the next
//! front-end is served.

mod control;
mod error;
mod event;
mod listener;
mod log;
mod memory;
mod options;
mod queue;
mod record;
mod requests;
mod rings;
mod runner;
mod witness;

pub use control::BackEnd;
pub use error::{Ended, Refusal};
pub use listener::{BindError, Listener};
pub use options::{IMPLEMENTED, Options, RING_FEATURES};
pub use queue::{Counters, QueueEnd, Turn};
pub use record::BadRecord;
pub use runner::{Polling, Runner, Source, Threads};
