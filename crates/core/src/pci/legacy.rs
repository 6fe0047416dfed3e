//! Transitional and legacy devices by their legacy registers (4.1.4.10): a block of I/O ports in BAR 0.

use super::config::{Address, COMMAND_BUS_MASTER, COMMAND_IO, COMMAND_MEMORY, Function};
use super::msix::Msix;
use super::notifier::{Doorbell, Line};
use super::routing::{ConfigWatch, Routing, Shared, VectorRegisters};
use super::{Host, transport};
use crate::driver::QueueInterrupt;
use crate::registers::{Window, wait_for};
use crate::transport::{Identity, Legacy, Notifier, QueueSetup, Transport, TransportError};
use crate::transport::{LEGACY_FEATURES, count_queues};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_spec::pci::legacy as offset;
use virtio_kit_spec::{Features, Status};

/// A virtio device behind the legacy registers of a PCI function.
///
/// Dropped, it stops interrupts and puts the command register back, as
/// [`PciTransport`](super::PciTransport) does.
pub struct LegacyTransport {
    host: Arc<dyn Host>,
    at: Address,
    identity: Identity,
    arena: Arena,
    required: Features,
    registers: Registers,
    shared: Arc<Shared>,
    routing: Routing,
    command: u16,
    reset_limit: Duration,
}

/// The block. Where the configuration of the device type begins depends on MSI-X.
struct Registers(Window);

impl Registers {
    fn select(&self, queue: u16) -> Result<&Window, TransportError> {
        self.0.write16(offset::QUEUE_SELECT, queue)?;
        Ok(&self.0)
    }

    fn size(&self, queue: u16) -> Result<u16, TransportError> {
        self.select(queue)?.read16(offset::QUEUE_SIZE)
    }

    fn status(&self) -> Result<Status, TransportError> {
        Ok(Status::from_bits_retain(self.0.read8(offset::DEVICE_STATUS)?))
    }
}

impl VectorRegisters for Registers {
    fn set_config_vector(&self, vector: u16) -> Result<bool, TransportError> {
        self.0.write16(offset::CONFIG_MSIX_VECTOR, vector)?;
        Ok(self.0.read16(offset::CONFIG_MSIX_VECTOR)? == vector)
    }

    fn set_queue_vector(&self, queue: u16, vector: u16) -> Result<bool, TransportError> {
        let registers = self.select(queue)?;
        registers.write16(offset::QUEUE_MSIX_VECTOR, vector)?;
        Ok(registers.read16(offset::QUEUE_MSIX_VECTOR)? == vector)
    }
}

impl LegacyTransport {
    /// Finds the device's registers. Its BAR 0 must have an address; it is allowed to reach memory from now on.
    pub fn open(host: Arc<dyn Host>, at: Address) -> Result<Self, TransportError> {
        let function = Function::new(&*host, at);
        let identity = transport::identity(&function)?;
        let command = function.command()?;
        // Some have their MSI-X table in memory.
        function.set_command(command | COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER)?;
        let found = host.map_bar(at, 0).and_then(|registers| {
            let len = registers.len();
            let short = TransportError::Protocol("a BAR with too few registers for a legacy device");
            let registers = Registers(
                Window::new(registers, 0, len).filter(|w| w.len() > offset::CONFIG as u64).ok_or(short)?,
            );
            let queues = count_queues(|queue| registers.size(queue))?;
            let isr = registers.0.part(offset::ISR_STATUS as u64, 1).ok_or(short)?;
            Ok((registers, queues, isr, Msix::find(&function)?))
        });
        let (registers, queues, isr, msix) = match found {
            Ok(found) => found,
            Err(error) => {
                // The first failure is the one to report.
                let _ = function.set_command(command);
                return Err(error);
            }
        };
        let shared = Shared::new(&*host, at, queues, msix.as_ref(), isr);
        Ok(Self {
            at,
            identity,
            arena: host.arena(at),
            required: host.required_features(at),
            registers,
            routing: Routing::new(host.clone(), at, msix, shared.clone()),
            shared,
            command,
            reset_limit: transport::RESET_LIMIT,
            host,
        })
    }

