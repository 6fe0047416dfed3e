//! Registering for network devices, and the device as a whole.

use super::control::{Command, Context, ControlQueue};
use super::error::{ControlError, Error};
use super::frame::Shape;
use super::info::{Info, State, fields};
use super::offload::{GUEST_LARGE, Rules};
use super::rx::{RxChain, RxQueue};
use super::tx::{TxChain, TxQueue};
use super::{Duplex, MAX_FRAME, Mac};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use core::time::Duration;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::clock::Clock;
use virtio_kit::driver::{Device, Found, Setup, Virtqueue, VqOptions};
use virtio_kit::ring::driver::Indirect;
use virtio_kit::spec::net::{Config, F, SPEED_UNKNOWN, queue};
use virtio_kit::transport::TransportError;
use virtio_kit::{DeviceId, F as Generic, Features};

/// What the driver can do: everything that it takes if the device offers it and the options do not say no.
const FEATURES: Features = F::CSUM
    .union(F::GUEST_CSUM)
    .union(F::CTRL_GUEST_OFFLOADS)
    .union(F::MTU)
    .union(F::MAC)
    .union(F::GUEST_TSO4)
    .union(F::GUEST_TSO6)
    .union(F::GUEST_ECN)
    .union(F::HOST_TSO4)
    .union(F::HOST_TSO6)
    .union(F::HOST_ECN)
    .union(F::MRG_RXBUF)
    .union(F::STATUS)
    .union(F::CTRL_VQ)
    .union(F::CTRL_RX)
    .union(F::CTRL_VLAN)
    .union(F::CTRL_RX_EXTRA)
    .union(F::GUEST_ANNOUNCE)
    .union(F::MQ)
    .union(F::CTRL_MAC_ADDR)
    .union(F::VQ_NOTF_COAL)
    .union(F::NOTF_COAL)
    .union(F::GUEST_USO4)
    .union(F::GUEST_USO6)
    .union(F::HOST_USO)
    .union(F::HASH_REPORT)
    .union(F::GUEST_HDRLEN)
    .union(F::RSS)
    .union(F::SPEED_DUPLEX);

/// What of it needs the control queue although 5.1.3.1 does not say so (5.1.4.2, 5.1.9.5.9).
const NEED_CONTROL: Features = F::HASH_REPORT.union(F::CTRL_RX_EXTRA).union(F::CTRL_GUEST_OFFLOADS);

/// What a driver's user wants.
#[derive(Clone)]
pub struct Options {
    /// Most queue pairs; the device may have fewer.
    pub pairs: u16,
    /// Use that many pairs although nothing was agreed on about them: for back-ends that serve whatever queues
    /// are enabled and leave control to others, as those of vhost-user do.
    pub pairs_without_control: bool,
    /// Most descriptors of a queue; the device may have fewer.
    pub queue_size: u16,
    /// Bytes of each receive buffer, at least 256: a frame that is longer is spread over several if the device
    /// can (MRG_RXBUF). If it cannot, buffers are made as long as its frames get, and it is not asked to coalesce
    /// what it receives unless this is 65609 or more.
    pub buffer_len: usize,
    /// Most buffers of a frame to be sent.
    pub segments: u16,
    /// The address to use. The device is given it if it can be and has another.
    pub mac: Option<Mac>,
    /// Have received frames come with their hashes, if the device can (HASH_REPORT).
    pub hash_report: bool,
    /// Features to leave alone although the driver could use them, those of the rings among them. CTRL_VLAN is
    /// one to think of: with it, no tagged frame comes before its VLAN was added.
    pub without: Features,
    /// How long a control command may take.
    pub control_limit: Duration,
    /// What that is measured with.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// One pair of 256 descriptors, receive buffers of 2 KiB, frames of up to 18 buffers, 5 seconds for a
    /// command, no hashes.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            pairs: 1,
            pairs_without_control: false,
            queue_size: 256,
            buffer_len: 2048,
            segments: 18,
            mac: None,
            hash_report: false,
            without: Features::EMPTY,
            control_limit: Duration::from_secs(5),
            clock,
        }
    }

    /// What to take of what could be had.
    fn choose(&self, offered: Features) -> Features {
        let mut wanted = FEATURES;
        if !offered.contains(Generic::VERSION_1) {
            // Without it a legacy device may want headers in descriptors of their own (2.7.4.3).
            wanted |= Generic::ANY_LAYOUT;
        }
        if !offered.contains(F::CTRL_VQ) {
            wanted -= NEED_CONTROL;
        }
        if !self.hash_report {
            wanted -= F::HASH_REPORT;
        }
        if !offered.contains(F::MRG_RXBUF) && self.buffer_len < Rules::new(offered).header + MAX_FRAME {
            wanted -= GUEST_LARGE;
        }
        wanted
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("pairs", &self.pairs)
            .field("queue_size", &self.queue_size)
            .field("buffer_len", &self.buffer_len)
            .field("without", &self.without)
            .finish_non_exhaustive()
    }
}

