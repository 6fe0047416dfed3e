//! The device's side of the status field, feature negotiation and queue set-up (2.1, 2.2, 2.6, 3.1), once
//! for all transports.

use super::{ConfigNotice, Device, DeviceError, Stopped, Worker};
use crate::Apart;
use crate::transport::LEGACY_FEATURES;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;
use spin::Mutex;
use virtio_kit_ring::device::{Config, NewError, Position, Queue, RingAddrs, Storage};
use virtio_kit_ring::mem::Memory;
use virtio_kit_ring::notify::Barriers;
use virtio_kit_spec::features::{unmet, unmet_offer};
use virtio_kit_spec::{DeviceId, F, Features, Status};

/// The workers of a device's queues, each behind a lock of its own: whoever runs one does not hold up the
/// others, or the registers.
pub type Slots = Arc<[Apart<Mutex<Option<Box<dyn Worker>>>>]>;

/// What a driver has set up of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Descriptors; at most the maximum.
    pub size: u16,
    /// Where the ring is.
    pub addrs: RingAddrs,
    /// Where it starts; `None` for a fresh one.
    pub position: Option<Position>,
    /// Whether the driver has enabled it.
    pub enabled: bool,
}

/// A device as its transport sees it. Registers come in as calls; queues run in [`Slots`].
pub struct Machine {
    pub(super) device: Box<dyn Device>,
    pub(super) notice: Arc<ConfigNotice>,
    offered: Features,
    pub(super) accepted: Features,
    pub(super) status: Status,
    pub(super) queues: Vec<QueueState>,
    pub(super) slots: Slots,
    memory: Option<Memory>,
    /// Where ring addresses are looked up, if that is another address space.
    rings: Option<Memory>,
    /// The transport's own limit, where drivers are not told the device's.
    max_queue_size: Option<u16>,
    legacy: bool,
}

impl Machine {
    /// Takes a device over. It is offered with its own features and with `ring_features`, which the transport
    /// carries and VERSION_1 always is of.
    pub fn new(device: Box<dyn Device>, ring_features: Features, notice: Arc<ConfigNotice>) -> Self {
        Self::with(device, ring_features | F::VERSION_1, notice, false)
    }

    /// Takes a device over to offer it by the legacy interface (2.2.3): there is no FEATURES_OK, and no feature bit
    /// above 31. Fails if the device does not know that interface.
    pub fn legacy(
        device: Box<dyn Device>,
        ring_features: Features,
        notice: Arc<ConfigNotice>,
    ) -> Result<Self, DeviceError> {
        if !device.has_legacy() {
            return Err(DeviceError::Setup("the device has no legacy interface"));
        }
        Ok(Self::with(device, ring_features, notice, true))
    }

    fn with(mut device: Box<dyn Device>, more: Features, notice: Arc<ConfigNotice>, legacy: bool) -> Self {
        let id = device.id();
        let mut offered = device.features() | more;
        if legacy {
            offered &= LEGACY_FEATURES;
        }
        while let Some(dependency) = unmet_offer(offered, id) {
            offered -= dependency.feature;
        }
        let count = usize::from(device.queue_count());
        device.attach(notice.clone());
        Self {
            notice,
            offered,
            accepted: Features::EMPTY,
            status: Status::RESET,
            queues: alloc::vec![QueueState::default(); count],
            slots: (0..count).map(|_| Apart(Mutex::new(None))).collect(),
            memory: None,
            rings: None,
            max_queue_size: None,
            legacy,
            device,
        }
    }

