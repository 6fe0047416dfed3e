//! Registering for block devices, and the device as a whole.

use super::info::Info;
use super::queue::BlkQueue;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};
use portable_atomic::AtomicU64;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::driver::{Device, Found, VqOptions};
use virtio_kit::ring::driver::Indirect;
use virtio_kit::spec::blk::{Config, F};
use virtio_kit::transport::TransportError;
use virtio_kit::{DeviceId, Features, Parts};

/// What the driver can do: everything that it takes if the device offers it.
const FEATURES: Features = F::SIZE_MAX
    .union(F::SEG_MAX)
    .union(F::GEOMETRY)
    .union(F::RO)
    .union(F::BLK_SIZE)
    .union(F::FLUSH)
    .union(F::TOPOLOGY)
    .union(F::CONFIG_WCE)
    .union(F::MQ)
    .union(F::DISCARD)
    .union(F::WRITE_ZEROES)
    .union(F::SECURE_ERASE);

/// What a driver's user wants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most request queues; the device may have fewer.
    pub queues: u16,
    /// Most descriptors of a queue; the device may have fewer.
    pub queue_size: u16,
    /// Most data buffers of a request; the device may take fewer.
    pub segments: u16,
    /// Features to leave alone although the driver could use them, those of the rings among them.
    pub without: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self { queues: 1, queue_size: 256, segments: 126, without: Features::EMPTY }
    }
}

/// What all queues of a device, and the bus's side of it, know.
#[derive(Debug)]
pub(super) struct Shared {
    sectors: AtomicU64,
    needs_reset: AtomicBool,
}

impl Shared {
    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }
}

/// A block device that was taken: its queues, and what is known of it.
pub struct Blk<D: Parts, T> {
    /// The request queues, to be used by one thread each.
    pub queues: Vec<BlkQueue<D, T>>,
    /// What the device says of itself.
    pub info: Info,
    /// The features agreed on.
    pub features: Features,
    /// What goes on with the device as a whole.
    pub control: BlkControl,
}

/// What goes on with a block device as a whole, while its queues are elsewhere.
#[derive(Clone, Debug)]
pub struct BlkControl(Arc<Shared>);

impl BlkControl {
    /// Length in sectors, now.
    pub fn sectors(&self) -> u64 {
        self.0.sectors()
    }

    /// Whether the device has said that it needs a reset: nothing more can be expected of it.
    pub fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Relaxed)
    }
}

impl<D: Parts, T> fmt::Debug for Blk<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blk")
            .field("queues", &self.queues.len())
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// The driver, to be registered on a bus. Each device that it takes goes to `attach`.
pub struct BlkDriver<D, T, A> {
    options: Options,
    attach: A,
    kind: PhantomData<fn() -> (D, T)>,
}

impl<D: Parts, T, A: Fn(Blk<D, T>)> BlkDriver<D, T, A> {
    /// A driver that hands its devices to `attach`.
    pub fn new(options: Options, attach: A) -> Self {
        Self { options, attach, kind: PhantomData }
    }
}

/// Takes a device without a bus: what it is to its user, and what keeps it running.
pub fn open<D: Parts, T>(found: Found, options: &Options) -> Result<(Blk<D, T>, BlkDevice), ProbeError> {
    // A legacy block device differs in nothing that is used here: header, data and status are descriptors of their own.
    let mut setup = found.without(options.without).or_legacy().negotiate(FEATURES)?;
    let features = setup.features();
    let config: Config = setup.read_config()?;
    let info = Info::new(&config, features);
    if !info.block_size.is_power_of_two() {
        return Err(ProbeError::BadConfig("the block size is no power of two"));
    }
    let shared =
        Arc::new(Shared { sectors: AtomicU64::new(info.sectors), needs_reset: AtomicBool::new(false) });
    let segments = info.limits.segments.min(options.segments.into()).max(1) as u16;
    let mut info = info;
    info.limits.segments = segments.into();
    let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
    let count = info.queues.min(options.queues.max(1));
    let mut queues = Vec::new();
    for index in 0..count {
        // Header, data, status. A few short requests go straight into the ring, which is the fastest; when more
        // are in flight each takes one descriptor, so that there can be hundreds.
        let size = options.queue_size.min(setup.max_queue_size(index)?);
        let indirect = Some(Indirect { max_parts: segments + 2, direct_up_to: 4, keep_free: size / 4 * 3 });
        let queue =
            setup.new_vq(index, VqOptions { max_size: options.queue_size, indirect, callback: None })?;
        queues.push(BlkQueue::new(queue, shared.clone(), info.clone(), arena.clone())?);
    }
    let device = setup.start()?;
    let control = BlkControl(shared.clone());
    Ok((Blk { queues, info, features, control }, BlkDevice { device, shared }))
}

impl<D, T, A> Driver for BlkDriver<D, T, A>
where
    D: Parts + 'static,
    T: Send + 'static,
    A: Fn(Blk<D, T>) + Send + Sync,
{
    fn name(&self) -> &str {
        "virtio-blk"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::BLOCK)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (blk, device) = open(found, &self.options)?;
        (self.attach)(blk);
        Ok(Box::new(device))
    }
}

/// What keeps a block device running. Dropped, the device is reset, and what is in flight comes back.
#[derive(Debug)]
pub struct BlkDevice {
    device: Device,
    shared: Arc<Shared>,
}

impl BlkDevice {
    /// Turns the device's volatile cache on or off (5.2.5.2), if it lets us.
    pub fn set_writeback(&mut self, on: bool) -> Result<(), TransportError> {
        if !self.device.features().contains(F::CONFIG_WCE) {
            return Err(TransportError::Unsupported("the cache mode cannot be changed"));
        }
        self.device.write_config(core::mem::offset_of!(Config, writeback), &u8::from(on))
    }

    /// Reads what the device says of itself now.
    pub fn info(&mut self) -> Result<Info, TransportError> {
        let config: Config = self.device.read_config()?;
        Ok(Info::new(&config, self.device.features()))
    }

    /// Resets one queue, if the device can (2.6.1): what was in flight comes back from it as
    /// [`RequestError::Removed`](super::RequestError::Removed), and the other queues go on.
    pub fn reset_queue<D: Parts, T>(&mut self, queue: &BlkQueue<D, T>) -> Result<(), TransportError> {
        self.device.reset_vq(queue.virtqueue()).map(|_| ())
    }

    /// Starts a queue again that was reset, once it has given everything back and says that it is stopped.
    pub fn restart_queue<D: Parts, T>(&mut self, queue: &mut BlkQueue<D, T>) -> Result<(), TransportError> {
        self.device.enable_vq(queue.virtqueue_mut())
    }

    /// The device as any driver has it.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }
}

impl Bound for BlkDevice {
    fn config_changed(&mut self) {
        match self.device.needs_reset() {
            Ok(false) => {}
            _ => self.shared.needs_reset.store(true, Ordering::Relaxed),
        }
        // A device that cannot be read keeps the size it had.
        if let Ok(info) = self.info() {
            self.shared.sectors.store(info.sectors, Ordering::Relaxed);
        }
    }

    fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::Relaxed)
    }

    fn remove(self: Box<Self>) -> Option<Found> {
        self.device.reset().ok()
    }
}