/// What all parts of a device, and the bus's side of it, know.
#[derive(Debug)]
struct Shared {
    up: AtomicBool,
    announce: AtomicBool,
    speed: AtomicU32,
    duplex: AtomicU8,
    needs_reset: AtomicBool,
    changes: AtomicU32,
}

impl Shared {
    fn new(state: State) -> Self {
        let this = Self {
            up: AtomicBool::new(false),
            announce: AtomicBool::new(false),
            speed: AtomicU32::new(0),
            duplex: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
            changes: AtomicU32::new(0),
        };
        this.set(state);
        this
    }

    fn set(&self, state: State) {
        self.up.store(state.up, Ordering::Relaxed);
        self.announce.store(state.announce, Ordering::Relaxed);
        self.speed.store(state.speed.unwrap_or(SPEED_UNKNOWN), Ordering::Relaxed);
        self.duplex.store(state.duplex.unwrap_or(Duplex::UNKNOWN).0, Ordering::Relaxed);
    }
}

/// The link of a network device, as it was last announced, while its queues are elsewhere.
#[derive(Clone, Debug)]
pub struct Link(Arc<Shared>);

impl Link {
    /// Whether the link is up (STATUS); a device that does not say is taken to be.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Whether the device asks to be announced in its network (GUEST_ANNOUNCE): send a gratuitous packet, then
    /// [`acknowledge_announce`](ControlQueue::acknowledge_announce).
    pub fn announce(&self) -> bool {
        self.0.announce.load(Ordering::Relaxed)
    }

    pub(super) fn set_announce(&self, on: bool) {
        self.0.announce.store(on, Ordering::Relaxed);
    }

    /// Megabits per second (SPEED_DUPLEX).
    pub fn speed(&self) -> Option<u32> {
        Some(self.0.speed.load(Ordering::Relaxed)).filter(|&speed| speed != SPEED_UNKNOWN)
    }

    /// Half or full duplex (SPEED_DUPLEX).
    pub fn duplex(&self) -> Option<Duplex> {
        Some(Duplex(self.0.duplex.load(Ordering::Relaxed))).filter(|&duplex| duplex != Duplex::UNKNOWN)
    }

    /// How often the device has announced a change.
    pub fn changes(&self) -> u32 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Whether the device has said that it needs a reset: nothing more can be expected of it.
    pub fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Relaxed)
    }
}

/// A receive queue and a transmit queue, to be used by one thread each.
#[derive(Debug)]
pub struct Pair {
    /// What comes.
    pub rx: RxQueue,
    /// What goes.
    pub tx: TxQueue,
}

