//! Foreign ends of a queue that write ring words as they please.
//!
//! They are written from the document and share nothing with the ring crate. Each does its honest work in as
//! few lines as possible, so that an attack can begin in the middle of it, and can put any bytes anywhere.

mod device;
mod driver;

pub use device::{ForeignDevice, Seen};
pub use driver::{ForeignDriver, Link, Raw};

/// Descriptor flags of both layouts.
pub mod flags {
    /// The chain goes on.
    pub const NEXT: u16 = 1;
    /// For the device to write; in a used packed descriptor: the length means something.
    pub const WRITE: u16 = 2;
    /// The buffer is a table.
    pub const INDIRECT: u16 = 4;
    /// Packed: available.
    pub const AVAIL: u16 = 1 << 7;
    /// Packed: used.
    pub const USED: u16 = 1 << 15;
}
