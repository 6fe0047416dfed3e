//! Machines of one device: what its driver's end needs.

use super::{Fault, Inline, Ticks, Wire, honest};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::interrupts::{InterruptLine, LineHandler};
use virtio_kit::mmio::device::MmioDevice;
use virtio_kit::mmio::{self, Place};
use virtio_kit::pci::bars;
use virtio_kit::pci::config::Function;
use virtio_kit::pci::device::PciDevice;
use virtio_kit::pci::{self, Address, ConfigSpace, Interrupts, Lines, Message};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;
use virtio_kit::{Arena, Features};

/// How interrupts come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// By messages, of which the machine has so many.
    Messages(u16),
    /// By the line.
    Line,
    /// Not at all.
    Polled,
}

/// A device and its monitor, both of which another can take the place of.
pub struct Side<D>(Mutex<(Arc<D>, Arc<Inline>)>);

impl<D> Side<D> {
    fn new(side: (Arc<D>, Arc<Inline>)) -> Arc<Self> {
        Arc::new(Self(Mutex::new(side)))
    }
    pub fn device(&self) -> Arc<D> {
        self.0.lock().unwrap().0.clone()
    }
    pub fn monitor(&self) -> Arc<Inline> {
        self.0.lock().unwrap().1.clone()
    }
    pub fn replace(&self, with: (Arc<D>, Arc<Inline>)) {
        *self.0.lock().unwrap() = with;
    }
}

/// The monitor that there is now.
pub type Now = Arc<dyn Fn() -> Arc<Inline> + Send + Sync>;

fn now<D: Send + Sync + 'static>(side: &Arc<Side<D>>) -> Now {
    let side = side.clone();
    Arc::new(move || side.monitor())
}

/// The line of a monitor, looked at by whoever waits.
struct Line {
    monitor: Now,
    handler: Mutex<Option<Arc<dyn LineHandler>>>,
}

impl Line {
    fn of(monitor: Now) -> Arc<Self> {
        Arc::new(Self { monitor, handler: Mutex::new(None) })
    }
}

impl InterruptLine for Line {
    fn connect(&self, handler: Arc<dyn LineHandler>) -> Result<(), TransportError> {
        *self.handler.lock().unwrap() = Some(handler);
        Ok(())
    }
    fn disconnect(&self) {
        *self.handler.lock().unwrap() = None;
    }
    fn wait(&self, _: Duration) -> Result<bool, TransportError> {
        (self.monitor)().pump();
        let handler = self.handler.lock().unwrap().clone();
        let mut any = false;
        // Level-triggered: as long as it is raised, but not for ever.
        for _ in 0..100 {
            if !(self.monitor)().line.load(Ordering::SeqCst) {
                break;
            }
            let Some(handler) = &handler else { break };
            any = true;
            assert!(handler.handle(), "raised, and nobody's");
        }
        Ok(any)
    }
}

/// The messages of a monitor, looked at by whoever waits.
struct Messages {
    monitor: Now,
    most: u16,
    lines: Mutex<Option<Arc<Lines>>>,
}

impl Interrupts for Messages {
    fn arm(&self, count: u16, lines: &Arc<Lines>) -> Result<Vec<Message>, TransportError> {
        if count > self.most {
            return Err(TransportError::NoMemory);
        }
        *self.lines.lock().unwrap() = Some(lines.clone());
        Ok((0..count).map(|v| Message { address: 0xfee0_0000, data: v.into() }).collect())
    }
    fn disarm(&self) {
        *self.lines.lock().unwrap() = None;
    }
    fn wait(&self, _: u16, _: Duration) -> Result<bool, TransportError> {
        (self.monitor)().pump();
        let all = std::mem::take(&mut *(self.monitor)().messages.lock().unwrap());
        let lines = self.lines.lock().unwrap().clone();
        let any = !all.is_empty();
        for message in all {
            assert_eq!(message.address, 0xfee0_0000);
            lines.iter().for_each(|lines| lines.fire(message.data as u16));
        }
        Ok(any)
    }
}

/// A machine with one MMIO device, at every place.
pub struct MmioHost {
    pub side: Arc<Side<MmioDevice>>,
    pub arena: Arena,
    pub required: Features,
    pub irq: Irq,
    pub fault: Fault,
    pub accesses: Arc<AtomicU64>,
}

