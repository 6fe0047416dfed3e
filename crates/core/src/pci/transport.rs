//! The transport of one function.

use super::Host;
use super::capability::{self, Layout};
use super::common::Common;
use super::config::{Address, COMMAND_BUS_MASTER, COMMAND_MEMORY, Function};
use super::msix::Msix;
use super::notifier::{Doorbell, Line};
use super::routing::{ConfigWatch, Routing, Shared};
use crate::driver::QueueInterrupt;
use crate::registers::Window;
use crate::transport::{DEVICE_FEATURES, Identity, Notifier, QueueSetup, Transport, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_spec::device_id::{PCI_DEVICE_ID_BASE, PCI_VENDOR_ID};
use virtio_kit_spec::{DeviceId, F, Features, Status};

/// Ring and negotiation features that this transport carries.
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
pub(super) const RESET_LIMIT: Duration = Duration::from_secs(10);

/// A virtio device behind the modern interface of a PCI function, which may be a transitional one.
///
/// Dropped, it stops interrupts and puts the command register back: the function cannot reach memory any
/// more, unless it could before.
pub struct PciTransport {
    host: Arc<dyn Host>,
    at: Address,
    identity: Identity,
    arena: Arena,
    required: Features,
    common: Common,
    notify: Window,
    notify_multiplier: u32,
    config: Option<Window>,
    shared: Arc<Shared>,
    routing: Routing,
    features: Features,
    command: u16,
    reset_limit: Duration,
}

/// What a function is; says why it is no virtio device.
pub(super) fn identity(function: &Function<'_, dyn Host + '_>) -> Result<Identity, TransportError> {
    let id = function.id()?.ok_or(TransportError::Disconnected)?;
    let none = TransportError::Unsupported("a PCI function that is no virtio device");
    if !super::is_virtio(id) {
        return Err(none);
    }
    let (subsystem_vendor, subsystem_device) = function.subsystem()?;
    let device = match DeviceId::from_pci(id.1) {
        Some(device) => device,
        // Transitional ones of other types: the subsystem says (4.1.2.3).
        None if id.1 < PCI_DEVICE_ID_BASE && subsystem_device != 0 => DeviceId(subsystem_device.into()),
        None => return Err(none),
    };
    Ok(Identity {
        vendor: PCI_VENDOR_ID.into(),
        device,
        subsystem_vendor: subsystem_vendor.into(),
        subsystem_device: subsystem_device.into(),
        class: function.class()?,
    })
}

impl PciTransport {
    /// Finds the device's registers. Its BARs must have addresses; it is allowed to reach memory from now on.
    pub fn open(host: Arc<dyn Host>, at: Address) -> Result<Self, TransportError> {
        let function = Function::new(&*host, at);
        let identity = identity(&function)?;
        let command = function.command()?;
        function.set_command(command | COMMAND_MEMORY | COMMAND_BUS_MASTER)?;
        let found = Layout::find(&host, at)
            .and_then(|layout| Ok((Common(layout.common.clone()).queue_count()?, layout)));
        let msix = Msix::find(&function)?;
        let (queues, layout) = match found {
            Ok(found) => found,
            Err(error) => {
                // The first failure is the one to report.
                let _ = function.set_command(command);
                return Err(error);
            }
        };
        let shared = Shared::new(&*host, at, queues, msix.as_ref(), layout.isr);
        Ok(Self {
            at,
            identity,
            arena: host.arena(at),
            required: host.required_features(at),
            common: Common(layout.common),
            notify: layout.notify,
            notify_multiplier: layout.notify_multiplier,
            config: layout.device,
            routing: Routing::new(host.clone(), at, msix, shared.clone()),
            shared,
            features: Features::EMPTY,
            command,
            reset_limit: RESET_LIMIT,
            host,
        })
    }

    /// Sets how long the device may take to reset itself or a queue: 10 seconds otherwise.
    #[must_use]
    pub fn with_reset_limit(mut self, limit: Duration) -> Self {
        self.reset_limit = limit;
        self
    }

    /// Where the function is.
    pub fn address(&self) -> Address {
        self.at
    }

    /// Tells of changes of the device's configuration; stays valid over resets.
    pub fn config_watch(&self) -> ConfigWatch {
        ConfigWatch(self.shared.clone())
    }

    fn function(&self) -> Function<'_, dyn Host> {
        Function::new(&*self.host, self.at)
    }

    /// The register that a queue is notified by (4.1.4.4.1).
    fn doorbell(&self, index: u16, notify_off: u16) -> Result<Doorbell, TransportError> {
        let data = self.features.contains(F::NOTIFICATION_DATA);
        let offset = u64::from(notify_off) * u64::from(self.notify_multiplier);
        let register = self.notify.part(offset, if data { 4 } else { 2 });
        let register = register.ok_or(TransportError::Protocol("a notification register out of bounds"))?;
        Ok(Doorbell { register, index, data })
    }
}

