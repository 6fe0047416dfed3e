//! The socket that front-ends connect to.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listening socket, whose name is gone when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the name that was made.
    made: Option<(u64, u64)>,
}

/// Why there is no socket at a path.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there.
    InUse(PathBuf),
    /// Something else than a socket is there.
    NotASocket(PathBuf),
    /// The path is empty or longer than a socket's can be.
    BadPath(PathBuf),
    /// Anything else.
    Os(PathBuf, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => {
                write!(
                    f,
                    "{}: somebody serves this socket already; stop them or choose another",
                    path.display()
                )
            }
            Self::NotASocket(path) => {
                write!(f, "{}: there is something else than a socket; choose another name", path.display())
            }
            Self::BadPath(path) => {
                write!(f, "{}: no path for a socket; use one of 1 to 107 bytes", path.display())
            }
            Self::Os(path, error) => match error.kind() {
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "{}: permission denied; choose a folder that this user can write to",
                    path.display()
                ),
                io::ErrorKind::NotFound => {
                    write!(f, "{}: no such folder; create it or choose another", path.display())
                }
                _ => write!(f, "{}: {error}", path.display()),
            },
        }
    }
}

impl std::error::Error for BindError {}

impl Listener {
    /// Listens at `path`. A socket that nobody listens on any more is taken out of the way.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, BindError> {
        let path = path.as_ref();
        let os = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidInput => BindError::BadPath(path.into()),
            _ => BindError::Os(path.into(), error),
        };
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(path).map_err(os)??;
                UnixListener::bind(path).map_err(os)?
            }
            bound => bound.map_err(os)?,
        };
        socket.set_nonblocking(true).map_err(os)?;
        let made = std::fs::symlink_metadata(path).ok().map(|made| (made.dev(), made.ino()));
        Ok(Self { socket, path: path.into(), made })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next front-end; `None` if there is none waiting.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> io::Result<Result<(), BindError>> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(Err(BindError::NotASocket(path.into())));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            Ok(Ok(()))
        }
        // Somebody accepts, or is too busy to, or we may not ask.
        _ => Ok(Err(BindError::InUse(path.into()))),
    }
}

/// Ready to read when somebody wants to connect.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not if somebody has put another socket there meanwhile.
        let now = std::fs::symlink_metadata(&self.path).ok().map(|now| (now.dev(), now.ino()));
        if now.is_some() && now == self.made {
            // Removed by somebody else, perhaps.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("vk-listener-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_dead_socket_makes_way_and_a_live_one_does_not() {
        let folder = folder("dead");
        let path = folder.join("s");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let line = Listener::bind(&path).unwrap_err().to_string();
        assert!(line.contains("serves this socket already"), "{line}");
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(Listener::bind(&path), Err(BindError::NotASocket(_))));
        assert!(matches!(Listener::bind(folder.join("x".repeat(200))), Err(BindError::BadPath(_))));
        let line = Listener::bind(folder.join("no/s")).unwrap_err().to_string();
        assert!(line.contains("no such folder"), "{line}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn somebody_elses_socket_is_left_alone() {
        let folder = folder("other");
        let path = folder.join("s");
        let listener = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