impl MmioHost {
    pub const PLACE: Place = Place { start: 0xd000_0000, len: 0x200, interrupt: 5 };

    pub fn new(side: (Arc<MmioDevice>, Arc<Inline>), arena: Arena, irq: Irq) -> Self {
        let (side, accesses) = (Side::new(side), Arc::default());
        Self { side, arena, required: Features::EMPTY, irq, fault: honest(), accesses }
    }
}

impl mmio::Host for MmioHost {
    fn map(&self, _: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        let (reader, writer) = (self.side.clone(), self.side.clone());
        Ok(Arc::new(Wire {
            bar: 0,
            len,
            read: Box::new(move |offset, width| reader.device().read(offset, width)),
            write: Box::new(move |offset, width, value| writer.device().write(offset, width, value)),
            fault: self.fault.clone(),
            accesses: self.accesses.clone(),
        }))
    }
    fn arena(&self, _: &Place) -> Arena {
        self.arena.clone()
    }
    fn required_features(&self, _: &Place) -> Features {
        self.required
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Ticks::new(now(&self.side))
    }
    fn line(&self, _: &Place) -> Option<Arc<dyn InterruptLine>> {
        (self.irq == Irq::Line).then(|| Line::of(now(&self.side)) as _)
    }
}

/// A machine with one PCI function, whose BARs it has placed.
pub struct PciHostOf {
    pub side: Arc<Side<PciDevice>>,
    pub arena: Arena,
    pub required: Features,
    pub irq: Irq,
    pub fault: Fault,
    /// Lies about configuration space: offset, and what is read.
    pub lie: fn(u16, u32) -> u32,
    /// BARs are not mapped, and so are reached through configuration space.
    pub unmapped: bool,
    pub accesses: Arc<AtomicU64>,
}

impl PciHostOf {
    pub const AT: Address = Address::new(0, 7, 0);

    pub fn new(side: (Arc<PciDevice>, Arc<Inline>), arena: Arena, irq: Irq) -> Self {
        let (side, required, accesses) = (Side::new(side), Features::EMPTY, Arc::default());
        let (fault, lie, unmapped) = (honest(), (|_, value| value) as fn(u16, u32) -> u32, false);
        let host = Self { side, arena, required, irq, fault, lie, unmapped, accesses };
        let mut next = 0x10_0000_0000;
        bars::place(&Function::new(&host, Self::AT), &mut next, 1 << 40).unwrap();
        host
    }
}

impl ConfigSpace for PciHostOf {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        Ok(if at == Self::AT {
            (self.lie)(offset, self.side.device().read_space(offset, width))
        } else {
            u32::MAX
        })
    }
    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        if at == Self::AT {
            self.side.device().write_space(offset, width, value);
        }
        Ok(())
    }
}

impl pci::Host for PciHostOf {
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError> {
        let found = bars::memory_bar(&Function::new(self, at), bar)?;
        let found = found.filter(|_| !self.unmapped).ok_or(TransportError::Unsupported("a BAR"))?;
        let (reader, writer) = (self.side.clone(), self.side.clone());
        let at =
            move |device: &PciDevice, offset, width| device.decode(found.address + offset, width).unwrap();
        Ok(Arc::new(Wire {
            bar,
            len: found.len,
            read: Box::new(move |offset, width| {
                let device = reader.device();
                let (bar, offset) = at(&device, offset, width);
                device.read_bar(bar, offset, width)
            }),
            write: Box::new(move |offset, width, value| {
                let device = writer.device();
                let (bar, offset) = at(&device, offset, width);
                device.write_bar(bar, offset, width, value);
            }),
            fault: self.fault.clone(),
            accesses: self.accesses.clone(),
        }))
    }
    fn arena(&self, _: Address) -> Arena {
        self.arena.clone()
    }
    fn required_features(&self, _: Address) -> Features {
        self.required
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Ticks::new(now(&self.side))
    }
    fn interrupts(&self, _: Address) -> Option<Arc<dyn Interrupts>> {
        let Irq::Messages(most) = self.irq else { return None };
        Some(Arc::new(Messages { monitor: now(&self.side), most, lines: Mutex::new(None) }))
    }
    fn line(&self, _: Address) -> Option<Arc<dyn InterruptLine>> {
        (self.irq == Irq::Line).then(|| Line::of(now(&self.side)) as _)
    }
}
