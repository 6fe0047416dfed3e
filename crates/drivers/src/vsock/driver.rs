//! Registering for socket devices, and taking one.

use super::device::Vsock;
use super::receive::{FillError, Receive};
use super::shared::{Incoming, Shared};
use super::transmit::Transmit;
use super::{Error, Kinds, Limits};
use alloc::boxed::Box;
use alloc::sync::Arc;
use atomic_waker::AtomicWaker;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::driver::{Device, Found, Setup, Virtqueue, VqOptions};
use virtio_kit::spec::vsock::{Config, EVENT_QUEUE, Event, F, Header, RX_QUEUE, TX_QUEUE};
use virtio_kit::transport::TransportError;
use virtio_kit::vsock::{Link, Listeners, Scratch};
use virtio_kit::{AnyChain, DeviceId, Features};

/// What the driver can do: everything that it takes if the device offers it.
const FEATURES: Features = F::STREAM.union(F::SEQPACKET).union(F::NO_IMPLIED_STREAM);

/// Buffers for events: there is one event, and it matters only that it is told.
const EVENTS: u16 = 4;

/// What a driver's user wants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Buffers of each direction.
    pub buffers: u16,
    /// Bytes of a buffer, which holds a packet with its header of 44 bytes; at least 64.
    pub bytes: usize,
    /// Bounds on connections.
    pub limits: Limits,
    /// Features to leave alone although the driver could use them, those of the rings among them.
    pub without: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self { buffers: 64, bytes: 4096, limits: Limits::default(), without: Features::EMPTY }
    }
}

/// The driver, to be registered on a bus. Each device that it takes goes to `attach`.
pub struct VsockDriver<A> {
    options: Options,
    attach: A,
}

impl<A: Fn(Vsock)> VsockDriver<A> {
    /// A driver that hands its devices to `attach`.
    pub fn new(options: Options, attach: A) -> Self {
        Self { options, attach }
    }
}

fn queue<C: AnyChain>(setup: &mut Setup, index: u16, buffers: u16) -> Result<Virtqueue<C, ()>, ProbeError> {
    let max_size = buffers.max(1).checked_next_power_of_two().unwrap_or(1 << 15);
    Ok(setup.new_vq(index, VqOptions { max_size, ..VqOptions::default() })?)
}

/// Takes a device without a bus: what it is to its user, and what keeps it running.
pub fn open(found: Found, options: &Options) -> Result<(Vsock, VsockDevice), ProbeError> {
    let mut setup = found.without(options.without).negotiate(FEATURES)?;
    let features = setup.features();
    let config: Config = setup.read_config()?;
    // The upper half is reserved (5.10.4).
    let cid = config.guest_cid.get() & 0xffff_ffff;
    let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
    let (buffers, bytes) = (options.buffers, options.bytes.max(64));
    let listeners = Listeners::new();
    let link = Link::new(options.limits, Kinds::of(features), Arc::new(listeners.clone()));
    link.set_near(cid);
    let packets = queue(&mut setup, RX_QUEUE, buffers)?;
    let packets = Receive::new(packets, &arena, buffers, bytes).map_err(failed)?;
    let transmit = Transmit::new(queue(&mut setup, TX_QUEUE, buffers)?, &arena, buffers, bytes)?;
    let events = queue(&mut setup, EVENT_QUEUE, EVENTS)?;
    let events = Receive::new(events, &arena, EVENTS, Event::SIZE).map_err(failed)?;
    let device = setup.start()?;
    const { assert!(Header::SIZE < 64) };
    let shared = Arc::new(Shared {
        link,
        listeners,
        receive: Mutex::new(Incoming { packets, events, scratch: Scratch::default() }),
        transmit: Mutex::new(transmit),
        device: Mutex::new(Some(device)),
        cid: AtomicU64::new(cid),
        resets: AtomicU32::new(0),
        needs_reset: AtomicBool::new(false),
        config_changed: AtomicBool::new(false),
        owner: AtomicWaker::new(),
    });
    Ok((Vsock::new(shared.clone(), features), VsockDevice { shared }))
}

fn failed(error: FillError) -> ProbeError {
    match error {
        FillError::Memory(error) => error.into(),
        FillError::Queue(Error::Transport(error)) => error.into(),
        FillError::Queue(_) => ProbeError::BadConfig("its queues break before they are used"),
    }
}

impl<A: Fn(Vsock) + Send + Sync> Driver for VsockDriver<A> {
    fn name(&self) -> &str {
        "virtio-vsock"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::SOCKET)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (vsock, device) = open(found, &self.options)?;
        (self.attach)(vsock);
        Ok(Box::new(device))
    }
}

/// What keeps a socket device running. Dropped, the device is reset, and its connections are over.
pub struct VsockDevice {
    shared: Arc<Shared>,
}

impl VsockDevice {
    /// Has the device as any driver has it do something; `None` once it is removed.
    pub fn with_device<R>(&mut self, work: impl FnOnce(&mut Device) -> R) -> Option<R> {
        self.shared.device.lock().as_mut().map(work)
    }

    /// Resets the device with nothing locked: queues' owners are told.
    fn end(&mut self) -> Option<Found> {
        let device = self.shared.device.lock().take();
        let found = device?.reset().ok();
        self.shared.link.reset();
        self.shared.owner.wake();
        found
    }
}

impl Bound for VsockDevice {
    fn config_changed(&mut self) {
        let needs_reset = self.with_device(|device| device.needs_reset());
        if needs_reset != Some(Ok(false)) {
            self.shared.needs_reset.store(true, Ordering::Relaxed);
        }
        self.shared.config_changed.store(true, Ordering::Release);
        self.shared.owner.wake();
    }

    fn remove(mut self: Box<Self>) -> Option<Found> {
        self.end()
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for VsockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VsockDevice(cid {})", self.shared.cid())
    }
}
