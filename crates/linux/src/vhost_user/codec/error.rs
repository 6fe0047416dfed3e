//! What can be wrong with a message.

use core::fmt;

use super::{MAX_FDS, MAX_REGIONS, MessageId};

/// Why a message was refused, and which message it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The header is of another protocol version. The stream cannot be followed any further.
    Version {
        /// The message.
        message: MessageId,
        /// Its version.
        version: u32,
    },
    /// The header has flags that the protocol does not define. The stream cannot be followed any further.
    Flags {
        /// The message.
        message: MessageId,
        /// Its flags word.
        flags: u32,
    },
    /// A request where a reply belongs, or the reverse. The stream cannot be followed any further.
    Direction {
        /// The message.
        message: MessageId,
    },
    /// The header announces more payload than the message can have. The stream cannot be followed any further.
    TooLong {
        /// The message.
        message: MessageId,
        /// The announced size in bytes.
        size: u32,
        /// The most that it can be.
        max: u32,
    },
    /// More descriptors came with a message than any may carry. The stream cannot be followed any further.
    TooManyFds {
        /// Descriptors that came.
        count: usize,
    },
    /// The payload has not the size that the message has.
    Length {
        /// The message.
        message: MessageId,
        /// The size in bytes.
        size: u32,
        /// The size it should have.
        expected: u32,
    },
    /// The number of descriptors is not the message's.
    Fds {
        /// The message.
        message: MessageId,
        /// Descriptors that came.
        count: usize,
        /// Descriptors that belong to it.
        expected: usize,
    },
    /// Too many regions in one message.
    Regions {
        /// The message.
        message: MessageId,
        /// How many.
        count: u32,
        /// The most there may be.
        max: u32,
    },
    /// An area of zero bytes.
    Empty {
        /// The message.
        message: MessageId,
    },
    /// An address or offset plus a size leaves the number range.
    Overflow {
        /// The message.
        message: MessageId,
        /// The address or offset.
        field: &'static str,
    },
    /// A field has a value that the protocol does not define.
    Value {
        /// The message.
        message: MessageId,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The reply is not for the oldest request that awaits one, or not what was asked for.
    Mismatch {
        /// The reply.
        message: MessageId,
        /// The field that differs.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The value that was asked for.
        expected: u64,
    },
    /// A reply came and no request awaits one.
    Unsolicited {
        /// The reply.
        message: MessageId,
    },
}

impl Error {
    /// Whether the byte stream can no longer be followed, so that the connection has to end.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Version { .. }
                | Self::Flags { .. }
                | Self::Direction { .. }
                | Self::TooLong { .. }
                | Self::TooManyFds { .. }
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { message, version } => write!(f, "{message}: version {version}, not 1"),
            Self::Flags { message, flags } => write!(f, "{message}: unknown flags {flags:#x}"),
            Self::Direction { message } => write!(f, "{message}: wrong reply flag"),
            Self::TooLong { message, size, max } => {
                write!(f, "{message}: {size} bytes of payload, at most {max}")
            }
            Self::TooManyFds { count } => {
                write!(f, "{count} descriptors with one message, at most {MAX_FDS}")
            }
            Self::Length { message, size, expected } => {
                write!(f, "{message}: {size} bytes of payload, not {expected}")
            }
            Self::Fds { message, count, expected } => {
                write!(f, "{message}: {count} descriptors, not {expected}")
            }
            Self::Regions { message, count, max } => write!(f, "{message}: {count} regions, at most {max}"),
            Self::Empty { message } => write!(f, "{message}: size is zero"),
            Self::Overflow { message, field } => write!(f, "{message}: {field} plus size overflows"),
            Self::Value { message, field, value } => write!(f, "{message}: {field} is {value:#x}"),
            Self::Mismatch { message, field, value, expected } => {
                write!(f, "{message}: {field} is {value:#x}, asked for {expected:#x}")
            }
            Self::Unsolicited { message } => write!(f, "{message}: nothing was asked"),
        }
    }
}

impl core::error::Error for Error {}

const _: () = assert!(MAX_REGIONS == MAX_FDS, "every region of a table has its descriptor");
