//! How a function's interrupts come in, the best way that works (4.1.5.1.2): MSI-X with a vector for each queue, with
//! shared ones, the interrupt line (INTx), or none, and then the interrupt status is polled.

use super::Host;
use super::config::{Address, COMMAND_NO_INTX, Function};
use super::interrupts::Interrupts;
use super::msix::Msix;
use crate::clock::Clock;
use crate::interrupts::{InterruptLine, LineHandler, Lines};
use crate::registers::Window;
use crate::transport::TransportError;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use virtio_kit_spec::pci::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR};

/// The registers by which a device is told its vectors: modern and legacy ones differ.
pub(super) trait VectorRegisters {
    /// Whether the device keeps the vector for configuration changes.
    fn set_config_vector(&self, vector: u16) -> Result<bool, TransportError>;
    /// Whether the device keeps the vector of a queue.
    fn set_queue_vector(&self, queue: u16, vector: u16) -> Result<bool, TransportError>;
}

/// Where a queue's lines look for interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Source {
    /// In the interrupt status.
    Status,
    /// On the interrupt line, which says to look into the interrupt status.
    Line,
    /// In messages.
    Messages,
}

/// What queues' lines need of the device.
pub(super) struct Shared {
    pub(super) lines: Arc<Lines>,
    pub(super) interrupts: Option<Arc<dyn Interrupts>>,
    pub(super) line: Option<Arc<dyn InterruptLine>>,
    pub(super) clock: Arc<dyn Clock>,
    isr: Window,
    source: AtomicU8,
}

/// Queues that there is room for at least, however many the device shows at first.
const ROOM: u16 = 64;

impl Shared {
    /// Of a function that has `queues` queues.
    pub(super) fn new(
        host: &dyn Host,
        at: Address,
        queues: u16,
        msix: Option<&Msix>,
        isr: Window,
    ) -> Arc<Self> {
        // QEMU shows the queues that need a feature only when that was accepted. It has a vector for each, unless
        // its user has chosen otherwise.
        let room = msix.map_or(0, |msix| msix.vectors).max(ROOM);
        Arc::new(Self {
            lines: Lines::with_room(queues, room),
            interrupts: msix.and_then(|_| host.interrupts(at)),
            line: host.line(at),
            clock: host.clock(),
            isr,
            source: AtomicU8::new(Source::Status as u8),
        })
    }

    pub(super) fn source(&self) -> Source {
        match self.source.load(Ordering::Relaxed) {
            2 => Source::Messages,
            1 => Source::Line,
            _ => Source::Status,
        }
    }

    fn set_source(&self, source: Source) {
        self.source.store(source as u8, Ordering::Relaxed);
    }

    /// Reads the interrupt status, which clears it and lowers the line (4.1.4.5), and passes on what is in it;
    /// whether there was anything.
    pub(super) fn poll_isr(&self) -> Result<bool, TransportError> {
        let isr = self.isr.read8(0)?;
        if isr & ISR_QUEUE != 0 {
            self.lines.fire_all();
        }
        if isr & ISR_CONFIG != 0 {
            self.lines.fire_config();
        }
        Ok(isr & (ISR_QUEUE | ISR_CONFIG) != 0)
    }
}

impl LineHandler for Shared {
    fn handle(&self) -> bool {
        // Registers that cannot be read have nothing to say; whoever waits for the device learns it.
        self.poll_isr().unwrap_or(false)
    }
}

/// Tells of changes of a device's configuration, for a bus to poll.
#[derive(Clone)]
pub struct ConfigWatch(pub(super) Arc<Shared>);

impl ConfigWatch {
    /// Whether the device announced a change since the last call (2.3, 4.1.5.4).
    pub fn changed(&self) -> Result<bool, TransportError> {
        let vector = self.0.lines.config_vector();
        match (&self.0.interrupts, &self.0.line, self.0.source()) {
            (Some(interrupts), _, Source::Messages) if vector != NO_VECTOR => {
                interrupts.wait(vector, Duration::ZERO)?;
            }
            (_, Some(line), Source::Line) => _ = line.wait(Duration::ZERO)?,
            // The device sets its bit under MSI-X too (4.1.4.5.1).
            _ => _ = self.0.poll_isr()?,
        }
        Ok(self.0.lines.take_config())
    }
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigWatch({:?})", self.0.lines)
    }
}

/// Which vectors are whose.
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
    /// None.
    Without,
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

