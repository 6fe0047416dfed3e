//! Driver's ends and device's ends of MMIO and PCI joined register by register, in one thread; and a layer between
//! the two in which a test may lie.
#![allow(unreachable_pub, dead_code, unused_imports, reason = "each test binary uses what it needs")]

pub mod blk;
pub mod host;

pub use host::{Irq, MmioHost, PciHostOf};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use virtio_kit::clock::Clock;
use virtio_kit::device::{Device, DeviceError, DeviceMemory, Memory, Monitor, Region, Run};
use virtio_kit::mmio::device::{self as mmio_device, MmioDevice};
use virtio_kit::pci::Message;
use virtio_kit::pci::device::{self as pci_device, PciDevice};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;
use virtio_kit::{Arena, F, Features, Status};
use virtio_kit_testkit::memory::SharedMemory;

/// A layout and its options, as bits: packed, in order, event index, indirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(pub u8);

impl Shape {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..16).map(Self)
    }

    /// Those of a legacy interface.
    pub fn legacy() -> impl Iterator<Item = Self> {
        (0..4).map(|bits| Self(bits << 2))
    }

    pub fn features(self) -> Features {
        let all = [F::RING_PACKED, F::IN_ORDER, F::EVENT_IDX, F::INDIRECT_DESC];
        all.into_iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 != 0).map(|(_, f)| f).collect()
    }
}

pub const CHOICES: Features = F::RING_PACKED.union(F::IN_ORDER).union(F::EVENT_IDX).union(F::INDIRECT_DESC);

/// A clock on which every look takes ten microseconds: waits end soon, however slow the machine is. Whoever spins lets
/// the device work.
pub struct Ticks(AtomicU64, host::Now);

impl Ticks {
    pub fn new(monitor: host::Now) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(0), monitor))
    }
}

impl Clock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_micros(10 * self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn relax(&self) {
        (self.1)().pump();
    }
}

pub struct StdClock(pub Instant);

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Memory that a driver has an arena of, and a device is shown.
pub fn memory(device_base: u64, len: usize) -> (Arena, Memory) {
    let shared = SharedMemory::new(device_base, len);
    let arena = Arena::new(shared.clone()).unwrap();
    (arena, Memory::new([Region::new(device_base, shared).unwrap()]).unwrap())
}

/// The device's end, whichever it is.
pub trait End: Send + Sync {
    fn run(&self, queue: u16) -> Option<Result<Run, DeviceError>>;
    fn arm(&self, queue: u16) -> bool;
    fn status(&self) -> Status;
}

impl End for MmioDevice {
    fn run(&self, queue: u16) -> Option<Result<Run, DeviceError>> {
        Self::run(self, queue)
    }
    fn arm(&self, queue: u16) -> bool {
        Self::arm(self, queue)
    }
    fn status(&self) -> Status {
        Self::status(self)
    }
}

impl End for PciDevice {
    fn run(&self, queue: u16) -> Option<Result<Run, DeviceError>> {
        Self::run(self, queue)
    }
    fn arm(&self, queue: u16) -> bool {
        Self::arm(self, queue)
    }
    fn status(&self) -> Status {
        Self::status(self)
    }
}

/// A monitor that runs notified queues when somebody waits: so a driver does wait, and is interrupted.
#[derive(Default)]
pub struct Inline {
    device: OnceLock<Weak<dyn End>>,
    kicked: [AtomicBool; 16],
    /// Nothing is run, whoever waits.
    pub hold: AtomicBool,
    pub line: AtomicBool,
    pub doorbells: AtomicU64,
    /// How often the line was raised, and messages were sent.
    pub raised: AtomicU64,
    pub sent: AtomicU64,
    pub messages: Mutex<VecDeque<Message>>,
}

impl Inline {
    fn join(&self, device: Weak<dyn End>) {
        assert!(self.device.set(device).is_ok(), "one device each");
    }

    /// Runs what was notified.
    pub fn pump(&self) {
        (0..16).for_each(|queue| self.run_kicked(queue));
    }

    fn run_kicked(&self, queue: u16) {
        let Some(device) = self.device.get().and_then(Weak::upgrade) else { return };
        while !self.hold.load(Ordering::SeqCst)
            && self.kicked[usize::from(queue)].swap(false, Ordering::SeqCst)
        {
            while let Some(Ok(run)) = device.run(queue) {
                if device.arm(queue) || run.taken + run.completed == 0 {
                    break;
                }
            }
        }
    }
}

impl Monitor for Inline {
    fn doorbell(&self, queue: u16) {
        self.doorbells.fetch_add(1, Ordering::SeqCst);
        self.kicked[usize::from(queue)].store(true, Ordering::SeqCst);
    }
    fn set_line(&self, raised: bool) {
        assert_ne!(self.line.swap(raised, Ordering::SeqCst), raised, "told twice");
        self.raised.fetch_add(raised.into(), Ordering::SeqCst);
    }
    fn message(&self, message: Message) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.messages.lock().unwrap().push_back(message);
    }
}

/// An access to a register, before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which BAR; 0 on MMIO.
    pub bar: u8,
    pub offset: u64,
    pub width: Width,
    /// What is to be written; `None` for a read.
    pub write: Option<u64>,
}

/// What becomes of an access: `None` lets it happen; otherwise it does not, and a read gets this value.
pub type Fault = Arc<dyn Fn(Access) -> Option<u64> + Send + Sync>;

pub fn honest() -> Fault {
    Arc::new(|_| None)
}

/// Registers behind a layer that may lie, and that counts.
pub struct Wire {
    pub bar: u8,
    pub len: u64,
    pub read: Box<dyn Fn(u64, Width) -> u64 + Send + Sync>,
    pub write: Box<dyn Fn(u64, Width, u64) + Send + Sync>,
    pub fault: Fault,
    pub accesses: Arc<AtomicU64>,
}

impl Registers for Wire {
    fn len(&self) -> u64 {
        self.len
    }
    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let access = Access { bar: self.bar, offset, width, write: None };
        Ok((self.fault)(access).unwrap_or_else(|| (self.read)(offset, width)))
    }
    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let access = Access { bar: self.bar, offset, width, write: Some(value) };
        if (self.fault)(access).is_none() {
            (self.write)(offset, width, value);
        }
        Ok(())
    }
}

/// A device behind MMIO registers, with its monitor.
pub fn mmio_device(
    device: Box<dyn Device>,
    memory: impl Into<DeviceMemory>,
    change: impl FnOnce(&mut mmio_device::Options),
) -> (Arc<MmioDevice>, Arc<Inline>) {
    let monitor = Arc::new(Inline::default());
    let mut options = mmio_device::Options::new(memory);
    change(&mut options);
    let device = Arc::new(MmioDevice::new(device, monitor.clone(), options).unwrap());
    let weak: Weak<MmioDevice> = Arc::downgrade(&device);
    monitor.join(weak);
    (device, monitor)
}

/// A device behind a PCI function, with its monitor.
pub fn pci_device(
    device: Box<dyn Device>,
    memory: impl Into<DeviceMemory>,
    change: impl FnOnce(&mut pci_device::Options),
) -> (Arc<PciDevice>, Arc<Inline>) {
    let monitor = Arc::new(Inline::default());
    let mut options = pci_device::Options::new(memory);
    change(&mut options);
    let device = Arc::new(PciDevice::new(device, monitor.clone(), options).unwrap());
    let weak: Weak<PciDevice> = Arc::downgrade(&device);
    monitor.join(weak);
    (device, monitor)
}
