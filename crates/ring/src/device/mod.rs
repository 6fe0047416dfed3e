//! The device's side of a virtqueue.
//!
//! [`Queue::take`] copies the next available chain's descriptors into private memory, checks them, and gives
//! a [`Chain`] to read from and write to. [`Queue::complete`] consumes it: a second completion does not
//! compile. Chains may be held as long as their work takes and completed in any order; with IN_ORDER
//! negotiated the queue holds a completed one back until those before it are complete.

mod chain;
mod error;
mod packed;
mod queue;
mod resume;
mod ring;
mod slots;
mod split;
mod storage;
mod walk;

pub use chain::{Chain, Segment, Segments};
pub use error::{BadChain, NewError, ServeError};
pub use queue::{Config, Position, Queue, RingAddrs, Server};
pub use resume::{Again, Raw};
pub use storage::{StaticStorage, Storage};
