//! The device's end of virtio over MMIO (4.2.2, 4.2.4): a register block as a state machine.
//!
//! A monitor hands the driver's accesses to a [`MmioDevice`], by offset and width, and does for it what
//! [`Monitor`] says: runs queues that are notified, and raises and lowers the interrupt line. No access panics or fails:
//! one that the document does not allow reads 0 and writes nothing.

mod queue;
mod signals;
mod state;

pub use queue::QueueRegisters;
pub use state::MmioState;

use crate::device::{Device, DeviceError, DeviceMemory, Engine, Monitor, RestoreError, Run, SharedMemory};
use crate::registers::Width;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use signals::Line;
use spin::Mutex;
use virtio_kit_spec::mmio as at;
use virtio_kit_spec::mmio::legacy;
use virtio_kit_spec::{F, Features, Status};

/// Ring features that this transport can offer, in version 2.
const RING_FEATURES: Features = F::INDIRECT_DESC
    .union(F::EVENT_IDX)
    .union(F::VERSION_1)
    .union(F::ACCESS_PLATFORM)
    .union(F::RING_PACKED)
    .union(F::IN_ORDER)
    .union(F::ORDER_PLATFORM)
    .union(F::NOTIFICATION_DATA)
    .union(F::RING_RESET);

/// What a register block is to be.
pub struct Options {
    /// Whether it is of the legacy version 1, and not of version 2.
    pub legacy: bool,
    /// The vendor's id, which is the maker's of the monitor.
    pub vendor: u32,
    /// Ring features that are offered, of those that the transport carries.
    pub ring_features: Features,
    /// The memory that the device reaches.
    pub memory: DeviceMemory,
    /// Shared memory regions (2.10), by physical address.
    pub shared_memory: Vec<SharedMemory>,
}

impl Options {
    /// Version 2, with everything that both ends of this project can do, packed and in order too.
    pub fn new(memory: impl Into<DeviceMemory>) -> Self {
        let ring_features = RING_FEATURES;
        Self { legacy: false, vendor: 0, ring_features, memory: memory.into(), shared_memory: Vec::new() }
    }
}

/// A virtio device behind a block of registers. To be shared by the threads that access registers and those that run
/// queues.
pub struct MmioDevice {
    engine: Engine<Line>,
    registers: Mutex<Registers>,
    monitor: Arc<dyn Monitor>,
    shared_memory: Vec<SharedMemory>,
    vendor: u32,
    legacy: bool,
}

/// Registers that the machine behind them does not have.
struct Registers {
    device_word: u32,
    driver_word: u32,
    /// What the driver has written so far.
    features: Features,
    queue: u32,
    region: u32,
    page_size: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    fn new(queues: u16) -> Self {
        Self {
            device_word: 0,
            driver_word: 0,
            features: Features::EMPTY,
            queue: 0,
            region: 0,
            page_size: 0,
            queues: alloc::vec![QueueRegisters::default(); queues.into()],
        }
    }
}

impl MmioDevice {
    /// Puts a device behind a block of registers. Fails for a legacy block if the device has no legacy interface.
    pub fn new(
        device: Box<dyn Device>,
        monitor: Arc<dyn Monitor>,
        options: Options,
    ) -> Result<Self, DeviceError> {
        let Options { legacy, vendor, ring_features, memory, shared_memory } = options;
        let features = ring_features & RING_FEATURES;
        let line = Arc::new(Line::new(monitor.clone()));
        let engine = Engine::new(device, features, legacy, memory, line, &monitor)?;
        let registers = Mutex::new(Registers::new(engine.queue_count()));
        Ok(Self { engine, registers, monitor, shared_memory, vendor, legacy })
    }

