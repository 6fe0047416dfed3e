//! What can go wrong between a front-end and its back-end.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use virtio_kit::transport::TransportError;

use crate::vhost_user::codec;

/// Why there is no connection to a back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing is at the path.
    NoSocket(PathBuf),
    /// A socket is at the path, and nobody listens.
    Refused(PathBuf),
    /// Something else than a socket is at the path.
    NotASocket(PathBuf),
    /// The path may not be used by this process.
    Permission(PathBuf),
    /// The path is empty or longer than a socket's can be.
    BadPath(PathBuf),
    /// The options cannot be: why.
    Options(&'static str),
    /// The back-end did not accept the connection, or did not answer this message, in time.
    Timeout(PathBuf, &'static str),
    /// The back-end closed the connection at this message.
    Closed(PathBuf, &'static str),
    /// The back-end answered this message with an error.
    Nack(PathBuf, &'static str),
    /// The back-end broke the protocol.
    Protocol(PathBuf, codec::Error),
    /// The back-end cannot be used: why.
    Unusable(PathBuf, &'static str),
    /// The operating system failed, with its error number.
    Os(PathBuf, i32),
}

impl ConnectError {
    pub(super) fn os(path: &Path, error: Errno) -> Self {
        let path = path.to_owned();
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::NoSocket(path),
            Errno::CONNREFUSED if is_not_a_socket(&path) => Self::NotASocket(path),
            Errno::CONNREFUSED => Self::Refused(path),
            Errno::PROTOTYPE => Self::NotASocket(path),
            Errno::ACCESS | Errno::PERM => Self::Permission(path),
            Errno::NAMETOOLONG | Errno::INVAL => Self::BadPath(path),
            Errno::AGAIN => Self::Timeout(path, "connect"),
            other => Self::Os(path, other.raw_os_error()),
        }
    }

    pub(super) fn failed(path: &Path, Failed { during, why }: Failed) -> Self {
        let path = path.to_owned();
        match why {
            Failure::Timeout => Self::Timeout(path, during),
            Failure::Closed => Self::Closed(path, during),
            Failure::Nack => Self::Nack(path, during),
            Failure::Unusable(what) => Self::Unusable(path, what),
            Failure::Protocol(error) => Self::Protocol(path, error),
            Failure::Os(error) => Self::Os(path, error.raw_os_error()),
        }
    }
}

/// Connecting to anything that is there and is not a listening socket is refused.
fn is_not_a_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket(path) => write!(f, "{}: no such socket; start the back-end first", path.display()),
            Self::Refused(path) => {
                write!(f, "{}: nobody listens on this socket; start the back-end again", path.display())
            }
            Self::NotASocket(path) => {
                write!(f, "{}: not a stream socket; name the one the back-end listens on", path.display())
            }
            Self::Permission(path) => {
                write!(f, "{}: permission denied; this user needs write access to the socket", path.display())
            }
            Self::BadPath(path) => {
                write!(f, "{}: no path for a socket; use one of 1 to 107 bytes", path.display())
            }
            Self::Options(what) => write!(f, "vhost-user options: {what}"),
            Self::Timeout(path, during) => write!(
                f,
                "{}: no answer to {during} in time; see whether the back-end serves another front-end or hangs",
                path.display()
            ),
            Self::Closed(path, during) => {
                write!(f, "{}: the back-end hung up at {during}; see its log", path.display())
            }
            Self::Nack(path, during) => {
                write!(f, "{}: the back-end answered {during} with an error; see its log", path.display())
            }
            Self::Protocol(path, error) => {
                write!(f, "{}: not a vhost-user back-end, or a broken one: {error}", path.display())
            }
            Self::Unusable(path, what) => write!(f, "{}: {what}; use another back-end", path.display()),
            Self::Os(path, number) => {
                write!(f, "{}: {}", path.display(), std::io::Error::from_raw_os_error(*number))
            }
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<ConnectError> for TransportError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NoSocket(_) | ConnectError::Refused(_) | ConnectError::Closed(..) => {
                Self::Disconnected
            }
            ConnectError::NotASocket(_) => Self::Unsupported("the path is not a socket"),
            ConnectError::Permission(_) => Self::Os(Errno::ACCESS.raw_os_error()),
            ConnectError::BadPath(_) => Self::Os(Errno::NAMETOOLONG.raw_os_error()),
            ConnectError::Options(what) | ConnectError::Unusable(_, what) => Self::Unsupported(what),
            ConnectError::Timeout(..) => Self::Timeout,
            ConnectError::Nack(_, during) => Self::Refused(during),
            ConnectError::Protocol(_, error) => Self::Protocol(describe(&error)),
            ConnectError::Os(_, number) => Self::Os(number),
        }
    }
}

/// A message that did not do what it should, by its protocol name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) during: &'static str,
    pub(super) why: Failure,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// No answer in time.
    Timeout,
    /// The other end hung up.
    Closed,
    /// Answered with an error.
    Nack,
    /// The back-end cannot do what is needed.
    Unusable(&'static str),
    /// A rule of the protocol is broken.
    Protocol(codec::Error),
    /// The operating system.
    Os(Errno),
}

impl Failure {
    /// Whether the connection is of no use after it.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Nack | Self::Unusable(_))
    }
}

impl From<Failed> for TransportError {
    fn from(Failed { during, why }: Failed) -> Self {
        match why {
            Failure::Timeout => Self::Timeout,
            Failure::Closed => Self::Disconnected,
            Failure::Nack => Self::Refused(during),
            Failure::Unusable(what) => Self::Unsupported(what),
            Failure::Protocol(error) => Self::Protocol(describe(&error)),
            Failure::Os(error) => Self::Os(error.raw_os_error()),
        }
    }
}

/// The codec's error in the words that a [`TransportError`] can carry.
fn describe(error: &codec::Error) -> &'static str {
    match error {
        codec::Error::Version { .. } => "vhost-user: another version of the protocol",
        codec::Error::Flags { .. } => "vhost-user: unknown header flags",
        codec::Error::Direction { .. } => "vhost-user: a request where a reply belongs",
        codec::Error::TooLong { .. } | codec::Error::Length { .. } => {
            "vhost-user: a message of the wrong size"
        }
        codec::Error::TooManyFds { .. } | codec::Error::Fds { .. } => {
            "vhost-user: the wrong number of descriptors with a message"
        }
        codec::Error::Mismatch { .. } => "vhost-user: an answer to something else than was asked",
        codec::Error::Unsolicited { .. } => "vhost-user: an answer to nothing",
        _ => "vhost-user: a message with a value that cannot be",
    }
}
