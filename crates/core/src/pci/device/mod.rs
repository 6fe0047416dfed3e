//! The device's end of virtio over PCI (4.1): a function of the modern interface as a state machine.
//!
//! A monitor hands the driver's accesses to a [`PciDevice`]: those to configuration space, and those to BARs, by
//! number and offset or by address ([`decode`](PciDevice::decode)). It does for the function what [`Monitor`] says:
//! runs queues that are notified, raises and lowers the interrupt line, delivers messages. No access panics or fails:
//! one that the document does not allow reads 0 and writes nothing.
//!
//! | BAR | what is in it |
//! |---|---|
//! | 0 | common configuration, interrupt status, device configuration, notifications |
//! | 2 | MSI-X table and pending bits |
//! | 4 | shared memory regions, if there are any; the monitor maps them |

mod common;
mod layout;
mod signals;
mod space;
mod state;

pub use common::QueueRegisters;
pub use signals::{InterruptState, Vector};
pub use space::Ids;
pub use state::PciState;

use crate::device::{Device, DeviceError, DeviceMemory, Engine, Monitor, RestoreError, Run, SharedMemory};
use crate::registers::Width;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use common::Common;
use core::fmt;
use layout::{BAR_MSIX, BAR_REGISTERS, CONFIG, CONFIG_LEN, ISR, Layout};
use signals::Interrupts;
use space::{MOST_REGIONS, SIZE, Space};
use spin::Mutex;
use virtio_kit_spec::device_id::PCI_VENDOR_ID;
use virtio_kit_spec::{DeviceId, F, Features, Status};

/// Ring features that this transport can offer.
const RING_FEATURES: Features = F::INDIRECT_DESC
    .union(F::EVENT_IDX)
    .union(F::VERSION_1)
    .union(F::ACCESS_PLATFORM)
    .union(F::RING_PACKED)
    .union(F::IN_ORDER)
    .union(F::ORDER_PLATFORM)
    .union(F::NOTIFICATION_DATA)
    .union(F::RING_RESET);

/// What a function is to be.
pub struct Options {
    /// What it is called.
    pub ids: Ids,
    /// Ring features that are offered, of those that the transport carries.
    pub ring_features: Features,
    /// MSI-X vectors, 1 to 2048; `None` for one more than there are queues.
    pub vectors: Option<u16>,
    /// The memory that the device reaches.
    pub memory: DeviceMemory,
    /// Shared memory regions (2.10), by offset in BAR 4; at most three.
    pub shared_memory: Vec<SharedMemory>,
}

impl Options {
    /// With everything that both ends of this project can do, packed and in order too.
    pub fn new(memory: impl Into<DeviceMemory>) -> Self {
        // Neither storage nor anything else that firmware would try to use by its class.
        let ids = Ids { subsystem_vendor: PCI_VENDOR_ID, subsystem: 0x40, class: 0xff_0000 };
        let ring_features = RING_FEATURES;
        Self { ids, ring_features, vectors: None, memory: memory.into(), shared_memory: Vec::new() }
    }
}

/// A virtio device behind a PCI function. To be shared by the threads that access registers and those that run queues.
pub struct PciDevice {
    engine: Engine<Interrupts>,
    common: Mutex<Common>,
    space: Mutex<Space>,
    layout: Layout,
    monitor: Arc<dyn Monitor>,
}

impl PciDevice {
    /// Puts a device behind a function. Fails if there is no PCI device id for its type, or the shared memory regions
    /// are more, or larger, than there is room for.
    pub fn new(
        device: Box<dyn Device>,
        monitor: Arc<dyn Monitor>,
        options: Options,
    ) -> Result<Self, DeviceError> {
        let Options { ids, ring_features, vectors, memory, shared_memory } = options;
        let queues = device.queue_count();
        let vectors = vectors.unwrap_or(queues.saturating_add(1));
        let layout =
            Layout::new(queues, vectors, &shared_memory).filter(|_| shared_memory.len() <= MOST_REGIONS);
        let layout = layout.ok_or(DeviceError::Setup("shared memory regions that have no room in a BAR"))?;
        let id: DeviceId = device.id();
        let space = Space::new(id, ids, &layout, &shared_memory);
        let space = space.ok_or(DeviceError::Setup("a device type without a PCI device id"))?;
        let signals = Arc::new(Interrupts::new(queues, &layout, monitor.clone()));
        let features = ring_features & RING_FEATURES;
        let engine = Engine::new(device, features, false, memory, signals, &monitor)?;
        let common = Mutex::new(Common::new(queues));
        Ok(Self { engine, common, space: Mutex::new(space), layout, monitor })
    }

    /// The driver reads `width` bytes of configuration space, 8, 16 or 32 bits.
    pub fn read_space(&self, offset: u16, width: Width) -> u32 {
        let offset = usize::from(offset);
        if width == Width::U64 || !offset.is_multiple_of(width.bytes() as usize) || offset >= SIZE {
            return 0;
        }
        if Space::is_window(offset) {
            let window = self.space.lock().window();
            let data = window.map_or(0, |(bar, at, width)| self.read_bar(bar, at, width));
            self.space.lock().set_window(data as u32);
        }
        let interrupt = self.engine.signals.asserted();
        self.space.lock().read(offset, width, interrupt)
    }

