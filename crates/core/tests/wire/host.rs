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

/// The line of a monitor, looked at by whoever waits.
struct Line {
    monitor: Arc<Inline>,
    handler: Mutex<Option<Arc<dyn LineHandler>>>,
}

impl Line {
    fn of(monitor: &Arc<Inline>) -> Arc<Self> {
        Arc::new(Self { monitor: monitor.clone(), handler: Mutex::new(None) })
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
        self.monitor.pump();
        let handler = self.handler.lock().unwrap().clone();
        let mut any = false;
        // Level-triggered: as long as it is raised.
        while self.monitor.line.load(Ordering::SeqCst) {
            let Some(handler) = &handler else { break };
            any = true;
            assert!(handler.handle(), "raised, and nobody's");
        }
        Ok(any)
    }
}

/// The messages of a monitor, looked at by whoever waits.
struct Messages {
    monitor: Arc<Inline>,
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
        self.monitor.pump();
        let all = std::mem::take(&mut *self.monitor.messages.lock().unwrap());
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
    pub device: Arc<MmioDevice>,
    pub monitor: Arc<Inline>,
    pub arena: Arena,
    pub required: Features,
    pub irq: Irq,
    pub fault: Fault,
    pub accesses: Arc<AtomicU64>,
}

impl MmioHost {
    pub const PLACE: Place = Place { start: 0xd000_0000, len: 0x200, interrupt: 5 };

    pub fn new((device, monitor): (Arc<MmioDevice>, Arc<Inline>), arena: Arena, irq: Irq) -> Self {
        let accesses = Arc::default();
        Self { device, monitor, arena, required: Features::EMPTY, irq, fault: honest(), accesses }
    }
}

impl mmio::Host for MmioHost {
    fn map(&self, _: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        let (reader, writer) = (self.device.clone(), self.device.clone());
        Ok(Arc::new(Wire {
            bar: 0,
            len,
            read: Box::new(move |offset, width| reader.read(offset, width)),
            write: Box::new(move |offset, width, value| writer.write(offset, width, value)),
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
        Ticks::new(&self.monitor)
    }
    fn line(&self, _: &Place) -> Option<Arc<dyn InterruptLine>> {
        (self.irq == Irq::Line).then(|| Line::of(&self.monitor) as _)
    }
}

/// A machine with one PCI function, whose BARs it has placed.
pub struct PciHostOf {
    pub device: Arc<PciDevice>,
    pub monitor: Arc<Inline>,
    pub arena: Arena,
    pub required: Features,
    pub irq: Irq,
    pub fault: Fault,
    /// BARs are not mapped, and so are reached through configuration space.
    pub unmapped: bool,
    pub accesses: Arc<AtomicU64>,
}

impl PciHostOf {
    pub const AT: Address = Address::new(0, 7, 0);

    pub fn new((device, monitor): (Arc<PciDevice>, Arc<Inline>), arena: Arena, irq: Irq) -> Self {
        let (required, fault, accesses) = (Features::EMPTY, honest(), Arc::default());
        let host = Self { device, monitor, arena, required, irq, fault, unmapped: false, accesses };
        let mut next = 0x10_0000_0000;
        bars::place(&Function::new(&host, Self::AT), &mut next, 1 << 40).unwrap();
        host
    }
}

impl ConfigSpace for PciHostOf {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        Ok(if at == Self::AT { self.device.read_space(offset, width) } else { u32::MAX })
    }
    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        if at == Self::AT {
            self.device.write_space(offset, width, value);
        }
        Ok(())
    }
}

impl pci::Host for PciHostOf {
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError> {
        let found = bars::memory_bar(&Function::new(self, at), bar)?;
        let found = found.filter(|_| !self.unmapped).ok_or(TransportError::Unsupported("a BAR"))?;
        let (reader, writer) = (self.device.clone(), self.device.clone());
        let at =
            move |device: &PciDevice, offset, width| device.decode(found.address + offset, width).unwrap();
        Ok(Arc::new(Wire {
            bar,
            len: found.len,
            read: Box::new(move |offset, width| {
                let (bar, offset) = at(&reader, offset, width);
                reader.read_bar(bar, offset, width)
            }),
            write: Box::new(move |offset, width, value| {
                let (bar, offset) = at(&writer, offset, width);
                writer.write_bar(bar, offset, width, value);
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
        Ticks::new(&self.monitor)
    }
    fn interrupts(&self, _: Address) -> Option<Arc<dyn Interrupts>> {
        let Irq::Messages(most) = self.irq else { return None };
        Some(Arc::new(Messages { monitor: self.monitor.clone(), most, lines: Mutex::new(None) }))
    }
    fn line(&self, _: Address) -> Option<Arc<dyn InterruptLine>> {
        (self.irq == Irq::Line).then(|| Line::of(&self.monitor) as _)
    }
}