impl Transport for PciTransport {
    fn name(&self) -> &str {
        "pci"
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn allowed_features(&self) -> Features {
        let all = DEVICE_FEATURES | RING_FEATURES;
        if self.common.has_queue_reset() { all } else { all - F::RING_RESET }
    }

    fn required_features(&self) -> Features {
        self.required
    }

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        let function = self.function();
        if let Err(error) = self.common.reset(&*self.shared.clock, self.reset_limit) {
            // A device that does not answer shall at least not write to memory; no proof that it does not.
            let _ = function.set_command(function.command()? & !COMMAND_BUS_MASTER);
            return Err(error);
        }
        function.set_command(function.command()? | COMMAND_MEMORY | COMMAND_BUS_MASTER)?;
        self.routing.reset()?;
        self.features = Features::EMPTY;
        Ok(Quiesced::on(Evidence::DeviceReset))
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        self.common.status()
    }

    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        if status.contains(Status::DRIVER_OK) {
            self.routing.decide(&self.common)?;
        }
        self.common.set_status(status)
    }

    fn device_features(&mut self) -> Result<Features, TransportError> {
        self.common.device_features()
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError> {
        self.features = features;
        self.common.set_driver_features(features)
    }

    fn config_generation(&mut self) -> Result<u32, TransportError> {
        Ok(self.common.generation()?.into())
    }

    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        match &self.config {
            Some(config) => config.read_bytes(offset, to),
            None => {
                to.fill(0);
                Ok(())
            }
        }
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        let none = TransportError::Unsupported("the device has no configuration");
        self.config.as_ref().ok_or(none)?.write_bytes(offset, from)
    }

    fn shared_memory(&mut self, id: u8) -> Result<Option<Window>, TransportError> {
        capability::shared_memory(&self.host, self.at, id)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        self.shared.lines.set_queue_count(self.common.queue_count()?);
        if index >= self.shared.lines.queue_count() {
            return Ok(0);
        }
        self.common.select(index)?.size()
    }

    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        if self.max_queue_size(index)? == 0 {
            return Err(TransportError::NoQueue(index));
        }
        if self.common.select(index)?.is_enabled()? {
            return Err(TransportError::Refused("a queue that is enabled already"));
        }
        let vector = self.routing.queue_vector(&self.common, index)?;
        let queue = self.common.select(index)?;
        queue.configure(&setup)?;
        let doorbell = self.doorbell(index, queue.notify_off()?)?;
        self.shared.lines.connect(index, vector, interrupt);
        queue.enable()?;
        Ok(Box::new(Line { doorbell, vector, shared: self.shared.clone() }))
    }

    fn reset_queue(&mut self, index: u16) -> Result<Quiesced, TransportError> {
        if !self.features.contains(F::RING_RESET) {
            return Err(TransportError::Unsupported("resetting a single queue"));
        }
        if index >= self.shared.lines.queue_count() {
            return Err(TransportError::NoQueue(index));
        }
        self.common.select(index)?.reset(&*self.shared.clock, self.reset_limit)?;
        Ok(Quiesced::on(Evidence::QueueReset))
    }
}

impl Drop for PciTransport {
    fn drop(&mut self) {
        // Nobody is left to be told of a function that does not answer.
        let _ = self.routing.stop();
        let _ = self.function().set_command(self.command);
    }
}

impl fmt::Debug for PciTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciTransport")
            .field("at", &self.at)
            .field("identity", &self.identity)
            .field("interrupts", &self.routing)
            .finish_non_exhaustive()
    }
}