/// A network device that was taken: its queues, and what is known of it.
#[derive(Debug)]
pub struct Net {
    /// The queue pairs.
    pub pairs: Vec<Pair>,
    /// The control queue, if there is one (CTRL_VQ).
    pub control: Option<ControlQueue>,
    /// The link.
    pub link: Link,
    /// What the device says of itself. Its address is that of the options, if it has taken that.
    pub info: Info,
    /// The features agreed on.
    pub features: Features,
}

/// The driver, to be registered on a bus. Each device that it takes goes to `attach`.
#[derive(Debug)]
pub struct NetDriver<A> {
    options: Options,
    attach: A,
}

impl<A: Fn(Net)> NetDriver<A> {
    /// A driver that hands its devices to `attach`.
    pub fn new(options: Options, attach: A) -> Self {
        Self { options, attach }
    }
}

/// Takes a device without a bus: what it is to its user, and what keeps it running.
pub fn open(found: Found, options: &Options) -> Result<(Net, NetDevice), ProbeError> {
    // A legacy device differs in its header: without MRG_RXBUF it has 10 bytes (5.1.9.1).
    let found = found.without(options.without).or_legacy();
    let mut setup = found.negotiate_with(|offered| options.choose(offered))?;
    let features = setup.features();
    if !features.intersects(Generic::VERSION_1 | Generic::ANY_LAYOUT) {
        return Err(ProbeError::BadConfig("a legacy device without ANY_LAYOUT"));
    }
    let config: Config = setup.read_config_fields(&fields(features))?;
    let mut info = Info::new(&config, features)?;
    let shared = Arc::new(Shared::new(State::new(&config, features)));
    let count = match options.pairs_without_control {
        true if !features.intersects(F::MQ | F::RSS) => options.pairs.max(1),
        _ => info.pairs.min(options.pairs.max(1)),
    };
    let link = Link(shared.clone());
    let making = Making { rules: Rules::new(features), info: &info, options, link: &link };
    // First what most depends on the device's word.
    let mut control = making.control(&mut setup, count)?;
    let mut pairs = (0..count).map(|pair| making.pair(&mut setup, pair)).collect::<Result<Vec<_>, _>>()?;
    let device = setup.start()?;
    for pair in &mut pairs {
        pair.rx.start().map_err(probe_error)?;
    }
    if let Some(control) = &mut control {
        if count > 1 {
            control.use_all_pairs().map_err(control_error)?;
        }
        if let Some(mac) = options.mac
            && info.mac != Some(mac)
            && features.contains(F::CTRL_MAC_ADDR)
        {
            control.set_mac(mac).map_err(control_error)?;
        }
    }
    info.mac = options.mac.or(info.mac);
    Ok((Net { pairs, control, link, info, features }, NetDevice { device, shared }))
}

/// What queues are made with.
struct Making<'a> {
    rules: Rules,
    info: &'a Info,
    options: &'a Options,
    link: &'a Link,
}

