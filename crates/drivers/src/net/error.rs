//! What can go wrong with frames and with commands.

use super::{Frame, Mac};
use core::fmt;
use virtio_kit::Features;
use virtio_kit::driver::{AddErrorKind, GetError, KickError};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::spec::net::{Gso, GuestOffloads, HashTypes};
use virtio_kit::transport::TransportError;

/// Why a queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device broke the queue, or is gone.
    Queue(GetError),
    /// The transport failed.
    Transport(TransportError),
}

impl From<GetError> for Error {
    fn from(error: GetError) -> Self {
        Self::Queue(error)
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<KickError> for Error {
    fn from(error: KickError) -> Self {
        Self::Transport(error.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

/// What is wrong with an offload that was asked for (5.1.9.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadOffload {
    /// The device did not agree to it.
    NotNegotiated(Features),
    /// The checksum would not be inside the frame.
    ChecksumOutside {
        /// First byte to sum.
        start: u16,
        /// Where the sum goes, from `start`.
        offset: u16,
    },
    /// Segments are only cut with a partial checksum.
    SegmentsNeedChecksum,
    /// The length of the headers is 0, or the frame has no byte beyond it.
    HeaderLength(u16),
}

impl fmt::Display for BadOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNegotiated(feature) => write!(f, "the device did not agree to {feature:?}"),
            Self::ChecksumOutside { start, offset } => {
                write!(f, "a checksum at {start} + {offset} is not inside the frame")
            }
            Self::SegmentsNeedChecksum => f.write_str("segmentation needs a partial checksum too"),
            Self::HeaderLength(len) => write!(f, "the frame does not have {len} bytes of headers and data"),
        }
    }
}

impl core::error::Error for BadOffload {}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The queue is full. Take sent frames off, and try again.
    Full,
    /// The frame is shorter than an Ethernet header.
    TooShort(usize),
    /// The frame is longer than the device takes.
    TooLong {
        /// Its length.
        len: usize,
        /// The longest allowed.
        most: usize,
    },
    /// What was asked for beside the frame cannot be.
    Offload(BadOffload),
    /// No memory that the device can reach.
    Memory(AllocError),
    /// The queue did not take it.
    Queue(AddErrorKind),
}

impl fmt::Display for SendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full"),
            Self::TooShort(len) => write!(f, "{len} bytes are fewer than an Ethernet header has"),
            Self::TooLong { len, most } => {
                write!(f, "{len} bytes are more than the {most} of the longest frame")
            }
            Self::Offload(bad) => bad.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Queue(kind) => kind.fmt(f),
        }
    }
}

impl core::error::Error for SendErrorKind {}

/// A frame that was not sent, given back.
pub struct SendError {
    /// Why.
    pub kind: SendErrorKind,
    /// The frame, unchanged except perhaps for what was in its headroom.
    pub frame: Frame,
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl core::error::Error for SendError {}

/// Why a batch ended before its time. Frames added before that stay added.
pub struct SendBatchError {
    /// How many were added.
    pub added: usize,
    /// Why the next one was not.
    pub kind: SendErrorKind,
    /// That one, given back; `None` if the queue takes no frames at all, and so asked for none.
    pub frame: Option<Frame>,
}

impl fmt::Debug for SendBatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatchError")
            .field("added", &self.added)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SendBatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, after {} frames of the batch", self.kind, self.added)
    }
}

impl core::error::Error for SendBatchError {}

/// Why the copy of a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendCopyError {
    /// The frame was not sent.
    Send(SendErrorKind),
    /// The queue cannot go on.
    Queue(Error),
}

impl fmt::Display for SendCopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(kind) => kind.fmt(f),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SendCopyError {}

