//! The transport of one function.

use super::Host;
use super::capability::Layout;
use super::common::Common;
use super::config::{Address, COMMAND_BUS_MASTER, COMMAND_MEMORY, COMMAND_NO_INTX, Function};
use super::interrupts::Interrupts;
use super::msix::Msix;
use super::notifier::{Doorbell, Line};
use crate::clock::Clock;
use crate::driver::QueueInterrupt;
use crate::interrupts::Lines;
use crate::registers::Window;
use crate::transport::{DEVICE_FEATURES, Identity, Notifier, QueueSetup, Transport, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_spec::device_id::{PCI_DEVICE_ID_BASE, PCI_VENDOR_ID};
use virtio_kit_spec::pci::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR};
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

/// Queues that there is room for at least, however many the device shows at first.
const ROOM: u16 = 64;

/// How long a device may take to reset itself or a queue.
const RESET_LIMIT: Duration = Duration::from_secs(10);

/// A modern virtio device behind a PCI function.
///
/// Dropped, it stops interrupts and puts the command register back: the function cannot reach memory any
/// more, unless it could before.
pub struct PciTransport {
    host: Arc<dyn Host>,
    at: Address,
    identity: Identity,
    arena: Arena,
    common: Common,
    notify: Window,
    notify_multiplier: u32,
    config: Option<Window>,
    shared: Arc<Shared>,
    msix: Option<Msix>,
    vectors: Vectors,
    features: Features,
    command: u16,
    reset_limit: Duration,
}

/// How the device's interrupts come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vectors {
    /// Not decided since the last reset.
    Undecided,
    /// Number 0 for the configuration, and one for each queue.
    Own,
    /// Number 0 for the configuration, number 1 for all queues.
    Shared,
    /// Number 0 for everything.
    One,
    /// None: the interrupt status is polled.
    Polled,
}

impl Vectors {
    /// In the order in which they are tried.
    const ALL: [Self; 3] = [Self::Own, Self::Shared, Self::One];

    fn count(self, queues: u16) -> u16 {
        match self {
            Self::Own => queues.saturating_add(1),
            Self::Shared => 2,
            _ => 1,
        }
    }

    fn of_queue(self, queue: u16) -> u16 {
        match self {
            Self::Own => queue + 1,
            Self::Shared => 1,
            _ => 0,
        }
    }
}

/// What queues' lines need of the device.
pub(super) struct Shared {
    pub(super) lines: Arc<Lines>,
    pub(super) interrupts: Option<Arc<dyn Interrupts>>,
    pub(super) clock: Arc<dyn Clock>,
    isr: Window,
    polled: AtomicBool,
}

impl Shared {
    /// Whether interrupts are found by polling the interrupt status.
    pub(super) fn is_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed)
    }

    /// Reads the interrupt status, which clears it (4.1.4.5), and passes on what is in it.
    pub(super) fn poll_isr(&self) -> Result<(), TransportError> {
        let isr = self.isr.read8(0)?;
        if isr & ISR_QUEUE != 0 {
            self.lines.fire_all();
        }
        if isr & ISR_CONFIG != 0 {
            self.lines.fire_config();
        }
        Ok(())
    }
}

/// Tells of changes of a device's configuration, for a bus to poll.
#[derive(Clone)]
pub struct ConfigWatch(Arc<Shared>);

impl ConfigWatch {
    /// Whether the device announced a change since the last call (2.3, 4.1.5.4).
    pub fn changed(&self) -> Result<bool, TransportError> {
        let vector = self.0.lines.config_vector();
        match &self.0.interrupts {
            Some(interrupts) if vector != NO_VECTOR && !self.0.is_polled() => {
                interrupts.wait(vector, Duration::ZERO)?;
            }
            // The device sets its bit under MSI-X too (4.1.4.5.1).
            _ => self.0.poll_isr()?,
        }
        Ok(self.0.lines.take_config())
    }
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigWatch({:?})", self.0.lines)
    }
}

/// The device type of a modern virtio function; says why it is none.
pub(super) fn device_id(id: Option<(u16, u16)>) -> Result<DeviceId, TransportError> {
    let Some((vendor, device)) = id else { return Err(TransportError::Disconnected) };
    if vendor != PCI_VENDOR_ID {
        return Err(TransportError::Unsupported("a PCI function that is no virtio device"));
    }
    match DeviceId::from_pci(device) {
        Some(id) if device > PCI_DEVICE_ID_BASE => Ok(id),
        Some(_) => Err(TransportError::Unsupported(
            "a transitional virtio device: only modern ones are driven (QEMU: disable-legacy=on)",
        )),
        None => Err(TransportError::Unsupported("a PCI function that is no virtio device")),
    }
}