    /// The driver reads `width` bytes at `offset`.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let Ok(offset) = usize::try_from(offset) else { return 0 };
        if offset >= at::CONFIG {
            return self.read_config(offset - at::CONFIG, width);
        }
        if width != Width::U32 || !offset.is_multiple_of(4) {
            return 0;
        }
        u64::from(if self.legacy { self.read_legacy(offset) } else { self.read_modern(offset) })
    }

    fn read_either(&self, offset: usize) -> u32 {
        let registers = self.registers.lock();
        match offset {
            at::MAGIC_VALUE => at::MAGIC,
            at::DEVICE_ID => self.engine.machine().id().0,
            at::VENDOR_ID => self.vendor,
            at::DEVICE_FEATURES => self.engine.machine().offered().word(registers.device_word),
            at::QUEUE_SIZE_MAX => match u16::try_from(registers.queue) {
                Ok(queue) => self.engine.machine().max_queue_size(queue).into(),
                Err(_) => 0,
            },
            at::INTERRUPT_STATUS => self.engine.signals.status(),
            at::STATUS => self.engine.status().bits().into(),
            _ => 0,
        }
    }

    fn read_modern(&self, offset: usize) -> u32 {
        match offset {
            at::VERSION => at::VERSION_MODERN,
            at::QUEUE_READY => self.with_queue(|queue, index| self.is_ready(queue, index)).into(),
            at::QUEUE_RESET => self.with_queue(|queue, _| queue.resetting).into(),
            at::SHM_LEN_LOW => self.region(|region| region.len) as u32,
            at::SHM_LEN_HIGH => (self.region(|region| region.len) >> 32) as u32,
            at::SHM_BASE_LOW => self.region(|region| region.start) as u32,
            at::SHM_BASE_HIGH => (self.region(|region| region.start) >> 32) as u32,
            at::CONFIG_GENERATION => self.engine.machine().generation(),
            _ => self.read_either(offset),
        }
    }

    fn read_legacy(&self, offset: usize) -> u32 {
        match offset {
            at::VERSION => at::VERSION_LEGACY,
            legacy::QUEUE_PFN => self.with_queue(|queue, _| queue.page),
            _ => self.read_either(offset),
        }
    }

    fn is_ready(&self, queue: &QueueRegisters, index: u16) -> bool {
        queue.stuck || self.engine.is_enabled(index)
    }

    /// What is asked of the queue that is selected; nothing, if it is not there.
    fn with_queue<R: Default>(&self, ask: impl FnOnce(&mut QueueRegisters, u16) -> R) -> R {
        let mut registers = self.registers.lock();
        let index = registers.queue;
        match registers.queues.get_mut(index as usize) {
            Some(queue) => ask(queue, index as u16),
            None => R::default(),
        }
    }

    /// All ones for a region that is not there (4.2.2.1).
    fn region(&self, value: impl Fn(&SharedMemory) -> u64) -> u64 {
        let id = self.registers.lock().region;
        let region = self.shared_memory.iter().find(|region| u32::from(region.id) == id);
        region.map_or(at::SHM_NONE, value)
    }

    fn read_config(&self, offset: usize, width: Width) -> u64 {
        let mut bytes = [0; 8];
        if offset.is_multiple_of(width.bytes() as usize) {
            self.engine.machine().read_config(offset, &mut bytes[..width.bytes() as usize]);
        }
        u64::from_le_bytes(bytes)
    }

    /// The driver writes `width` bytes at `offset`.
    pub fn write(&self, offset: u64, width: Width, value: u64) {
        let Ok(offset) = usize::try_from(offset) else { return };
        if offset >= at::CONFIG {
            return self.write_config(offset - at::CONFIG, width, value);
        }
        if width != Width::U32 || !offset.is_multiple_of(4) {
            return;
        }
        let value = value as u32;
        match offset {
            // The data path: nothing is locked.
            at::QUEUE_NOTIFY => self.notified(value),
            at::INTERRUPT_ACK => self.engine.signals.acknowledge(value),
            at::STATUS => self.write_status(value),
            _ if self.legacy => self.write_legacy(offset, value),
            _ => self.write_modern(offset, value),
        }
    }

    /// With NOTIFICATION_DATA the upper half is where the ring stands, which the ring says too; without it, it is 0.
    fn notified(&self, value: u32) {
        let queue = value as u16;
        if queue < self.engine.queue_count() {
            self.monitor.doorbell(queue);
        }
    }

    fn write_status(&self, value: u32) {
        // Bits above the eighth are none of the status field; a value of only those is not 0, and so no reset.
        let status = Status::from_bits_retain(value as u8);
        if status == Status::RESET && value != 0 {
            return;
        }
        let runs = self.engine.set_status(status);
        if status == Status::RESET {
            self.engine.signals.reset();
            *self.registers.lock() = Registers::new(self.engine.queue_count());
        }
        if runs {
            // Rings may have been filled before DRIVER_OK (3.1.1).
            (0..self.engine.queue_count()).for_each(|queue| self.monitor.doorbell(queue));
        }
    }

    fn write_either(&self, offset: usize, value: u32) {
        let mut registers = self.registers.lock();
        match offset {
            at::DEVICE_FEATURES_SEL => registers.device_word = value,
            at::DRIVER_FEATURES_SEL => registers.driver_word = value,
            at::DRIVER_FEATURES => {
                registers.features = registers.features.with_word(registers.driver_word, value);
                self.engine.machine().set_accepted(registers.features);
            }
            at::QUEUE_SEL => registers.queue = value,
            at::SHM_SEL => registers.region = value,
            _ => {}
        }
    }

    fn write_config(&self, offset: usize, width: Width, value: u64) {
        let width = width.bytes() as usize;
        if offset.is_multiple_of(width) {
            self.engine.machine().write_config(offset, &value.to_le_bytes()[..width]);
        }
    }

    /// Runs queue `queue` once: takes what is available, completes what is done, interrupts if the driver wants it.
    /// `None` if it is not started, or is in somebody else's hands at this moment. So a monitor runs a queue from one
    /// thread, or remembers a doorbell that found it taken: nobody else does.
    pub fn run(&self, queue: u16) -> Option<Result<Run, DeviceError>> {
        self.engine.run(queue)
    }

    /// Asks the driver to notify from now on, before the monitor waits for that; `false` if there is work already.
    pub fn arm(&self, queue: u16) -> bool {
        self.engine.arm(queue)
    }

    /// Asks the driver not to notify, while the monitor looks by itself.
    pub fn disarm(&self, queue: u16) {
        self.engine.disarm(queue);
    }

    /// Waits, for a bounded time, until pending work of a queue is done.
    pub fn wait(&self, queue: u16) -> Result<(), DeviceError> {
        self.engine.wait(queue)
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        self.engine.queue_count()
    }

    /// The status field.
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// Ends the work in flight, stops all queues, and gives all that is needed to go on, here by
    /// [`resume`](Self::resume) or elsewhere by [`restore`](Self::restore). No register may be accessed meanwhile.
    pub fn save(&self) -> Result<MmioState, DeviceError> {
        let machine = self.engine.save()?;
        Ok(state::save(machine, &self.registers.lock(), self.engine.signals.status()))
    }

    /// Goes on after [`save`](Self::save) or [`restore`](Self::restore): every queue is started, and to be run once.
    pub fn resume(&self) -> Result<(), DeviceError> {
        self.engine.resume()?;
        (0..self.engine.queue_count()).for_each(|queue| self.monitor.doorbell(queue));
        Ok(())
    }

    /// Makes a device that is reset what another of its kind was when it was saved. The state is believed no more
    /// than a driver; after an error the device is reset.
    pub fn restore(&self, state: &MmioState) -> Result<(), RestoreError> {
        let registers = state::registers(state, self.engine.queue_count(), self.legacy)?;
        self.engine.restore(&state.machine)?;
        *self.registers.lock() = registers;
        self.engine.signals.restore(state.interrupt);
        Ok(())
    }
}

impl fmt::Debug for MmioDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioDevice")
            .field("legacy", &self.legacy)
            .field("machine", &*self.engine.machine())
            .finish_non_exhaustive()
    }
}
