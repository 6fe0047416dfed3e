//! A port at a Unix socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use virtio_kit_devices::console::{Input, Output, PortBackend, PortLink};

use super::line::{Ends, FdPort};

/// A port to which one program at a time connects. While none is connected the driver is told that nobody is there.
#[derive(Debug)]
pub struct SocketPort {
    port: FdPort,
}

impl SocketPort {
    /// Listens at `path`, which must not exist. To be plugged in as disconnected.
    pub fn listen(path: impl AsRef<Path>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let listener = Some(Arc::new(OwnedFd::from(listener)));
        Ok(Self { port: FdPort::over(Ends { listener, ..Ends::default() })? })
    }
}

impl PortBackend for SocketPort {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        Box::new(self.port).start(link)
    }
}
