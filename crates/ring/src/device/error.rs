//! What can go wrong on the device's side.

use core::fmt;

/// How a driver broke the rules of the queue. Latched: the queue yields nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadChain {
    /// The available index moved further than the queue is long.
    IndexJump {
        /// By how many.
        by: u16,
    },
    /// A head or a link beyond the table.
    BadIndex {
        /// The index.
        index: u16,
    },
    /// More descriptors than the queue or the indirect table has: a loop.
    Loop,
    /// An indirect descriptor inside a table, or one that says it goes on.
    BadIndirect,
    /// An indirect table whose length is no multiple of 16, zero, or longer than the queue supports.
    BadTableLength {
        /// Length in bytes.
        len: u32,
    },
    /// A descriptor of no bytes.
    ZeroLength,
    /// A readable descriptor after a writable one.
    ReadableAfterWritable,
    /// Bytes that are in no memory region.
    OutsideMemory {
        /// First address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
    /// More than 2^32 - 1 bytes, or more segments than the queue supports.
    TooLong,
    /// A packed chain that runs past what the driver can have made available, or chains made available while
    /// every descriptor is in flight.
    Overrun,
}

impl fmt::Display for BadChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexJump { by } => {
                write!(f, "the driver made {by} chains available at once, more than fit")
            }
            Self::BadIndex { index } => write!(f, "descriptor index {index} is beyond the table"),
            Self::Loop => f.write_str("the descriptor chain is a loop"),
            Self::BadIndirect => f.write_str("an indirect descriptor where none may be"),
            Self::BadTableLength { len } => write!(f, "an indirect table of {len} bytes"),
            Self::ZeroLength => f.write_str("a descriptor of no bytes"),
            Self::ReadableAfterWritable => f.write_str("a readable descriptor after a writable one"),
            Self::OutsideMemory { addr, len } => {
                write!(f, "address {addr:#x} + {len:#x} is in no memory region")
            }
            Self::TooLong => f.write_str("a chain longer than the device takes"),
            Self::Overrun => f.write_str("a chain with more descriptors than the ring has free"),
        }
    }
}

impl core::error::Error for BadChain {}

/// Why [`Queue::serve`](super::Queue::serve) ended before its time.
#[derive(Debug)]
pub enum ServeError {
    /// The driver broke the rules of the queue.
    Broken(BadChain),
    /// What came back to be completed is a chain of another queue: here it is.
    Foreign(super::Chain),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(f),
            Self::Foreign(_) => f.write_str("a chain came back to another queue than it was taken from"),
        }
    }
}

impl core::error::Error for ServeError {}

/// Why a device queue could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewError {
    /// The size is 0, above 32768, or for a split ring no power of two.
    BadSize(u16),
    /// An area of the ring is misaligned or not in one memory region.
    BadArea {
        /// Its address.
        addr: u64,
    },
    /// Storage is shorter than the queue needs.
    StoreTooShort,
    /// The position to start from cannot be one of this queue.
    BadPosition,
    /// Chains of the memory before last are still in flight.
    Busy,
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize(size) => write!(f, "{size} is no size for this kind of virtqueue"),
            Self::BadArea { addr } => write!(f, "the ring area at {addr:#x} is misaligned or not in memory"),
            Self::StoreTooShort => f.write_str("storage is shorter than the queue needs"),
            Self::BadPosition => f.write_str("the position to start from is not one of this queue"),
            Self::Busy => f.write_str("chains in the memory before last are still in flight"),
        }
    }
}

impl core::error::Error for NewError {}
