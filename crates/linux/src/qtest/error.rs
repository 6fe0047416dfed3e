//! Why a machine did not start.

use std::fmt;
use std::io;
use std::path::PathBuf;

use virtio_kit::transport::TransportError;

/// Why a machine did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no such program.
    Missing(PathBuf),
    /// The program ended before it could be used; what it said.
    Ended(String),
    /// The program did not connect, or did not answer, in time; what it said.
    Timeout(String),
    /// The operating system refused what is needed around it.
    Io(&'static str, io::Error),
    /// The machine runs, but its bus or memory cannot be used.
    Transport(TransportError),
    /// A device's arguments would be taken for something else.
    BadArgument(String),
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(program) => {
                write!(f, "{} is not installed (./ci.sh installs it)", program.display())
            }
            Self::Ended(said) => write!(f, "QEMU ended at once: {}", said.trim()),
            Self::Timeout(said) => write!(f, "QEMU does not answer: {}", said.trim()),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Transport(error) => error.fmt(f),
            Self::BadArgument(text) => write!(f, "not usable as an argument for QEMU: {text}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Transport(error) => Some(error),
            _ => None,
        }
    }
}