/// Decides, and turns on and off.
pub(super) struct Routing {
    host: Arc<dyn Host>,
    at: Address,
    msix: Option<Msix>,
    vectors: Vectors,
    shared: Arc<Shared>,
}

impl Routing {
    pub(super) fn new(host: Arc<dyn Host>, at: Address, msix: Option<Msix>, shared: Arc<Shared>) -> Self {
        Self { host, at, msix, vectors: Vectors::Undecided, shared }
    }

    fn function(&self) -> Function<'_, dyn Host> {
        Function::new(&*self.host, self.at)
    }

    /// Whether MSI-X is on, or may be: registers of legacy devices move with it.
    pub(super) fn has_messages(&self) -> bool {
        matches!(self.vectors, Vectors::Own | Vectors::Shared | Vectors::One)
    }

    /// Decides, unless that was done since the last reset.
    pub(super) fn decide(&mut self, registers: &dyn VectorRegisters) -> Result<(), TransportError> {
        if self.vectors != Vectors::Undecided {
            return Ok(());
        }
        for vectors in Vectors::ALL {
            if self.try_vectors(registers, vectors)? {
                return Ok(());
            }
        }
        self.without_messages()
    }

    fn try_vectors(
        &mut self,
        registers: &dyn VectorRegisters,
        vectors: Vectors,
    ) -> Result<bool, TransportError> {
        let (Some(msix), Some(interrupts)) = (&self.msix, &self.shared.interrupts) else {
            return Ok(false);
        };
        let queues = self.shared.lines.queue_count();
        let count = vectors.count(queues);
        if count > msix.vectors {
            return Ok(false);
        }
        // A machine that has not that many left may have fewer.
        let Ok(messages) = interrupts.arm(count, &self.shared.lines) else { return Ok(false) };
        if !messages.is_empty() {
            msix.enable(&*self.host, &self.function(), &messages)?;
        }
        self.vectors = vectors;
        self.shared.set_source(Source::Messages);
        if vectors != Vectors::Own && queues > 1 {
            self.shared.lines.set_shared();
        }
        if registers.set_config_vector(0)? {
            self.shared.lines.set_config_vector(0);
        }
        Ok(true)
    }

    /// Gives MSI-X up: the interrupt line, or else the interrupt status, for all queues.
    fn without_messages(&mut self) -> Result<(), TransportError> {
        self.stop()?;
        self.vectors = Vectors::Without;
        self.shared.lines.set_config_vector(NO_VECTOR);
        let connected = match &self.shared.line {
            Some(line) => line.connect(self.shared.clone()).is_ok(),
            None => false,
        };
        self.shared.set_source(if connected { Source::Line } else { Source::Status });
        let function = self.function();
        let command = function.command()?;
        function.set_command(if connected { command & !COMMAND_NO_INTX } else { command | COMMAND_NO_INTX })
    }

    /// Gives a queue a vector that the device keeps; [`NO_VECTOR`] without messages.
    pub(super) fn queue_vector(
        &mut self,
        registers: &dyn VectorRegisters,
        queue: u16,
    ) -> Result<u16, TransportError> {
        self.decide(registers)?;
        if !self.has_messages() {
            return Ok(NO_VECTOR);
        }
        let own = self.vectors.of_queue(queue);
        if registers.set_queue_vector(queue, own)? {
            return Ok(own);
        }
        // The configuration's can be shared with anyone.
        if registers.set_queue_vector(queue, 0)? {
            self.shared.lines.set_shared();
            return Ok(0);
        }
        self.without_messages()?;
        Ok(NO_VECTOR)
    }

    /// Nothing fires any more.
    pub(super) fn stop(&self) -> Result<(), TransportError> {
        if let Some(interrupts) = &self.shared.interrupts {
            interrupts.disarm();
        }
        if self.shared.source() == Source::Line
            && let Some(line) = &self.shared.line
        {
            line.disconnect();
        }
        match &self.msix {
            Some(msix) => msix.disable(&self.function()),
            None => Ok(()),
        }
    }

    /// The device was reset: it has forgotten its vectors, and so have we.
    pub(super) fn reset(&mut self) -> Result<(), TransportError> {
        let function = self.function();
        function.set_command(function.command()? & !COMMAND_NO_INTX)?;
        self.stop()?;
        self.shared.lines.clear();
        self.shared.set_source(Source::Status);
        self.vectors = Vectors::Undecided;
        Ok(())
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vectors.fmt(f)
    }
}
