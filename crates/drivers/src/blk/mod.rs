//! A block driver (5.2).
//!
//! [`BlkDriver`] registers on a bus and hands each device that it takes to its owner as a [`Blk`]: a handle
//! for the device as a whole, and [`BlkQueue`]s, which can go to different threads. Requests are non-blocking
//! and own their buffers; hundreds may be in flight, and they complete in any order.

mod driver;
mod error;
mod info;
mod queue;
mod request;

pub use driver::{Blk, BlkControl, BlkDevice, BlkDriver, Options, open};
pub use error::{Error, RequestError, SubmitError, SubmitErrorKind};
pub use info::{Info, Limits, RangeLimits, TopologyInfo};
pub use queue::{BlkQueue, Completion};
pub use request::Kind;

/// Bytes of a sector, the unit of all positions and lengths (5.2.5).
pub const SECTOR: u64 = 512;
