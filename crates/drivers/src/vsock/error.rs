//! What can go wrong with a socket device and its sockets.

use core::fmt;
use core::time::Duration;
use virtio_kit::driver::{AddErrorKind, GetError, KickError};
use virtio_kit::transport::TransportError;
use virtio_kit::vsock;

/// Why a device cannot go on. Its connections are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device broke a queue, or is gone.
    Queue(GetError),
    /// The transport failed.
    Transport(TransportError),
    /// A queue did not take a buffer.
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

/// Why a socket does not open, read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketError {
    /// What became of the connection.
    Connection(vsock::Error),
    /// It was not ready within this time.
    Timeout(Duration),
    /// The device cannot go on.
    Device(Error),
}

impl From<vsock::Error> for SocketError {
    fn from(error: vsock::Error) -> Self {
        Self::Connection(error)
    }
}

impl From<Error> for SocketError {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Timeout(limit) => write!(f, "the socket was not ready within {limit:?}"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SocketError {}