    /// Hands the device what makes its queues run, one waker for each.
    pub fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.device.attach_wakers(wakers);
    }

    /// Where the workers of started queues are found.
    pub fn slots(&self) -> Slots {
        self.slots.clone()
    }

    /// The device type.
    pub fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// Features offered.
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// Features that the driver has accepted so far.
    pub fn accepted(&self) -> Features {
        self.accepted
    }

    /// The driver's choice of features. Ignored once FEATURES_OK is set (2.2.1), or on a legacy interface DRIVER_OK.
    pub fn set_accepted(&mut self, features: Features) {
        if !self.status.intersects(Status::FEATURES_OK | Status::DRIVER_OK) {
            self.accepted = features;
        }
    }

    /// The memory that descriptors refer to, for queues started from now on.
    pub fn set_memory(&mut self, memory: Memory) {
        (self.memory, self.rings) = (Some(memory), None);
    }

    /// The same, where ring addresses are of another address space than descriptors'.
    pub fn set_memory_and_rings(&mut self, memory: Memory, rings: Memory) {
        (self.memory, self.rings) = (Some(memory), Some(rings));
    }

    /// Accepts queues of up to `size` descriptors instead of the device's maximum: for a transport that cannot
    /// tell drivers what that is.
    pub fn set_max_queue_size(&mut self, size: u16) {
        self.max_queue_size = Some(size);
    }

    /// The status field.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The driver writes the status field: 0 resets (2.4), other bits are only ever added (2.1.1).
    ///
    /// FEATURES_OK stays 0 if the features cannot work. DRIVER_OK starts the queues that are enabled; if one
    /// cannot start, the device needs a reset.
    pub fn set_status(&mut self, status: Status) -> Result<(), DeviceError> {
        if status == Status::RESET {
            self.reset();
            return Ok(());
        }
        let mut added = status.difference(self.status);
        if added.contains(Status::FEATURES_OK) && (self.legacy || !self.features_work()) {
            added.remove(Status::FEATURES_OK);
        }
        let agreed = if self.legacy {
            self.features_work()
        } else {
            (self.status | added).contains(Status::FEATURES_OK)
        };
        if added.contains(Status::DRIVER_OK) && !agreed {
            added.remove(Status::DRIVER_OK);
        }
        self.status |= added & !Status::DEVICE_NEEDS_RESET;
        if added.contains(Status::DRIVER_OK) {
            let started = self.start();
            if started.is_err() {
                self.needs_reset();
            }
            return started;
        }
        Ok(())
    }

    /// Whether the driver's choice is among what is offered and complete (2.2.2).
    pub(super) fn features_work(&self) -> bool {
        (self.accepted - self.offered).is_empty()
            && (self.legacy || self.accepted.contains(F::VERSION_1))
            && unmet(self.accepted, self.device.id()).is_none()
    }

    /// Whether this is the legacy interface.
    pub fn is_legacy(&self) -> bool {
        self.legacy
    }

    pub(super) fn start(&mut self) -> Result<(), DeviceError> {
        self.device.activate(self.accepted)?;
        self.start_enabled()
    }

    /// Starts every queue that is enabled and does not run.
    pub(super) fn start_enabled(&mut self) -> Result<(), DeviceError> {
        for index in 0..self.queues.len() as u16 {
            let runs = self.slots[usize::from(index)].lock().is_some();
            if self.queues[usize::from(index)].enabled && !runs {
                self.start_queue(index)?;
            }
        }
        Ok(())
    }

    fn start_queue(&mut self, index: u16) -> Result<(), DeviceError> {
        let queue = self.make_queue(index)?;
        let worker = self.device.start_queue(index, queue)?;
        *self.slots[usize::from(index)].lock() = Some(worker);
        Ok(())
    }

    /// Whether an enabled queue could be started as it is set up.
    pub(super) fn check_queue(&self, index: u16) -> Result<(), DeviceError> {
        if self.queues[usize::from(index)].enabled { self.make_queue(index).map(|_| ()) } else { Ok(()) }
    }

    fn make_queue(&self, index: u16) -> Result<Queue, DeviceError> {
        let state = self.queues[usize::from(index)];
        let packed = self.accepted.contains(F::RING_PACKED);
        let config = Config {
            size: state.size,
            packed,
            in_order: self.accepted.contains(F::IN_ORDER),
            event_idx: self.accepted.contains(F::EVENT_IDX),
            indirect: self.accepted.contains(F::INDIRECT_DESC),
            barriers: if self.accepted.contains(F::ORDER_PLATFORM) {
                Barriers::Device
            } else {
                Barriers::Smp
            },
            position: state.position.unwrap_or(Position::fresh(packed)),
        };
        let memory = self.memory.clone().ok_or(DeviceError::Setup("no memory"))?;
        let storage = Storage::boxed(state.size, self.device.max_segments(index));
        Queue::new(config, state.addrs, memory, self.rings.clone(), storage).map_err(|error| match error {
            NewError::BadArea { .. } => DeviceError::Setup("a ring area is not in memory"),
            _ => DeviceError::Setup("a queue's size or position is impossible"),
        })
    }

    /// Resets the device (2.4): how many chains it could not let go of, whose buffers may still be written.
    pub fn reset(&mut self) -> usize {
        let mut in_flight = 0;
        for slot in self.slots.iter() {
            if let Some(worker) = slot.lock().take() {
                in_flight += usize::from(worker.stop().in_flight);
            }
        }
        self.device.reset();
        self.queues.fill(QueueState::default());
        self.accepted = Features::EMPTY;
        self.status = Status::RESET;
        (self.memory, self.rings) = (None, None);
        in_flight
    }

    /// Something is wrong that only a reset mends (2.1.2): sets DEVICE_NEEDS_RESET and, if the driver runs,
    /// announces it as a change of configuration.
    pub fn needs_reset(&mut self) {
        self.status |= Status::DEVICE_NEEDS_RESET;
        if self.status.contains(Status::DRIVER_OK) {
            self.notice.changed();
        }
    }

    /// Most descriptors of queue `index`; 0 if there is none.
    pub fn max_queue_size(&self, index: u16) -> u16 {
        if index >= self.device.queue_count() {
            return 0;
        }
        self.max_queue_size.unwrap_or_else(|| self.device.max_queue_size(index))
    }

    /// The driver enables queue `index`. Its settings are out of the driver's reach from now on, until the
    /// queue or the device is reset.
    pub fn enable_queue(&mut self, index: u16, state: QueueState) -> Result<(), DeviceError> {
        let max = self.max_queue_size(index);
        let Some(queue) = self.queues.get_mut(usize::from(index)) else {
            return Err(DeviceError::Setup("no such queue"));
        };
        if queue.enabled {
            return Err(DeviceError::Setup("the queue is enabled already"));
        }
        if state.size == 0 || state.size > max {
            return Err(DeviceError::Setup("the queue's size is above its maximum"));
        }
        *queue = QueueState { enabled: true, ..state };
        if self.status.contains(Status::DRIVER_OK) {
            let started = self.start_queue(index);
            if started.is_err() {
                self.queues[usize::from(index)].enabled = false;
                self.needs_reset();
            }
            return started;
        }
        Ok(())
    }

    /// Stops queue `index` and forgets its settings (2.6.1): how it was left, if it ran.
    pub fn reset_queue(&mut self, index: u16) -> Option<Stopped> {
        *self.queues.get_mut(usize::from(index))? = QueueState::default();
        let worker = self.slots[usize::from(index)].lock().take()?;
        Some(worker.stop())
    }

    /// What the driver has set up of queue `index`.
    pub fn queue(&self, index: u16) -> Option<&QueueState> {
        self.queues.get(usize::from(index))
    }

    /// Reads configuration space.
    pub fn read_config(&self, offset: usize, to: &mut [u8]) {
        self.device.read_config(offset, to);
    }

    /// Writes configuration space; not before FEATURES_OK (3.1.1), or on a legacy interface DRIVER, but for what the
    /// device takes at any time.
    pub fn write_config(&mut self, offset: usize, from: &[u8]) {
        let from_when = if self.legacy { Status::DRIVER } else { Status::FEATURES_OK };
        if self.status.contains(from_when) || self.device.takes_early_writes(offset) {
            self.device.write_config(offset, from);
        }
    }

    /// The configuration generation (2.5).
    pub fn generation(&self) -> u32 {
        self.notice.generation()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.reset();
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("id", &self.id())
            .field("status", &self.status)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}
