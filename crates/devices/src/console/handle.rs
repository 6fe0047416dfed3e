//! By which ports come and go while the device runs.

use super::backend::{PortBackend, PortLink};
use super::state::{Shared, Size};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

/// A port to be plugged in.
pub struct Port {
    pub(super) backend: Box<dyn PortBackend>,
    pub(super) name: Option<String>,
    pub(super) console: bool,
    pub(super) connected: bool,
    pub(super) size: Option<Size>,
}

impl Port {
    /// A port without a name, at whose other end somebody is.
    pub fn new(backend: impl PortBackend + 'static) -> Self {
        Self { backend: Box::new(backend), name: None, console: false, connected: true, size: None }
    }

    /// The same with a name, of which drivers take at least 255 bytes.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same as a console: for people.
    pub fn console(self) -> Self {
        Self { console: true, ..self }
    }

    /// The same with a size, which is told to the driver of a console.
    pub fn sized(self, size: Size) -> Self {
        Self { size: Some(size), ..self }
    }

    /// The same, and nobody is at the other end until the back-end says so.
    pub fn disconnected(self) -> Self {
        Self { connected: false, ..self }
    }
}

/// By which ports come and go, and are resized, while the device runs. Clones are for other threads.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Plugs a port in at a free number.
    pub fn plug(&self, id: u16, port: Port) -> Result<(), PlugError> {
        let plugged = self.shared.reserve(id)?;
        let Port { backend, name, console, connected, size } = port;
        let halves = backend.start(PortLink::new(Arc::downgrade(&self.shared), id, plugged));
        self.shared.plug(id, halves, name, console, connected, size);
        Ok(())
    }

    /// Removes a port: its back-end is dropped when its queues have next run.
    pub fn unplug(&self, id: u16) -> Result<(), PlugError> {
        self.shared.unplug(id)
    }

    /// A port has another size from now on. Of port 0 the configuration tells it, if it had a size to begin with;
    /// consoles are told by a message.
    pub fn resize(&self, id: u16, size: Size) -> Result<(), PlugError> {
        self.shared.resize(id, size)
    }

    /// Whether the driver has a port open.
    pub fn is_open(&self, id: u16) -> bool {
        self.shared.is_open(id)
    }

    /// How many control messages of the driver had no meaning and were ignored.
    pub fn ignored(&self) -> u64 {
        self.shared.ignored()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({} ports at most)", self.shared.max_ports())
    }
}

/// Why a port was not plugged in, removed or resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlugError {
    /// The device can have no port of this number.
    Beyond(u16),
    /// There is a port of this number.
    Taken(u16),
    /// There is no port of this number.
    NoPort(u16),
}

impl fmt::Display for PlugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beyond(id) => write!(f, "port {id} is beyond the device's ports"),
            Self::Taken(id) => write!(f, "there is a port {id} already"),
            Self::NoPort(id) => write!(f, "there is no port {id}"),
        }
    }
}

impl core::error::Error for PlugError {}
