//! From a device that was found to one that runs (3.1).

use super::device::Device;
use super::interrupt::{Callback, QueueInterrupt};
use super::virtqueue::Virtqueue;
use crate::registers::Window;
use crate::transport::{Identity, QueueSetup, Transport, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use virtio_kit_ring::notify::Barriers;
use virtio_kit_ring::{AnyChain, Arena, driver as ring};
use virtio_kit_spec::features::{Dependency, unmet};
use virtio_kit_spec::{F, Features, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Ring and negotiation features that this layer implements, and accepts wherever a transport allows them.
pub const RING_FEATURES: Features = F::INDIRECT_DESC
    .union(F::EVENT_IDX)
    .union(F::VERSION_1)
    .union(F::ACCESS_PLATFORM)
    .union(F::RING_PACKED)
    .union(F::IN_ORDER)
    .union(F::ORDER_PLATFORM)
    .union(F::NOTIFICATION_DATA)
    .union(F::RING_RESET);

/// A device that a back-end found, before anything was said to it.
///
/// Dropped without being negotiated with, it is left alone.
pub struct Found {
    transport: Box<dyn Transport>,
    without: Features,
    legacy: bool,
}

impl Found {
    /// Takes a transport as a back-end hands it out.
    pub fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport, without: Features::EMPTY, legacy: false }
    }

    /// Leaves features alone that the device may offer and the rings could use: a layout, for one.
    pub fn without(self, features: Features) -> Self {
        Self { without: self.without | features, ..self }
    }

    /// Takes the device by its legacy interface too, if that is all it has. For a driver that knows how its
    /// device type differs there (features agreed on are without VERSION_1); others refuse it.
    pub fn or_legacy(self) -> Self {
        Self { legacy: true, ..self }
    }

    /// What the device is.
    pub fn identity(&self) -> Identity {
        self.transport.identity()
    }

    /// Name of the mechanism.
    pub fn transport_name(&self) -> &str {
        self.transport.name()
    }

    /// Resets the device and agrees on features (3.1.1, steps 1 to 6): those of `wanted`, and all that the
    /// rings can use, as far as the device offers them, the transport carries them, and what they require is
    /// there too.
    pub fn negotiate(self, wanted: Features) -> Result<Setup, NegotiateError> {
        self.negotiate_with(|_| wanted)
    }

    /// [`negotiate`](Self::negotiate) for a driver whose wishes depend on the offer: `wanted` is shown what
    /// could be had at most.
    pub fn negotiate_with(self, wanted: impl FnOnce(Features) -> Features) -> Result<Setup, NegotiateError> {
        let Self { mut transport, without, legacy } = self;
        let is_legacy = transport.legacy().is_some();
        if is_legacy && !(legacy && cfg!(target_endian = "little")) {
            return Err(NegotiateError::Legacy);
        }
        transport.reset()?;
        transport.set_status(Status::ACKNOWLEDGE)?;
        transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER)?;
        let id = transport.identity().device;
        let required = transport.required_features();
        let mut setup =
            Setup { open: Some(Open { transport, features: Features::EMPTY, queues: Vec::new() }) };
        let open = setup.open()?;
        let offered = open.transport.device_features()?;
        let most = (offered & open.transport.allowed_features()) - (without - required);
        let mut features = most & (wanted(most) | RING_FEATURES);
        if !is_legacy && !features.contains(F::VERSION_1) {
            return Err(NegotiateError::Legacy);
        }
        while let Some(Dependency { feature, .. }) = unmet(features, id) {
            features -= feature;
        }
        if !features.contains(required) {
            return Err(NegotiateError::Missing(required - features));
        }
        open.transport.set_driver_features(features)?;
        if !is_legacy {
            let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
            open.transport.set_status(status)?;
            if !open.transport.status()?.contains(Status::FEATURES_OK) {
                return Err(NegotiateError::Refused);
            }
        }
        open.features = features;
        Ok(setup)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({:?} over {})", self.identity(), self.transport.name())
    }
}

/// A device with which features are agreed: queues are made, configuration is read.
///
/// Dropped before it is started, it is left with FAILED set (3.1.1).
pub struct Setup {
    /// `None` once it has become a `Device`.
    open: Option<Open>,
}

