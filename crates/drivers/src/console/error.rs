//! What can go wrong with a console and its ports.

use core::fmt;
use core::time::Duration;
use virtio_kit::driver::{AddErrorKind, GetError, KickError};
use virtio_kit::transport::TransportError;

/// Why a queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device broke the queue, or is gone.
    Queue(GetError),
    /// The transport failed.
    Transport(TransportError),
    /// The queue did not take a buffer.
    Add(AddErrorKind),
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
        }
    }
}

impl core::error::Error for Error {}

/// Why a port does not read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortError {
    /// Nobody is at the other end, and everything that came from there has been read.
    Closed,
    /// The device has removed the port. If it adds one of this number again, that is another port.
    Removed,
    /// The device did not do it within this time.
    Timeout(Duration),
    /// The port's queue cannot go on.
    Queue(Error),
}

impl<E: Into<Error>> From<E> for PortError {
    fn from(error: E) -> Self {
        Self::Queue(error.into())
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("nobody is at the other end of the port"),
            Self::Removed => f.write_str("the device has removed the port"),
            Self::Timeout(limit) => write!(f, "the port was not ready within {limit:?}"),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PortError {}

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeError {
    /// The device has no port of this number now.
    NoPort(u32),
    /// Somebody has the port, or half of it.
    Taken(u32),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(id) => write!(f, "the device has no port {id}"),
            Self::Taken(id) => write!(f, "port {id} is in use"),
        }
    }
}

impl core::error::Error for TakeError {}