    /// Sets how long the device may take to reset itself: 10 seconds otherwise.
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

    /// The configuration of the device type, where it is now.
    fn config(&self) -> Result<Window, TransportError> {
        let start =
            if self.routing.has_messages() { offset::CONFIG_WITH_MSIX } else { offset::CONFIG } as u64;
        let none = TransportError::Unsupported("the device has no configuration");
        self.registers.0.part(start, self.registers.0.len().saturating_sub(start)).ok_or(none)
    }
}

impl Transport for LegacyTransport {
    fn name(&self) -> &str {
        "pci-legacy"
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn allowed_features(&self) -> Features {
        LEGACY_FEATURES
    }

    fn required_features(&self) -> Features {
        self.required
    }

    fn legacy(&self) -> Option<Legacy> {
        Some(Legacy { ring_align: offset::PAGE_SIZE, fixed_size: true })
    }

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        let function = self.function();
        self.registers.0.write8(offset::DEVICE_STATUS, 0)?;
        let done = || Ok(self.registers.status()?.is_empty());
        if let Err(error) = wait_for(&*self.shared.clock, self.reset_limit, done) {
            let _ = function.set_command(function.command()? & !COMMAND_BUS_MASTER);
            return Err(error);
        }
        let all = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER;
        function.set_command(function.command()? | all)?;
        self.routing.reset()?;
        Ok(Quiesced::on(Evidence::DeviceReset))
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        self.registers.status()
    }

    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        if status.contains(Status::DRIVER_OK) {
            self.routing.decide(&self.registers)?;
        }
        self.registers.0.write8(offset::DEVICE_STATUS, status.bits())
    }

    fn device_features(&mut self) -> Result<Features, TransportError> {
        Ok(Features::from_low(self.registers.0.read32(offset::DEVICE_FEATURES)?.into()))
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError> {
        self.registers.0.write32(offset::DRIVER_FEATURES, features.word(0))
    }

    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        self.config()?.read_bytes(offset, to)
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        self.config()?.write_bytes(offset, from)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        if index >= self.shared.lines.queue_count() { Ok(0) } else { self.registers.size(index) }
    }

    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        let size = self.max_queue_size(index)?;
        if size == 0 {
            return Err(TransportError::NoQueue(index));
        }
        if size != setup.size {
            return Err(TransportError::Unsupported("another size of a queue than the device's"));
        }
        if self.registers.select(index)?.read32(offset::QUEUE_ADDRESS)? != 0 {
            return Err(TransportError::Refused("a queue that is enabled already"));
        }
        let page = u32::try_from(setup.addrs.desc.get() / offset::PAGE_SIZE as u64).map_err(|_| {
            TransportError::Unsupported("a ring above 16 TiB, which no legacy device can reach")
        })?;
        let vector = self.routing.queue_vector(&self.registers, index)?;
        self.shared.lines.connect(index, vector, interrupt);
        let registers = self.registers.select(index)?;
        registers.write32(offset::QUEUE_ADDRESS, page)?;
        if registers.read32(offset::QUEUE_ADDRESS)? != page {
            return Err(TransportError::Refused("enabling a queue"));
        }
        let register = registers.part(offset::QUEUE_NOTIFY as u64, 2);
        let register = register.ok_or(TransportError::Protocol("a notification register out of bounds"))?;
        let doorbell = Doorbell { register, index, data: false };
        Ok(Box::new(Line { doorbell, vector, shared: self.shared.clone() }))
    }

    fn reset_queue(&mut self, _: u16) -> Result<Quiesced, TransportError> {
        Err(TransportError::Unsupported("resetting a single queue"))
    }
}

impl Drop for LegacyTransport {
    fn drop(&mut self) {
        // Nobody is left to be told of a function that does not answer.
        let _ = self.routing.stop();
        let _ = self.function().set_command(self.command);
    }
}

impl fmt::Debug for LegacyTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyTransport")
            .field("at", &self.at)
            .field("identity", &self.identity)
            .field("interrupts", &self.routing)
            .finish_non_exhaustive()
    }
}