pub(super) struct Open {
    pub(super) transport: Box<dyn Transport>,
    pub(super) features: Features,
    /// Interrupt halves of the queues made, by index.
    pub(super) queues: Vec<(u16, Arc<QueueInterrupt>)>,
}

/// What a driver wants of a queue.
#[derive(Default)]
pub struct VqOptions {
    /// Most descriptors; the queue has no more than the device's maximum. 0 for that maximum.
    pub max_size: u16,
    /// Long chains in tables of their own, if INDIRECT_DESC was agreed.
    pub indirect: Option<ring::Indirect>,
    /// Called when buffers were used; callbacks start on if there is one, and off otherwise.
    pub callback: Option<Callback>,
}

impl Setup {
    fn open(&mut self) -> Result<&mut Open, TransportError> {
        self.open.as_mut().ok_or(TransportError::Disconnected)
    }

    /// The features agreed on.
    pub fn features(&self) -> Features {
        self.open.as_ref().map_or(Features::EMPTY, |o| o.features)
    }

    /// What the device is.
    pub fn identity(&self) -> Identity {
        self.open.as_ref().map_or(Identity::of(virtio_kit_spec::DeviceId(0)), |o| o.transport.identity())
    }

    /// Memory that the device can reach, for the driver's buffers.
    pub fn arena(&self) -> Option<&Arena> {
        self.open.as_ref().map(|o| o.transport.arena())
    }

    /// Reads the start of the configuration space, all of it from one moment (2.5).
    pub fn read_config<C: FromBytes + IntoBytes>(&mut self) -> Result<C, TransportError> {
        read_config(&mut *self.open()?.transport)
    }

    /// The shared memory region with this id (2.10); `None` if the device has none.
    pub fn shared_memory(&mut self, id: u8) -> Result<Option<Window>, TransportError> {
        self.open()?.transport.shared_memory(id)
    }

    /// Reads some fields of the configuration space, each by an access of its own width if it has one, all from one
    /// moment (2.5). The others are 0.
    ///
    /// For devices whose configuration ends with the last field that they offer: some answer a wider access that
    /// goes beyond it with nonsense, as QEMU does on PCI.
    pub fn read_config_fields<C: FromBytes + IntoBytes>(
        &mut self,
        fields: &[Range<usize>],
    ) -> Result<C, TransportError> {
        read_config_fields(&mut *self.open()?.transport, fields)
    }

    /// Most descriptors that queue `index` can have; 0 if there is no such queue.
    pub fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        self.open()?.transport.max_queue_size(index)
    }

    /// Makes virtqueue `index` and enables it on the device.
    pub fn new_vq<C: AnyChain, T>(
        &mut self,
        index: u16,
        options: VqOptions,
    ) -> Result<Virtqueue<C, T>, NewVqError> {
        self.open()?.new_vq(index, options)
    }

    /// Sets DRIVER_OK: from here on the device runs (3.1.1, step 8).
    pub fn start(mut self) -> Result<Device, TransportError> {
        let mut open = self.open.take().ok_or(TransportError::Disconnected)?;
        let mut status = Status::ACKNOWLEDGE | Status::DRIVER | Status::DRIVER_OK;
        if open.transport.legacy().is_none() {
            status |= Status::FEATURES_OK;
        }
        if let Err(error) = open.transport.set_status(status) {
            self.open = Some(open);
            return Err(error);
        }
        Ok(Device::new(open))
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            open.fail();
        }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setup({:?}, {:?})", self.identity(), self.features())
    }
}

impl Open {
    /// Sets FAILED, as well as the device lets us.
    pub(super) fn fail(&mut self) {
        if let Ok(status) = self.transport.status() {
            // A device that does not even take this has failed visibly enough.
            let _ = self.transport.set_status(status | Status::FAILED);
        }
    }

