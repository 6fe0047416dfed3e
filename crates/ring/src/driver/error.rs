//! What can go wrong on the driver's side.

use crate::mem::AllocError;
use core::fmt;

/// How a device broke the rules of the queue. Latched: the queue yields nothing more, and only
/// [`shutdown`](super::Queue::shutdown) gives its buffers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// A used id that no queue of this size has.
    UnknownId {
        /// The id.
        id: u32,
    },
    /// A used id that is not in flight: never added, or used before.
    NotInFlight {
        /// The id.
        id: u32,
    },
    /// More bytes were reported written than the chain has for writing.
    LengthTooLarge {
        /// What the device reported.
        reported: u32,
        /// The chain's writable bytes.
        writable: u32,
    },
    /// The used index moved further than there are chains in flight.
    IndexJump {
        /// By how many.
        by: u16,
        /// Chains in flight that the device was shown.
        in_flight: u16,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownId { id } => write!(f, "the device used id {id}, which this queue does not have"),
            Self::NotInFlight { id } => write!(f, "the device used id {id}, which is not in flight"),
            Self::LengthTooLarge { reported, writable } => {
                write!(f, "the device reported {reported} bytes written to a chain with space for {writable}")
            }
            Self::IndexJump { by, in_flight } => {
                write!(f, "the device used {by} chains at once with {in_flight} in flight")
            }
        }
    }
}

impl core::error::Error for Broken {}

/// Why a chain was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddErrorKind {
    /// The queue has no space for the chain now. Take used chains off, and try again.
    Full,
    /// The chain has no buffers.
    NoBuffers,
    /// The chain has more buffers than the queue can ever take, or more than 2^32 - 1 bytes.
    TooLong,
    /// A buffer belongs to another domain than the queue: its device could not reach it.
    ForeignBuffer,
    /// The device broke the queue earlier.
    Broken(Broken),
    /// The queue was shut down.
    Stopped,
}

impl fmt::Display for AddErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::NoBuffers => "the chain has no buffers",
            Self::TooLong => "the chain is longer than the queue can ever take",
            Self::ForeignBuffer => "a buffer belongs to another domain than the queue",
            Self::Broken(broken) => return write!(f, "the queue is broken: {broken}"),
            Self::Stopped => "the queue is shut down",
        })
    }
}

/// A chain that was not added, and its token, given back.
pub struct AddError<C, T> {
    /// Why.
    pub kind: AddErrorKind,
    /// The chain, unchanged.
    pub chain: C,
    /// Its token.
    pub token: T,
}

impl<C, T> AddError<C, T> {
    /// Why the chain was not added.
    pub fn kind(&self) -> AddErrorKind {
        self.kind
    }
}

impl<C, T> AddError<C, T> {
    #[cold]
    pub(super) fn in_batch(self, added: usize) -> BatchError<C, T> {
        BatchError { added, kind: self.kind, refused: Some((self.chain, self.token)) }
    }
}

/// Why a batch ended before its time. Chains added before that stay added.
pub struct BatchError<C, T> {
    /// How many were added.
    pub added: usize,
    /// Why the next one was not.
    pub kind: AddErrorKind,
    /// That one, unchanged, with its token; `None` if the queue takes no chains at all, and so asked for none.
    pub refused: Option<(C, T)>,
}

impl<C, T> fmt::Debug for BatchError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchError")
            .field("added", &self.added)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<C, T> fmt::Display for BatchError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, after {} chains of the batch", self.kind, self.added)
    }
}

impl<C, T> core::error::Error for BatchError<C, T> {}

impl<C, T> fmt::Debug for AddError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<C, T> fmt::Display for AddError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<C, T> core::error::Error for AddError<C, T> {}

/// Why a queue could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewError {
    /// The size is 0, above 32768, or for a split ring no power of two.
    BadSize(u16),
    /// The alignment of a legacy ring is no power of two from 4 to 4096.
    BadAlign(usize),
    /// A store is shorter than the queue's size.
    StoreTooShort,
    /// The ring's memory could not be had.
    Memory(AllocError),
    /// Indirect chains of fewer than 2, or more than 32768 buffers were asked for.
    BadIndirect,
    /// The arena for indirect tables is of another domain than the ring: its device could not reach them.
    ForeignArena,
}

impl From<AllocError> for NewError {
    fn from(error: AllocError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize(size) => write!(f, "{size} is no size for this kind of virtqueue"),
            Self::BadAlign(align) => write!(f, "{align} is no alignment for a legacy ring"),
            Self::StoreTooShort => f.write_str("a store has fewer elements than the queue"),
            Self::Memory(error) => write!(f, "no memory for the ring: {error}"),
            Self::BadIndirect => f.write_str("indirect chains must be of 2 to 32768 buffers"),
            Self::ForeignArena => f.write_str("the arena for indirect tables is of another domain"),
        }
    }
}

impl core::error::Error for NewError {}