impl PciTransport {
    /// Finds the device's registers. Its BARs must have addresses; it is allowed to reach memory from now on.
    pub fn open(host: Arc<dyn Host>, at: Address) -> Result<Self, TransportError> {
        let function = Function::new(&*host, at);
        let device = device_id(function.id()?)?;
        let (subsystem_vendor, subsystem_device) = function.subsystem()?;
        let identity = Identity {
            vendor: PCI_VENDOR_ID.into(),
            device,
            subsystem_vendor: subsystem_vendor.into(),
            subsystem_device: subsystem_device.into(),
            class: function.class()?,
        };
        let command = function.command()?;
        function.set_command(command | COMMAND_MEMORY | COMMAND_BUS_MASTER)?;
        let found = Layout::find(&*host, at)
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
        // QEMU shows the queues that need a feature only when that was accepted. It has a vector for each, unless
        // its user has chosen otherwise.
        let room = msix.as_ref().map_or(0, |msix| msix.vectors).max(ROOM);
        let shared = Arc::new(Shared {
            lines: Lines::with_room(queues, room),
            interrupts: msix.and_then(|_| host.interrupts(at)),
            clock: host.clock(),
            isr: layout.isr,
            polled: AtomicBool::new(true),
        });
        Ok(Self {
            at,
            identity,
            arena: host.arena(at),
            common: Common(layout.common),
            notify: layout.notify,
            notify_multiplier: layout.notify_multiplier,
            config: layout.device,
            shared,
            msix,
            vectors: Vectors::Undecided,
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

    /// Decides how interrupts come in, the best way that works (4.1.5.1.2).
    fn decide_vectors(&mut self) -> Result<Vectors, TransportError> {
        if self.vectors != Vectors::Undecided {
            return Ok(self.vectors);
        }
        let queues = self.shared.lines.queue_count();
        for vectors in Vectors::ALL {
            if self.try_vectors(vectors, queues)? {
                self.shared.polled.store(false, Ordering::Relaxed);
                self.vectors = vectors;
                return Ok(vectors);
            }
        }
        self.poll_instead()?;
        Ok(self.vectors)
    }

    fn try_vectors(&self, vectors: Vectors, queues: u16) -> Result<bool, TransportError> {
        let (Some(msix), Some(interrupts)) = (&self.msix, &self.shared.interrupts) else {
            return Ok(false);
        };
        let count = vectors.count(queues);
        if count > msix.vectors {
            return Ok(false);
        }
        // A machine that has not that many left may have fewer.
        let Ok(messages) = interrupts.arm(count, &self.shared.lines) else { return Ok(false) };
        if !messages.is_empty() {
            msix.enable(&*self.host, &self.function(), &messages)?;
        }
        if vectors != Vectors::Own && queues > 1 {
            self.shared.lines.set_shared();
        }
        if self.common.set_config_vector(0)? {
            self.shared.lines.set_config_vector(0);
        }
        Ok(true)
    }

    /// Gives MSI-X up: the interrupt status is polled, for all queues.
    fn poll_instead(&mut self) -> Result<(), TransportError> {
        self.vectors = Vectors::Polled;
        self.shared.polled.store(true, Ordering::Relaxed);
        self.shared.lines.set_config_vector(NO_VECTOR);
        self.stop_interrupts()?;
        let function = self.function();
        function.set_command(function.command()? | COMMAND_NO_INTX)
    }

    fn stop_interrupts(&self) -> Result<(), TransportError> {
        if let Some(interrupts) = &self.shared.interrupts {
            interrupts.disarm();
        }
        match &self.msix {
            Some(msix) => msix.disable(&self.function()),
            None => Ok(()),
        }
    }

    /// The register that a queue is notified by (4.1.4.4.1).
    fn doorbell(&self, index: u16, notify_off: u16) -> Result<Doorbell, TransportError> {
        let data = self.features.contains(F::NOTIFICATION_DATA);
        let offset = u64::from(notify_off) * u64::from(self.notify_multiplier);
        let register = self.notify.part(offset, if data { 4 } else { 2 });
        let register = register.ok_or(TransportError::Protocol("a notification register out of bounds"))?;
        Ok(Doorbell { register, index, data })
    }

    /// Gives the selected queue a vector that the device keeps, if there is one.
    fn set_queue_vector(&mut self, index: u16) -> Result<u16, TransportError> {
        let vectors = self.decide_vectors()?;
        if vectors == Vectors::Polled {
            return Ok(NO_VECTOR);
        }
        let queue = self.common.select(index)?;
        let own = vectors.of_queue(index);
        if queue.set_vector(own)? {
            return Ok(own);
        }
        // The configuration's can be shared with anyone.
        if queue.set_vector(0)? {
            self.shared.lines.set_shared();
            return Ok(0);
        }
        self.poll_instead()?;
        Ok(NO_VECTOR)
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

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        let function = self.function();
        if let Err(error) = self.common.reset(&*self.shared.clock, self.reset_limit) {
            // A device that does not answer shall at least not write to memory; no proof that it does not.
            let _ = function.set_command(function.command()? & !COMMAND_BUS_MASTER);
            return Err(error);
        }
        let command = function.command()? & !COMMAND_NO_INTX;
        function.set_command(command | COMMAND_MEMORY | COMMAND_BUS_MASTER)?;
        self.stop_interrupts()?;
        self.shared.lines.clear();
        self.shared.polled.store(true, Ordering::Relaxed);
        self.vectors = Vectors::Undecided;
        self.features = Features::EMPTY;
        Ok(Quiesced::on(Evidence::DeviceReset))
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        self.common.status()
    }

    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        if status.contains(Status::DRIVER_OK) {
            self.decide_vectors()?;
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
        let vector = self.set_queue_vector(index)?;
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
        let _ = self.stop_interrupts();
        let _ = self.function().set_command(self.command);
    }
}

impl fmt::Debug for PciTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciTransport")
            .field("at", &self.at)
            .field("identity", &self.identity)
            .field("vectors", &self.vectors)
            .finish_non_exhaustive()
    }
}