    fn new_vq<C: AnyChain, T>(
        &mut self,
        index: u16,
        options: VqOptions,
    ) -> Result<Virtqueue<C, T>, NewVqError> {
        if self.queues.iter().any(|(i, _)| *i == index) {
            return Err(NewVqError::InUse(index));
        }
        let packed = self.features.contains(F::RING_PACKED);
        let mut size = self.transport.max_queue_size(index)?;
        if size == 0 {
            return Err(NewVqError::NoQueue(index));
        }
        let legacy = self.transport.legacy();
        if options.max_size != 0 && !legacy.is_some_and(|l| l.fixed_size) {
            size = size.min(options.max_size);
        }
        if !packed && !size.is_power_of_two() {
            size = 1 << size.ilog2();
        }
        let ring_options = ring::Options {
            in_order: self.features.contains(F::IN_ORDER),
            event_idx: self.features.contains(F::EVENT_IDX),
            indirect: options.indirect.filter(|_| self.features.contains(F::INDIRECT_DESC)),
            barriers: if self.features.contains(F::ORDER_PLATFORM) {
                Barriers::Device
            } else {
                Barriers::Smp
            },
        };
        let arena = self.transport.arena();
        let memory = match legacy {
            None => ring::RingMemory::alloc(arena, packed, size)?,
            Some(legacy) => ring::RingMemory::alloc_legacy(arena, size, legacy.ring_align)?,
        };
        let storage = ring::Storage::boxed(size);
        let queue = ring::Queue::new(memory, storage, ring_options, self.transport.arena())?;
        let setup = QueueSetup { size, addrs: queue.addrs() };
        let interrupt = Arc::new(QueueInterrupt::new(options.callback));
        let notifier = self.transport.enable_queue(index, setup, interrupt.clone())?;
        self.queues.push((index, interrupt.clone()));
        Ok(Virtqueue::new(queue, notifier, interrupt, index))
    }
}

/// Reads until the generation is the same before and after.
pub(super) fn read_config<C: FromBytes + IntoBytes>(
    transport: &mut dyn Transport,
) -> Result<C, TransportError> {
    let whole = 0..size_of::<C>();
    read_config_fields(transport, &[whole])
}

/// The same for single fields, which must be inside.
pub(super) fn read_config_fields<C: FromBytes + IntoBytes>(
    transport: &mut dyn Transport,
    fields: &[Range<usize>],
) -> Result<C, TransportError> {
    let mut config = C::new_zeroed();
    // A device may change its configuration often, but not for ever while we read a few words.
    for _ in 0..1000 {
        let before = transport.config_generation()?;
        for field in fields {
            let outside = TransportError::Unsupported("a field outside of the configuration");
            let to = config.as_mut_bytes().get_mut(field.clone()).ok_or(outside)?;
            transport.read_config(field.start, to)?;
        }
        if transport.config_generation()? == before {
            return Ok(config);
        }
    }
    Err(TransportError::Protocol("the configuration never stops changing"))
}

/// Writes one field of the configuration space.
pub(super) fn write_config<V: IntoBytes + Immutable>(
    transport: &mut dyn Transport,
    offset: usize,
    value: &V,
) -> Result<(), TransportError> {
    transport.write_config(offset, value.as_bytes())
}

/// Why features were not agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NegotiateError {
    /// The transport failed.
    Transport(TransportError),
    /// The device or the transport does not offer VERSION_1, and the driver does not take legacy devices.
    Legacy,
    /// The device does not offer these, and without them it cannot reach the memory that the driver has for it.
    Missing(Features),
    /// The device did not keep FEATURES_OK: it cannot work with this set.
    Refused,
}

impl From<TransportError> for NegotiateError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl fmt::Display for NegotiateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Legacy => f.write_str("the device is legacy: it does not offer VERSION_1"),
            Self::Missing(features) => write!(f, "the device cannot reach its memory without {features:?}"),
            Self::Refused => f.write_str("the device refused the features chosen from those it offers"),
        }
    }
}

impl core::error::Error for NegotiateError {}

/// Why a virtqueue was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewVqError {
    /// The transport failed.
    Transport(TransportError),
    /// The device has no queue of this number.
    NoQueue(u16),
    /// The queue was made already.
    InUse(u16),
    /// The ring could not be made.
    Ring(ring::NewError),
}

impl From<TransportError> for NewVqError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<ring::NewError> for NewVqError {
    fn from(error: ring::NewError) -> Self {
        Self::Ring(error)
    }
}

impl fmt::Display for NewVqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::NoQueue(index) => write!(f, "the device has no queue {index}"),
            Self::InUse(index) => write!(f, "queue {index} was made already"),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for NewVqError {}