/// How a device got a frame wrong (5.1.9.4.1). The frame is lost, its buffers are not, and the queue goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadFrame {
    /// Too few bytes for the header and an Ethernet header.
    TooShort {
        /// Bytes that the device reported written.
        written: usize,
    },
    /// It says that it is in no buffer, or in more than the longest frame takes.
    BufferCount {
        /// What it says.
        count: u16,
        /// The most that there can be.
        most: u16,
    },
    /// It says that it is in more buffers than the device used.
    MissingBuffers {
        /// What it says.
        count: u16,
        /// Buffers used.
        used: u16,
    },
    /// One of its buffers was used with nothing in it.
    EmptyBuffer,
    /// It says what the driver did not agree to.
    NotNegotiated(Features),
    /// The checksum would not be inside the frame.
    ChecksumOutside {
        /// First byte to sum.
        start: u16,
        /// Where the sum goes, from `start`.
        offset: u16,
    },
    /// No such kind of segmentation.
    Segmentation(Gso),
    /// Segments of no bytes.
    NoSegmentSize,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device gave a bad frame: ")?;
        match self {
            Self::TooShort { written } => write!(f, "only {written} bytes"),
            Self::BufferCount { count, most } => write!(f, "in {count} buffers, not 1 to {most}"),
            Self::MissingBuffers { count, used } => write!(f, "in {count} buffers, of which it used {used}"),
            Self::EmptyBuffer => f.write_str("with an empty buffer"),
            Self::NotNegotiated(feature) => write!(f, "it needs {feature:?}, which was not agreed on"),
            Self::ChecksumOutside { start, offset } => {
                write!(f, "a checksum at {start} + {offset} is not inside it")
            }
            Self::Segmentation(gso) => write!(f, "segmentation {gso:?} does not exist"),
            Self::NoSegmentSize => f.write_str("segments of no bytes"),
        }
    }
}

impl core::error::Error for BadFrame {}

/// Why no frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// One frame was bad; go on.
    Frame(BadFrame),
    /// The queue cannot go on.
    Queue(Error),
}

impl<E: Into<Error>> From<E> for RecvError {
    fn from(error: E) -> Self {
        Self::Queue(error.into())
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(bad) => bad.fmt(f),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RecvError {}

/// Why a command was not done, or nobody knows whether it was (5.1.9.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlError {
    /// The device did not agree to this.
    NotNegotiated(Features),
    /// The command cannot be given with these arguments.
    Argument(BadArgument),
    /// The device refused (ERR).
    Refused,
    /// The device wrote no answer, or one that does not exist.
    BadAnswer(u8),
    /// The device's answer lacks what was asked for.
    ShortAnswer {
        /// Bytes that came.
        written: u32,
    },
    /// The device did not answer in time. It may do so yet: then its answer is thrown away.
    Timeout,
    /// Too many commands have not been answered.
    Full,
    /// No memory that the device can reach.
    Memory(AllocError),
    /// The queue did not take the command.
    Add(AddErrorKind),
    /// The queue cannot go on.
    Queue(Error),
}

impl<E: Into<Error>> From<E> for ControlError {
    fn from(error: E) -> Self {
        Self::Queue(error.into())
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNegotiated(feature) => write!(f, "the device did not agree to {feature:?}"),
            Self::Argument(bad) => bad.fmt(f),
            Self::Refused => f.write_str("the device refused the command"),
            Self::BadAnswer(ack) => write!(f, "the device wrote no valid answer ({ack})"),
            Self::ShortAnswer { written } => write!(f, "the device answered with only {written} bytes"),
            Self::Timeout => f.write_str("the device did not answer the command in time"),
            Self::Full => f.write_str("too many commands wait for an answer"),
            Self::Memory(error) => error.fmt(f),
            Self::Add(kind) => kind.fmt(f),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ControlError {}

/// What is wrong with a command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadArgument {
    /// The address is a multicast address.
    Multicast(Mac),
    /// The address is no multicast address.
    Unicast(Mac),
    /// VLAN ids are 0 to 4095.
    Vlan(u16),
    /// Queue pairs that there are not.
    Pairs {
        /// What was asked for.
        asked: u16,
        /// How many there are.
        have: u16,
    },
    /// The indirection table's length is no power of two, or more than the device takes.
    Table {
        /// Entries.
        len: usize,
        /// The most that the device takes.
        most: u16,
    },
    /// The hash key is longer than the device takes.
    Key {
        /// Bytes.
        len: usize,
        /// The most that the device takes.
        most: u8,
    },
    /// The device cannot hash these.
    HashTypes(HashTypes),
    /// The driver did not agree to these offloads.
    Offloads(GuestOffloads),
}

impl fmt::Display for BadArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multicast(mac) => write!(f, "{mac:02x?} is a multicast address"),
            Self::Unicast(mac) => write!(f, "{mac:02x?} is no multicast address"),
            Self::Vlan(id) => write!(f, "VLAN ids are 0 to 4095, not {id}"),
            Self::Pairs { asked, have } => write!(f, "queue pair {asked} of {have}"),
            Self::Table { len, most } => {
                write!(f, "a table of {len} entries; it must be a power of two up to {most}")
            }
            Self::Key { len, most } => write!(f, "a key of {len} bytes; the device takes {most}"),
            Self::HashTypes(types) => write!(f, "the device cannot hash {types:?}"),
            Self::Offloads(offloads) => write!(f, "{offloads:?} were not agreed on"),
        }
    }
}

impl core::error::Error for BadArgument {}
