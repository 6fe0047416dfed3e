//! What can go wrong with a request for entropy.

use core::fmt;
use core::time::Duration;
use virtio_kit::driver::{AddErrorKind, GetError, KickError};
use virtio_kit::transport::TransportError;

/// Why there is no entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device broke the queue, or is gone.
    Queue(GetError),
    /// The transport failed.
    Transport(TransportError),
    /// The queue did not take a request.
    Add(AddErrorKind),
    /// The device gave buffers back without a byte in them, this often in a row: it must put one in (5.4.6.2).
    Empty(u32),
    /// The device did not give enough within this time.
    Timeout(Duration),
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
            Self::Add(error) => error.fmt(f),
            Self::Empty(count) => write!(f, "the device gave {count} buffers back empty"),
            Self::Timeout(limit) => write!(f, "the device gave too little entropy within {limit:?}"),
        }
    }
}

impl core::error::Error for Error {}
