//! A port at a Unix socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use virtio_kit_devices::console::{Input, Output, PortBackend, PortLink};

use super::line::{Ends, FdPort};
use crate::vhost_user::back_end::Listener;

/// A port to which one program at a time connects. While none is connected the driver is told that nobody is there.
#[derive(Debug)]
pub struct SocketPort {
    port: FdPort,
    listener: Option<Listener>,
}

impl SocketPort {
    /// Listens at `path`, which must not exist. To be plugged in as disconnected.
    pub fn listen(path: impl AsRef<Path>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Self::over(listener.into(), None)
    }

    /// Listens where a listener does, whose name is gone with the port. To be plugged in as disconnected.
    pub fn at(listener: Listener) -> io::Result<Self> {
        Self::over(listener.as_fd().try_clone_to_owned()?, Some(listener))
    }

    fn over(socket: OwnedFd, listener: Option<Listener>) -> io::Result<Self> {
        let socket = Some(Arc::new(socket));
        Ok(Self { port: FdPort::over(Ends { listener: socket, ..Ends::default() })?, listener })
    }
}

impl PortBackend for SocketPort {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        let (input, output) = Box::new(self.port).start(link);
        (Box::new(WithListener { input, _listener: self.listener }), output)
    }
}

struct WithListener {
    input: Box<dyn Input>,
    _listener: Option<Listener>,
}

impl Input for WithListener {
    fn poll(&mut self, to: &mut [u8]) -> usize {
        self.input.poll(to)
    }
}
