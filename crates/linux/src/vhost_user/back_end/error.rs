//! Why a request is refused, and why a connection ends.

use std::fmt;
use std::io;

use virtio_kit::device::{DeviceError, NewError};
use virtio_kit_ring::mem::MemoryError;
use virtio_kit_spec::Features;

use super::record::BadRecord;
use crate::mapping::MapError;
use crate::vhost_user::codec::{self, MessageId, ProtocolFeatures};

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The message itself is wrong.
    Message(codec::Error),
    /// There is no queue of this number.
    NoQueue(u32),
    /// The queue has to be stopped first.
    QueueRuns(u32),
    /// A queue cannot have so many descriptors.
    QueueSize(u32),
    /// Feature bits that were not offered.
    NotOffered(u64),
    /// The features do not work: VERSION_1 is missing, or what one of them requires.
    Features(Features),
    /// It cannot change while queues run.
    InUse,
    /// Protocol features that were not offered, or that lack what they require.
    ProtocolFeatures(ProtocolFeatures),
    /// The request belongs to a protocol feature that was not agreed on, or is not known.
    NotNegotiated,
    /// A memory region cannot be mapped.
    Map(MapError),
    /// Memory regions overlap, in guest or in user addresses.
    Regions(MemoryError),
    /// There is no such memory region.
    NoRegion,
    /// More memory regions than there are slots.
    TooManyRegions,
    /// Chains in flight hold on to memory that is to go.
    MemoryInUse,
    /// A ring is not in the memory any more.
    Ring(NewError),
    /// What was in flight when another back-end died cannot be told.
    Record(BadRecord),
    /// Configuration that is not there or cannot be written.
    Config {
        /// First byte.
        offset: u32,
        /// How many bytes.
        size: u32,
    },
    /// The device does not start.
    Device(DeviceError),
    /// A queue could not be stopped: so many requests are still being worked on.
    StillInFlight(u16),
    /// A descriptor cannot be waited for, with the operating system's error number.
    Event(i32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(error) => error.fmt(f),
            Self::NoQueue(index) => write!(f, "there is no queue {index}"),
            Self::QueueRuns(index) => write!(f, "queue {index} has to be stopped first"),
            Self::QueueSize(size) => write!(f, "{size} is no size for a queue here"),
            Self::NotOffered(bits) => write!(f, "feature bits {bits:#x} were not offered"),
            Self::Features(features) => {
                write!(f, "features {:#x} do not work: a legacy driver, or a dependency", features.low())
            }
            Self::InUse => f.write_str("this cannot change while queues run"),
            Self::ProtocolFeatures(bits) => {
                write!(f, "protocol features {:#x} were not offered or lack others", bits.bits())
            }
            Self::NotNegotiated => f.write_str("not known, or not agreed on"),
            Self::Map(error) => write!(f, "shared memory: {error}"),
            Self::Regions(error) => error.fmt(f),
            Self::NoRegion => f.write_str("there is no such memory region"),
            Self::TooManyRegions => f.write_str("no slot is free for another memory region"),
            Self::MemoryInUse => f.write_str("requests in flight do not let go of the memory"),
            Self::Ring(error) => error.fmt(f),
            Self::Record(error) => error.fmt(f),
            Self::Config { offset, size } => {
                write!(f, "{size} bytes at {offset} of the configuration cannot be read or written")
            }
            Self::Device(error) => error.fmt(f),
            Self::StillInFlight(count) => write!(f, "{count} requests do not come to an end"),
            Self::Event(number) => {
                write!(f, "an event descriptor: {}", io::Error::from_raw_os_error(*number))
            }
        }
    }
}

impl std::error::Error for Refusal {}

impl From<MapError> for Refusal {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<BadRecord> for Refusal {
    fn from(error: BadRecord) -> Self {
        Self::Record(error)
    }
}

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        Self::Regions(error)
    }
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<codec::Error> for Refusal {
    fn from(error: codec::Error) -> Self {
        Self::Message(error)
    }
}

/// How a connection ended. The back-end is ready for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The front-end hung up.
    HungUp,
    /// This end hung up.
    Closed,
    /// What came is not the protocol.
    Protocol(codec::Error),
    /// A request cannot be done, and the front-end did not ask to be told.
    Refused(MessageId, Refusal),
    /// The front-end does not read its replies.
    NotReading,
    /// The file of a memory region was cut short while it was in use.
    CutShort,
    /// The operating system failed, with its error number.
    Os(i32),
}

impl Ended {
    /// Whether the front-end just went, as all do.
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::HungUp | Self::Closed)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HungUp => f.write_str("the front-end hung up"),
            Self::Closed => f.write_str("closed from here"),
            Self::Protocol(error) => write!(f, "not a vhost-user front-end, or a broken one: {error}"),
            Self::Refused(message, why) => write!(f, "{message}: {why}"),
            Self::NotReading => f.write_str("the front-end does not read its replies"),
            Self::CutShort => f.write_str("the file behind a memory region was cut short"),
            Self::Os(number) => write!(f, "the socket: {}", io::Error::from_raw_os_error(*number)),
        }
    }
}

impl std::error::Error for Ended {}