impl Making<'_> {
    fn pair(&self, setup: &mut Setup, pair: u16) -> Result<Pair, ProbeError> {
        let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
        let (Ok(rx), Ok(tx)) = (u16::try_from(queue::rx(pair)), u16::try_from(queue::tx(pair))) else {
            return Err(ProbeError::BadConfig("more queue pairs than queues have numbers"));
        };
        let max_size = self.options.queue_size;
        let rx: Virtqueue<RxChain, ()> = setup.new_vq(rx, VqOptions { max_size, ..VqOptions::default() })?;
        // Header and frame are one descriptor if the frame leaves room for it. Frames in many buffers take a table.
        let segments = self.options.segments.max(1);
        let indirect = Some(Indirect { max_parts: segments + 1, direct_up_to: 4, keep_free: 0 });
        let tx: Virtqueue<TxChain, Shape> =
            setup.new_vq(tx, VqOptions { max_size, indirect, callback: None })?;
        let tx = TxQueue::new(tx, self.rules, self.info.mtu, segments.into(), arena.clone());
        Ok(Pair { rx: RxQueue::new(rx, self.rules, self.buffer_len(), arena)?, tx })
    }

    fn buffer_len(&self) -> usize {
        let wanted = self.options.buffer_len.max(256);
        let frame = if self.rules.receives_large() { MAX_FRAME } else { self.info.longest() };
        if self.rules.mergeable { wanted } else { wanted.max(self.rules.header + frame) }
    }

    fn control(&self, setup: &mut Setup, made: u16) -> Result<Option<ControlQueue>, ProbeError> {
        let features = setup.features();
        if !features.contains(F::CTRL_VQ) {
            return Ok(None);
        }
        let Ok(index) = u16::try_from(queue::control(features, self.info.pairs)) else {
            return Err(ProbeError::BadConfig("the control queue's number has more than 16 bits"));
        };
        let max_size = 16;
        let queue: Virtqueue<Command, u64> =
            setup.new_vq(index, VqOptions { max_size, ..VqOptions::default() })?;
        let context = Context {
            clock: self.options.clock.clone(),
            limit: self.options.control_limit,
            features,
            info: self.info.clone(),
            made,
            arena: setup.arena().ok_or(TransportError::Disconnected)?.clone(),
            link: self.link.clone(),
        };
        Ok(Some(ControlQueue::new(queue, context)))
    }
}

fn probe_error(error: Error) -> ProbeError {
    match error {
        Error::Transport(error) => error.into(),
        Error::Queue(_) => TransportError::Protocol("the device broke a queue").into(),
    }
}

fn control_error(error: ControlError) -> ProbeError {
    match error {
        ControlError::Timeout => TransportError::Timeout.into(),
        ControlError::Memory(error) => error.into(),
        ControlError::Queue(error) => probe_error(error),
        _ => TransportError::Refused("a control command of the start").into(),
    }
}

impl<A: Fn(Net) + Send + Sync> Driver for NetDriver<A> {
    fn name(&self) -> &str {
        "virtio-net"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::NETWORK)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (net, device) = open(found, &self.options)?;
        (self.attach)(net);
        Ok(Box::new(device))
    }
}

/// What keeps a network device running. Dropped, the device is reset, and what is in flight comes back.
#[derive(Debug)]
pub struct NetDevice {
    device: Device,
    shared: Arc<Shared>,
}

impl NetDevice {
    /// Resets the queues of a pair, if the device can (2.6.1): frames to be sent come back from the one as they do
    /// once a device is gone, and the other's buffers go back to the arena. Other pairs go on.
    pub fn reset_pair(&mut self, pair: &Pair) -> Result<(), TransportError> {
        self.device.reset_vq(pair.rx.virtqueue())?;
        self.device.reset_vq(pair.tx.virtqueue()).map(|_| ())
    }

    /// Starts a pair again that was reset, once its transmit queue has given everything back and says that it is
    /// stopped.
    pub fn restart_pair(&mut self, pair: &mut Pair) -> Result<(), ProbeError> {
        self.device.enable_vq(pair.tx.virtqueue_mut())?;
        pair.rx.empty();
        self.device.enable_vq(pair.rx.virtqueue_mut())?;
        pair.rx.fill()?;
        pair.rx.start().map_err(probe_error)
    }

    /// The device as any driver has it.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }
}

impl Bound for NetDevice {
    fn config_changed(&mut self) {
        match self.device.needs_reset() {
            Ok(false) => {}
            _ => self.shared.needs_reset.store(true, Ordering::Relaxed),
        }
        let features = self.device.features();
        // A device that cannot be read keeps the state it had.
        if features.intersects(F::STATUS | F::SPEED_DUPLEX)
            && let Ok(config) = self.device.read_config_fields(&fields(features))
        {
            self.shared.set(State::new(&config, features));
        }
        self.shared.changes.fetch_add(1, Ordering::Release);
    }

    fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::Relaxed)
    }

    fn remove(self: Box<Self>) -> Option<Found> {
        self.device.reset().ok()
    }
}