    /// The driver writes `width` bytes of configuration space, 8, 16 or 32 bits.
    pub fn write_space(&self, offset: u16, width: Width, value: u32) {
        let offset = usize::from(offset);
        if width == Width::U64 || !offset.is_multiple_of(width.bytes() as usize) || offset >= SIZE {
            return;
        }
        let mut space = self.space.lock();
        let could_reach = space.may().0;
        let changed = space.write(offset, width, value);
        let (may, msix, window) = (space.may(), space.msix(), space.window());
        drop(space);
        if changed.command || changed.msix {
            self.engine.signals.allow(may, msix);
        }
        if may.0 && !could_reach {
            // What was notified of meanwhile was not looked at.
            self.ring_all();
        }
        if let (Some(data), Some((bar, at, width))) = (changed.window, window) {
            self.write_bar(bar, at, width, data.into());
        }
    }

    /// Which BAR, and which offset in it, an access of `width` bytes at a physical address is to; `None` if it is not
    /// this function's, as far as it decodes its BARs now.
    pub fn decode(&self, address: u64, width: Width) -> Option<(u8, u64)> {
        let space = self.space.lock();
        self.layout.bars().find_map(|(bar, len)| {
            let offset = address.checked_sub(space.bar_address(bar)?)?;
            (offset < len && width.bytes() <= len - offset).then_some((bar, offset))
        })
    }

    /// Where a BAR is now, if the function decodes it: for a monitor that maps what is in it.
    pub fn bar_address(&self, bar: u8) -> Option<u64> {
        let there = self.layout.bars().any(|(number, _)| number == bar);
        if there { self.space.lock().bar_address(bar) } else { None }
    }

    /// The driver reads `width` bytes of a BAR.
    pub fn read_bar(&self, bar: u8, offset: u64, width: Width) -> u64 {
        if !offset.is_multiple_of(width.bytes()) {
            return 0;
        }
        match bar {
            BAR_REGISTERS => match offset {
                0..layout::COMMON_LEN => self.read_common(offset as usize, width),
                ISR if width == Width::U8 => self.engine.signals.take_isr().into(),
                CONFIG..layout::NOTIFY => self.read_config((offset - CONFIG) as usize, width),
                _ => 0,
            },
            BAR_MSIX => self.engine.signals.read(&self.layout, offset, width),
            _ => 0,
        }
    }

    fn read_config(&self, offset: usize, width: Width) -> u64 {
        let mut bytes = [0; 8];
        self.engine.machine().read_config(offset, &mut bytes[..width.bytes() as usize]);
        u64::from_le_bytes(bytes)
    }

    /// The driver writes `width` bytes of a BAR.
    pub fn write_bar(&self, bar: u8, offset: u64, width: Width, value: u64) {
        if !offset.is_multiple_of(width.bytes()) {
            return;
        }
        match bar {
            BAR_REGISTERS => match offset {
                // The data path: nothing is locked.
                layout::NOTIFY.. => self.notified(offset, width),
                CONFIG..layout::NOTIFY => {
                    let offset = (offset - CONFIG) as usize;
                    debug_assert!(offset < CONFIG_LEN as usize);
                    let bytes = value.to_le_bytes();
                    self.engine.machine().write_config(offset, &bytes[..width.bytes() as usize]);
                }
                0..layout::COMMON_LEN => self.write_common(offset as usize, width, value),
                _ => {}
            },
            BAR_MSIX => self.engine.signals.write(offset, width, value),
            _ => {}
        }
    }

    /// The register says which queue; what is written (the queue's number, with NOTIFICATION_DATA also where the ring
    /// stands) says no more than that and the ring do.
    fn notified(&self, offset: u64, width: Width) {
        if let (Width::U16 | Width::U32, Some(queue)) = (width, self.layout.notified(offset)) {
            self.monitor.doorbell(queue);
        }
    }

    fn ring_all(&self) {
        (0..self.engine.queue_count()).for_each(|queue| self.monitor.doorbell(queue));
    }

    /// Runs queue `queue` once: takes what is available, completes what is done, interrupts if the driver wants it.
    /// `None` if it is not started, or is in somebody else's hands at this moment. So a monitor runs a queue from one
    /// thread, or remembers a doorbell that found it taken: nobody else does. Neither
    /// does it run while the function is not allowed to reach memory.
    pub fn run(&self, queue: u16) -> Option<Result<Run, DeviceError>> {
        if self.space.lock().may().0 { self.engine.run(queue) } else { None }
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
    pub fn save(&self) -> Result<PciState, DeviceError> {
        let machine = self.engine.save()?;
        let interrupts = self.engine.signals.save();
        Ok(state::save(machine, *self.space.lock().bytes(), interrupts, &self.common.lock()))
    }

    /// Goes on after [`save`](Self::save) or [`restore`](Self::restore): every queue is started, and to be run once.
    pub fn resume(&self) -> Result<(), DeviceError> {
        self.engine.resume()?;
        self.ring_all();
        Ok(())
    }

    /// Makes a device that is reset what another of its kind was when it was saved. The state is believed no more
    /// than a driver; after an error the device is reset.
    pub fn restore(&self, state: &PciState) -> Result<(), RestoreError> {
        let common = state::common(state, self.engine.queue_count())?;
        if !self.engine.signals.suits(&state.interrupts) {
            return Err(RestoreError::Register("an interrupt vector"));
        }
        let mut space = self.space.lock().clone();
        if !space.restore(&state.space) {
            return Err(RestoreError::Register("configuration space"));
        }
        self.engine.restore(&state.machine)?;
        *self.common.lock() = common;
        let (may, msix) = (space.may(), space.msix());
        *self.space.lock() = space;
        self.engine.signals.restore(&state.interrupts);
        self.engine.signals.allow(may, msix);
        Ok(())
    }
}

impl fmt::Debug for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciDevice").field("machine", &*self.engine.machine()).finish_non_exhaustive()
    }
}
