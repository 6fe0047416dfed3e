//! The driver's side of a virtqueue.
//!
//! [`Queue`] is the type that drivers use. It keeps, in private memory, every chain in flight with its
//! token, and checks whatever the device reports against that. The four ring layouts are a closed enum
//! behind it, chosen when the queue is made and matched once per call or per batch:
//!
//! | | any order | in order |
//! |---|---|---|
//! | split (2.7) | free list of descriptors | descriptors and available ring in step |
//! | packed (2.8) | free list of buffer ids | ids are ring positions |

mod add;
mod error;
mod memory;
mod packed;
mod queue;
mod ring;
mod shutdown;
mod split;
mod storage;
mod take;

pub use add::{Place, Placed};
pub use error::{AddError, AddErrorKind, BatchError, Broken, NewError};
pub use memory::{RingAddrs, RingMemory};
pub use queue::{Indirect, Options, Position, Queue, Used};
pub use shutdown::{Evidence, Quiesced, Shutdown};
pub use storage::{StaticStorage, Storage};
