//! The transport of one device.

use super::block::{Block, PAGE};
use super::line::{Line, Shared, VECTOR};
use super::{Host, Place};
use crate::driver::QueueInterrupt;
use crate::interrupts::Lines;
use crate::registers::Window;
use crate::transport::{DEVICE_FEATURES, LEGACY_FEATURES, count_queues};
use crate::transport::{Identity, Legacy, Notifier, QueueSetup, Transport, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_spec::{F, Features, Status};

/// Ring and negotiation features that this transport carries, in version 2.
const RING_FEATURES: Features = F::INDIRECT_DESC
    .union(F::EVENT_IDX)
    .union(F::VERSION_1)
    .union(F::ACCESS_PLATFORM)
    .union(F::RING_PACKED)
    .union(F::IN_ORDER)
    .union(F::ORDER_PLATFORM)
    .union(F::NOTIFICATION_DATA)
    .union(F::RING_RESET);

/// How long a device may take to reset itself or a queue.
const RESET_LIMIT: Duration = Duration::from_secs(10);

/// A virtio device behind a block of registers, of version 2 or 1.
pub struct MmioTransport {
    host: Arc<dyn Host>,
    identity: Identity,
    arena: Arena,
    required: Features,
    block: Block,
    config: Window,
    doorbell: Window,
    shared: Arc<Shared>,
    features: Features,
    reset_limit: Duration,
}

/// Tells of changes of a device's configuration, for a bus to poll.
#[derive(Clone)]
pub struct ConfigWatch(Arc<Shared>);

impl ConfigWatch {
    /// Whether the device announced a change since the last call (2.3, 4.2.3.4).
    pub fn changed(&self) -> Result<bool, TransportError> {
        match &self.0.line {
            Some(line) => _ = line.wait(Duration::ZERO)?,
            None => _ = self.0.poll()?,
        }
        Ok(self.0.lines.take_config())
    }
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigWatch({:?})", self.0.lines)
    }
}

impl MmioTransport {
    /// Takes the device at a place; `None` if the place is an empty one (4.2.2.2).
    pub fn open(host: Arc<dyn Host>, place: Place) -> Result<Option<Self>, TransportError> {
        let registers = host.map(place.start, place.len)?;
        let len = registers.len().min(place.len);
        let outside = TransportError::Unsupported("an MMIO block shorter than its registers");
        let registers = Window::new(registers, 0, len).ok_or(outside)?;
        let Some(block) = Block::find(registers)? else { return Ok(None) };
        let identity = Identity { vendor: block.vendor()?, ..Identity::of(block.id()?) };
        let config = block.config().ok_or(outside)?;
        let doorbell = block.notify().ok_or(outside)?;
        let shared = Arc::new(Shared {
            lines: Lines::new(count_queues(|queue| block.select(queue)?.max_size())?),
            block: block.clone(),
            line: host.line(&place),
            clock: host.clock(),
        });
        if let Some(line) = &shared.line {
            line.connect(shared.clone())?;
        }
        let (arena, required) = (host.arena(&place), host.required_features(&place));
        let features = Features::EMPTY;
        let reset_limit = RESET_LIMIT;
        Ok(Some(Self {
            host,
            identity,
            arena,
            required,
            block,
            config,
            doorbell,
            shared,
            features,
            reset_limit,
        }))
    }

    /// Sets how long the device may take to reset itself or a queue: 10 seconds otherwise.
    #[must_use]
    pub fn with_reset_limit(mut self, limit: Duration) -> Self {
        self.reset_limit = limit;
        self
    }

    /// Tells of changes of the device's configuration; stays valid over resets.
    pub fn config_watch(&self) -> ConfigWatch {
        ConfigWatch(self.shared.clone())
    }
}

impl Transport for MmioTransport {
    fn name(&self) -> &str {
        "mmio"
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn allowed_features(&self) -> Features {
        if self.block.is_legacy() { LEGACY_FEATURES } else { DEVICE_FEATURES | RING_FEATURES }
    }

    fn required_features(&self) -> Features {
        self.required
    }

    fn legacy(&self) -> Option<Legacy> {
        self.block.is_legacy().then_some(Legacy { ring_align: PAGE, fixed_size: false })
    }

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        self.block.reset(&*self.shared.clock, self.reset_limit)?;
        self.shared.lines.clear();
        self.features = Features::EMPTY;
        Ok(Quiesced::on(Evidence::DeviceReset))
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        self.block.status()
    }

    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        self.block.set_status(status)
    }

    fn device_features(&mut self) -> Result<Features, TransportError> {
        self.block.device_features()
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError> {
        self.features = features;
        self.block.set_driver_features(features)
    }

    fn config_generation(&mut self) -> Result<u32, TransportError> {
        self.block.generation()
    }

    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        self.config.read_bytes(offset, to)
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        self.config.write_bytes(offset, from)
    }

    fn shared_memory(&mut self, id: u8) -> Result<Option<Window>, TransportError> {
        let Some((start, len)) = self.block.shared_memory(id)? else { return Ok(None) };
        let region = Window::new(self.host.map(start, len)?, 0, len);
        region.map(Some).ok_or(TransportError::Protocol("a shared memory region that is not all there"))
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        if index >= self.shared.lines.queue_count() { Ok(0) } else { self.block.select(index)?.max_size() }
    }

    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        if setup.size > self.max_queue_size(index)? {
            return Err(TransportError::NoQueue(index));
        }
        let queue = self.block.select(index)?;
        if queue.is_enabled()? {
            return Err(TransportError::Refused("a queue that is enabled already"));
        }
        self.shared.lines.connect(index, VECTOR, interrupt);
        queue.enable(&setup)?;
        let data = self.features.contains(F::NOTIFICATION_DATA);
        Ok(Box::new(Line { doorbell: self.doorbell.clone(), index, data, shared: self.shared.clone() }))
    }

    fn reset_queue(&mut self, index: u16) -> Result<Quiesced, TransportError> {
        if !self.features.contains(F::RING_RESET) {
            return Err(TransportError::Unsupported("resetting a single queue"));
        }
        if index >= self.shared.lines.queue_count() {
            return Err(TransportError::NoQueue(index));
        }
        self.block.select(index)?.reset(&*self.shared.clock, self.reset_limit)?;
        Ok(Quiesced::on(Evidence::QueueReset))
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        if let Some(line) = &self.shared.line {
            line.disconnect();
        }
    }
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("identity", &self.identity)
            .field("legacy", &self.block.is_legacy())
            .finish_non_exhaustive()
    }
}
