//! A network device (5.1).
//!
//! [`Net`] is the device; where its frames come from and go to is a [`Backend`], which opens a [`Transmit`] and
//! a [`Receive`] for each pair of queues. Here are a [`pair`](fn@pair) of devices back to back, [`Loopback`], [`Sink`]
//! and a [`Switch`] with as many ports as wanted.
//!
//! A frame travels with what is left to be done to it ([`Offload`]). Sending, it is checked and handed over in its
//! chain. Receiving, the device completes checksums and cuts packets for a driver that does not do so itself, so
//! that back-ends pass on what they are given, and merge nothing.
//!
//! The driver's frames, headers and commands are a stranger's: what breaks a rule is counted and dropped, and its
//! chain completed.

mod backend;
mod checksum;
mod control;
mod counters;
mod filter;
mod frame;
mod handle;
mod hash;
mod inlet;
mod loopback;
mod outlets;
mod packet;
mod pair;
mod receive;
mod segment;
mod settings;
mod shared;
mod sink;
mod steering;
mod switch;
mod transmit;
mod watched;

pub use backend::{ALL_OFFLOADS, Backend, Receive, Transmit};
pub use counters::Counters;
pub use frame::{
    Checksum, ETHERNET_HEADER, Frame, Hash, MAX_FRAME, Offload, Outgoing, SegmentKind, Segmentation,
};
pub use handle::NetHandle;
pub use inlet::Buffers;
pub use loopback::Loopback;
pub use packet::MacAddress;
pub use pair::{PairEnd, pair};
pub use sink::{Sink, Sunk};
pub use steering::{Choice, Steerer, Steering};
pub use switch::{Port, PortCounters, Switch, SwitchCounters, SwitchFull, SwitchOptions};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use control::ControlService;
use core::task::Waker;
use receive::ReceiveService;
use shared::Shared;
use transmit::TransmitService;
use virtio_kit::device::{self, ConfigNotice, Device, DeviceError, Queue, Serving, Worker};
use virtio_kit::spec::net::{Duplex, F, MIN_MTU, queue};
use virtio_kit::{DeviceId, Features};
use zerocopy::IntoBytes;

/// Most pairs of queues of a device.
const MAX_PAIRS: u16 = 256;

/// What a network device is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The address that the driver finds; locally administered and unicast, as a rule.
    pub mac: MacAddress,
    /// Largest packet in bytes without its Ethernet header, at least 68. `None`: the device names none.
    pub mtu: Option<u16>,
    /// Pairs of queues, at most 256.
    pub pairs: u16,
    /// Most descriptors of a queue: a power of two, at most 32768.
    pub queue_size: u16,
    /// Speed in megabits per second, and duplex. `None`: the device names none.
    pub speed: Option<(u32, Duplex)>,
}

impl Options {
    /// One pair of queues of 256 descriptors.
    pub fn new(mac: MacAddress) -> Self {
        Self { mac, mtu: None, pairs: 1, queue_size: 256, speed: None }
    }
}

/// A network device over a back-end.
pub struct Net<B> {
    backend: B,
    queue_size: u16,
    has_speed: bool,
    shared: Arc<Shared>,
    features: Features,
    wakers: Vec<Waker>,
}

impl<B: Backend> Net<B> {
    /// A device. Its link is up.
    pub fn new(mut backend: B, options: Options) -> Self {
        let options = Options {
            pairs: options.pairs.clamp(1, MAX_PAIRS),
            mtu: options.mtu.map(|mtu| mtu.max(MIN_MTU)),
            ..options
        };
        let shared = Arc::new(Shared::new(&options));
        backend.attach(Steering(shared.clone()));
        Self {
            backend,
            queue_size: options.queue_size,
            has_speed: options.speed.is_some(),
            shared,
            features: Features::EMPTY,
            wakers: Vec::new(),
        }
    }

    /// A handle for the program, to set the link and to read counters while the device runs.
    pub fn handle(&self) -> NetHandle {
        NetHandle(self.shared.clone())
    }

    fn waker(&self, index: u16) -> Waker {
        self.wakers.get(usize::from(index)).unwrap_or(Waker::noop()).clone()
    }

    /// Pairs of queues that the driver may use.
    fn pairs_in_reach(&self) -> u16 {
        if self.features.intersects(F::MQ | F::RSS) { self.shared.pairs() } else { 1 }
    }
}

/// What every device offers.
const ALWAYS: Features = F::MAC
    .union(F::STATUS)
    .union(F::MRG_RXBUF)
    .union(F::GUEST_CSUM)
    .union(F::GUEST_TSO4)
    .union(F::GUEST_TSO6)
    .union(F::GUEST_ECN)
    .union(F::GUEST_USO4)
    .union(F::GUEST_USO6)
    .union(F::CTRL_VQ)
    .union(F::CTRL_RX)
    .union(F::CTRL_RX_EXTRA)
    .union(F::CTRL_VLAN)
    .union(F::CTRL_MAC_ADDR)
    .union(F::CTRL_GUEST_OFFLOADS)
    .union(F::GUEST_ANNOUNCE)
    .union(F::HASH_REPORT);

impl<B: Backend> Device for Net<B> {
    fn id(&self) -> DeviceId {
        DeviceId::NETWORK
    }

    fn features(&self) -> Features {
        let mut features = ALWAYS | (self.backend.takes() & ALL_OFFLOADS);
        if self.shared.pairs() > 1 {
            features |= F::MQ;
            if self.backend.steers() {
                features |= F::RSS;
            }
        }
        if self.shared.mtu().is_some() {
            features |= F::MTU;
        }
        if self.has_speed {
            features |= F::SPEED_DUPLEX;
        }
        features
    }

    fn queue_count(&self) -> u16 {
        2 * self.shared.pairs() + 1
    }

    fn max_queue_size(&self, _: u16) -> u16 {
        self.queue_size
    }

    fn max_segments(&self, _: u16) -> u16 {
        // A driver may use as many as the queue is long (2.7.4.2, 2.8.5).
        self.queue_size
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        device::read_bytes(self.shared.config().as_bytes(), offset, to);
    }

    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        self.features = features;
        self.shared.begin(features);
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let (features, shared) = (self.features, self.shared.clone());
        let waker = self.waker(index);
        let control = queue::control(features, shared.pairs());
        if features.contains(F::CTRL_VQ) && u32::from(index) == control {
            shared.control_starts(waker);
            return Ok(Box::new(Serving::new(queue, ControlService::new(shared, features))));
        }
        let pair = index / 2;
        if pair >= self.pairs_in_reach() {
            return Err(DeviceError::Setup("a queue that was not negotiated"));
        }
        if index.is_multiple_of(2) {
            let source = self.backend.open_receive(pair, &waker)?;
            let service = ReceiveService::new(source, shared, pair, features, queue.config().size, waker);
            return Ok(Box::new(Serving::new(queue, service)));
        }
        let out = self.backend.open_transmit(pair, &waker)?;
        Ok(Box::new(Serving::new(queue, TransmitService::new(out, shared, pair, features))))
    }

    fn reset(&mut self) {
        self.backend.reset();
        self.features = Features::EMPTY;
        self.shared.begin(Features::EMPTY);
    }

    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.shared.attach(notice);
    }

    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.wakers = wakers;
    }
}
