//! What can go wrong with a request.

use core::fmt;
use virtio_kit::driver::{AddErrorKind, GetError, KickError};
use virtio_kit::transport::TransportError;

/// Why a request was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The queue is full. Take completions off, and try again.
    Full,
    /// The device is read-only.
    ReadOnly,
    /// The range is not inside the device.
    OutOfRange {
        /// First sector asked for.
        sector: u64,
        /// Sectors asked for.
        count: u64,
        /// Sectors that the device has.
        sectors: u64,
    },
    /// The length is 0 or no multiple of 512 bytes.
    BadLength(u64),
    /// More buffers, larger ones, or more sectors than the device takes in one request.
    TooLarge,
    /// The device does not offer this kind of request.
    Unsupported,
    /// The queue did not take it.
    Queue(AddErrorKind),
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full"),
            Self::ReadOnly => f.write_str("the device is read-only"),
            Self::OutOfRange { sector, count, sectors } => {
                write!(f, "sectors {sector} + {count} are beyond the device's {sectors}")
            }
            Self::BadLength(len) => write!(f, "{len} bytes are not a positive multiple of 512"),
            Self::TooLarge => f.write_str("more than the device takes in one request"),
            Self::Unsupported => f.write_str("the device does not offer this kind of request"),
            Self::Queue(kind) => kind.fmt(f),
        }
    }
}

impl core::error::Error for SubmitErrorKind {}

/// A request that was not added: its buffers and its token, given back.
pub struct SubmitError<D, T> {
    /// Why.
    pub kind: SubmitErrorKind,
    /// The buffers, if the request had any.
    pub data: Option<D>,
    /// The token.
    pub token: T,
}

impl<D, T> SubmitError<D, T> {
    /// Why the request was not added.
    pub fn kind(&self) -> SubmitErrorKind {
        self.kind
    }
}

impl<D, T> fmt::Debug for SubmitError<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<D, T> fmt::Display for SubmitError<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<D, T> core::error::Error for SubmitError<D, T> {}

/// How a request failed (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The device failed to do it (IOERR).
    Io,
    /// The device cannot do it (UNSUPP).
    Unsupported,
    /// The device wrote no status, or one that does not exist.
    BadStatus(u8),
    /// The device returned fewer bytes than were read from it.
    Short {
        /// Bytes that came.
        written: u32,
    },
    /// The device was reset or removed before it answered.
    Removed,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io => f.write_str("the device reported an input/output error"),
            Self::Unsupported => f.write_str("the device does not support the request"),
            Self::BadStatus(status) => write!(f, "the device wrote no valid status ({status})"),
            Self::Short { written } => write!(f, "the device returned only {written} bytes"),
            Self::Removed => f.write_str("the device was reset or removed before it answered"),
        }
    }
}

impl core::error::Error for RequestError {}

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
