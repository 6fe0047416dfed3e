//! The driver's end of vhost-user: a [`Transport`](virtio_kit::transport::Transport) over a Unix socket to a
//! back-end such as qemu-storage-daemon.
//!
//! [`FrontEnd::connect`] makes shared memory, connects and agrees on protocol features; the rest is the
//! transport's. Kicks and calls are event descriptors, so that the data path exchanges no messages.
//!
//! | what | how |
//! |---|---|
//! | device type, queue size | from [`Options`]: no message asks for them |
//! | status | the back-end's with `STATUS`; kept here without it, where FEATURES_OK stays if all that is accepted is offered and SET_FEATURES is not refused |
//! | queues | written down when enabled, sent at DRIVER_OK |
//! | reset | SET_VRING_ENABLE 0 and GET_VRING_BASE for each queue, which says that the back-end is through with it; then RESET_DEVICE and status 0, where agreed on |
//! | a dead socket | [`Disconnected`](virtio_kit::transport::TransportError::Disconnected): nothing says that the back-end is through, so the arena is retired by who resets |
//!
//! # When the back-end is started again
//!
//! With [`Options::reconnect`] and a back-end that keeps the record of what is in flight (`INFLIGHT_SHMFD`),
//! whoever waits for a queue, or asks something of the device, connects anew when the back-end hangs up. The new
//! one must offer all that was agreed on. It gets the record before the memory, the same rings, and as base of a
//! split ring the used index, of a packed ring the position up to which the record says that all is used; then
//! every queue is kicked and every interrupt half run, so that nothing is lost that happened in between.
//!
//! Without the record it is not tried: what a back-end took and did not use would be lost without a trace, or
//! done twice. Nor is it after a back-end that did not answer or broke the protocol, since it may still run.

mod channel;
mod config;
mod error;
mod inflight;
mod lines;
mod options;
mod rings;
mod session;
mod shared;
mod socket;
mod transport;

pub use error::ConnectError;
pub use options::{IMPLEMENTED, Options};
pub use shared::Dispatcher;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use virtio_kit::device::ConfigNotice;
use virtio_kit_ring::Arena;
use virtio_kit_spec::{DeviceId, Features};

use self::session::Session;
use self::shared::Shared;
use crate::shared_memory::MemfdMemory;
use crate::vhost_user::codec::ProtocolFeatures;

/// A connection to a vhost-user back-end, with the memory that it shares.
pub struct FrontEnd {
    shared: Arc<Shared>,
    arena: Arena,
    device: DeviceId,
    /// The user's limit.
    features: Features,
    /// The back-end has taken the driver's features.
    features_ok: bool,
}

impl FrontEnd {
    /// Connects to the back-end that listens at `path`, within [`Options::patience`] and [`Options::timeout`].
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        options.check().map_err(ConnectError::Options)?;
        let stream = socket::open(path, options.patience, options.timeout)
            .map_err(|error| ConnectError::os(path, error))?;
        Self::new(stream, Some(path), options)
    }

    /// Takes a socket that is connected already, to a back-end that is the client for instance. There is no
    /// path at which to connect anew.
    pub fn over(stream: UnixStream, mut options: Options) -> Result<Self, ConnectError> {
        options.check().map_err(ConnectError::Options)?;
        options.reconnect = None;
        Self::new(stream, None, options)
    }

    fn new(stream: UnixStream, path: Option<&Path>, options: Options) -> Result<Self, ConnectError> {
        let named = path.unwrap_or(Path::new("the socket"));
        let (device, features) = (options.device, options.features);
        let memory = MemfdMemory::new(options.arena_len).map_err(|error| ConnectError::os(named, error))?;
        let session = Session::new(stream, path, options, &memory)?;
        let no_arena = |_| ConnectError::os(named, Errno::NOMEM);
        let arena = Arena::new(memory).map_err(no_arena)?;
        Ok(Self { shared: Shared::new(session), arena, device, features, features_ok: false })
    }

    /// The protocol features agreed on.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.shared.session().protocol
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        self.shared.session().queue_count
    }

    /// Counts changes of the device's configuration, with `BACKEND_REQ`; for a bus to poll.
    pub fn config_notice(&self) -> Arc<ConfigNotice> {
        self.shared.session().notice.clone()
    }

    /// What runs callbacks and wakes tasks; it can be kept when the front-end is given to a bus.
    pub fn dispatcher(&self) -> Dispatcher {
        Dispatcher { shared: self.shared.clone() }
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        // Queues that are not shut down yet hold on to what is shared; the back-end is not to wait for them.
        self.shared.session().hang_up();
    }
}

impl fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.shared.session();
        f.debug_struct("FrontEnd")
            .field("path", &session.path)
            .field("device", &self.device)
            .field("protocol_features", &session.protocol)
            .finish_non_exhaustive()
    }
}
