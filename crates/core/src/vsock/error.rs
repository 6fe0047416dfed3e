//! What can become of a connection.

use super::Kind;
use core::fmt;

/// Why a connection does not read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there, or it takes no more connections.
    Refused,
    /// The other end ended the connection without closing it.
    Reset,
    /// The device was reset or removed, or moved to another machine (5.10.6.7).
    Transport,
    /// The other end broke the rules: sent beyond its credit, or after it had said that it would not.
    Broken,
    /// This end ended it.
    Aborted,
    /// The other end takes no more, or this end said that it sends no more.
    Closed,
    /// The connection is not open yet.
    NotOpen,
    /// The message is longer than the other end can take whole.
    TooLong {
        /// Bytes of the longest message.
        most: usize,
    },
    /// Bytes go through streams and messages through sequenced packets; this connection is of this kind.
    Kind(Kind),
    /// Connections of this kind were not agreed on.
    Unsupported(Kind),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("the connection was refused"),
            Self::Reset => f.write_str("the connection was reset by its other end"),
            Self::Transport => f.write_str("the connection ended with its device's reset"),
            Self::Broken => f.write_str("the other end broke the rules of the connection"),
            Self::Aborted => f.write_str("the connection was ended here"),
            Self::Closed => f.write_str("the connection takes no more"),
            Self::NotOpen => f.write_str("the connection is not open yet"),
            Self::TooLong { most } => write!(f, "the message is longer than {most} bytes"),
            Self::Kind(kind) => write!(f, "the connection is a {kind} connection"),
            Self::Unsupported(kind) => write!(f, "the device has no {kind} connections"),
        }
    }
}

impl core::error::Error for Error {}

/// Why nobody can listen at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody does.
    InUse(u32),
    /// The port means any port.
    Reserved,
    /// The kind was not agreed on.
    Unsupported(Kind),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(port) => write!(f, "somebody listens at port {port}"),
            Self::Reserved => write!(f, "port {} cannot be listened at", super::PORT_ANY),
            Self::Unsupported(kind) => write!(f, "the device has no {kind} connections"),
        }
    }
}

impl core::error::Error for ListenError {}
