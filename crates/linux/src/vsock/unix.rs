//! The paths of a guest, and where its requests go.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};
use virtio_kit_devices::vsock::{Kind, Request, Router};

use super::wakeups::Wakeups;
use crate::vhost_user::back_end::{BindError, Listener};

/// Requests of the guest that wait for the proxy.
const MOST_REQUESTS: usize = 256;

/// Most programs that wait to be heard.
const BACKLOG: i32 = 128;

/// The host as a guest sees it: whoever listens at Unix sockets. The guest's requests go to this, and its
/// [`Proxy`](super::Proxy) serves them.
#[derive(Debug)]
pub struct UnixHost {
    path: PathBuf,
    streams: Listener,
    packets: Packets,
    pub(super) wakeups: Arc<Wakeups>,
    requests: Mutex<VecDeque<Request>>,
}

impl UnixHost {
    /// Listens at `path`, and at the same with `_seqpacket` after it. Sockets there that nobody listens at any more are
    /// taken out of the way.
    pub fn bind(path: impl AsRef<Path>) -> Result<Arc<Self>, BindError> {
        let path = path.as_ref();
        let streams = Listener::bind(path)?;
        let packets = Packets::bind(with(path, "_seqpacket"))?;
        let wakeups = Wakeups::new().map_err(|error| BindError::Os(path.into(), error))?;
        Ok(Arc::new(Self { path: path.into(), streams, packets, wakeups, requests: Mutex::default() }))
    }

    /// Where programs of the host connect.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guest's requests that nobody has dealt with.
    pub(super) fn next_request(&self) -> Option<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Connects to whoever listens for the guest at a port.
    pub(super) fn reach(&self, kind: Kind, port: u32) -> Result<OwnedFd, Errno> {
        let kind = match kind {
            Kind::Stream => SocketType::STREAM,
            Kind::Seqpacket => SocketType::SEQPACKET,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(with(&self.path, &format!("_{port}")))?)?;
        Ok(socket)
    }

    /// The next program that has connected.
    pub(super) fn accept(&self, kind: Kind) -> io::Result<Option<OwnedFd>> {
        let socket = match kind {
            Kind::Stream => self.streams.accept()?.map(OwnedFd::from),
            Kind::Seqpacket => {
                match accept_with(&self.packets.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(socket) => Some(socket),
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => None,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        Ok(socket)
    }

    pub(super) fn listener(&self, kind: Kind) -> BorrowedFd<'_> {
        match kind {
            Kind::Stream => self.streams.as_fd(),
            Kind::Seqpacket => self.packets.socket.as_fd(),
        }
    }
}

impl Router for UnixHost {
    fn route(&self, request: Request) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond that they are refused.
        if requests.len() < MOST_REQUESTS {
            requests.push_back(request);
            drop(requests);
            self.wakeups.ring();
        } else {
            drop(requests);
            drop(request);
        }
    }
}

/// A path with something after it.
fn with(path: &Path, more: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(more);
    path.into()
}

/// A listening socket of sequenced packets, whose name is gone when it is dropped.
#[derive(Debug)]
struct Packets {
    socket: OwnedFd,
    path: PathBuf,
}

impl Packets {
    /// Only for whoever listens at the path beside it, so that nobody else listens here.
    fn bind(path: PathBuf) -> Result<Self, BindError> {
        let failed = |error: Errno| match error {
            Errno::INVAL | Errno::NAMETOOLONG => BindError::BadPath(path.clone()),
            error => BindError::Os(path.clone(), error.into()),
        };
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        if let Ok(there) = std::fs::symlink_metadata(&path) {
            if !there.file_type().is_socket() {
                return Err(BindError::NotASocket(path));
            }
            std::fs::remove_file(&path).map_err(|error| BindError::Os(path.clone(), error))?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
        bind(&socket, &address).map_err(failed)?;
        listen(&socket, BACKLOG).map_err(failed)?;
        Ok(Self { socket, path })
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        // Whoever took it away has done so already.
        let _ = std::fs::remove_file(&self.path);
    }
}
