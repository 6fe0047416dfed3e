//! A port at a pseudo-terminal.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use virtio_kit_devices::console::{Input, Output, PortBackend, PortLink};

use super::line::FdPort;

/// A port whose other end is a terminal device, for programs that want one.
#[derive(Debug)]
pub struct PtyPort {
    port: FdPort,
    /// Kept open: the end of whoever has the terminal open is not the end of the port.
    slave: OwnedFd,
    path: PathBuf,
}

impl PtyPort {
    /// Makes a pseudo-terminal, in raw mode.
    pub fn open() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = PathBuf::from(OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&path, flags, Mode::empty())?;
        super::raw::make_raw(&slave)?;
        let output = master.try_clone()?;
        Ok(Self { port: FdPort::new(master, output)?, slave, path })
    }

    /// The terminal device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl PortBackend for PtyPort {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        let (input, output) = Box::new(self.port).start(link);
        (Box::new(WithSlave { input, _slave: self.slave }), output)
    }
}

struct WithSlave {
    input: Box<dyn Input>,
    _slave: OwnedFd,
}

impl Input for WithSlave {
    fn poll(&mut self, to: &mut [u8]) -> usize {
        self.input.poll(to)
    }
}
