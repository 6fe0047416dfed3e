//! PCI: configuration space, by ports or in memory; BARs; interrupts.

use super::clock::TscClock;
use super::lines::Controllers;
use super::msix::Messages;
use super::registers::Mapped;
use crate::x86::acpi::Tables;
use crate::x86::port;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use virtio_kit::Arena;
use virtio_kit::clock::Clock;
use virtio_kit::interrupts::InterruptLine;
use virtio_kit::pci::access::{Cam, Ecam, Ports};
use virtio_kit::pci::bars::MemoryBar;
use virtio_kit::pci::config::Function;
use virtio_kit::pci::tree::{self, Room};
use virtio_kit::pci::{self, Address, ConfigSpace, Host, Interrupts};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;

/// Where BARs are put that firmware left without an address. Firmware that leaves them puts nothing else here.
const WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;

/// A function's register in which firmware leaves the number of its line.
const INTERRUPT_LINE: u16 = 0x3c;

/// The CPU's own I/O ports.
struct IoPorts;

impl Ports for IoPorts {
    fn read(&self, number: u16, width: Width) -> Result<u32, TransportError> {
        // SAFETY: the ports of configuration space, for which alone this is used. Reading changes nothing.
        Ok(unsafe {
            match width {
                Width::U8 => port::read8(number).into(),
                Width::U16 => port::read16(number).into(),
                _ => port::read32(number),
            }
        })
    }

    fn write(&self, number: u16, width: Width, value: u32) -> Result<(), TransportError> {
        // SAFETY: as above. What is written there is up to the drivers of virtio functions.
        unsafe {
            match width {
                Width::U8 => port::write8(number, value as u8),
                Width::U16 => port::write16(number, value as u16),
                _ => port::write32(number, value),
            }
        }
        Ok(())
    }
}

/// Configuration space as firmware describes it, or else by ports.
fn config_space(tables: &Tables) -> Box<dyn ConfigSpace> {
    match tables.ecam() {
        Some(ecam) => {
            // SAFETY: firmware says that it is configuration space's.
            let registers = unsafe { Mapped::new(ecam.base, (u64::from(ecam.last_bus) + 1) << 20) };
            Box::new(Ecam::new(Arc::new(registers), 0, 0))
        }
        None => Box::new(Cam::new(IoPorts)),
    }
}

/// The machine as drivers of PCI functions see it.
pub struct Pci {
    config: Box<dyn ConfigSpace>,
    controllers: Arc<Controllers>,
    arena: Arena,
    functions: BTreeMap<Address, Placed>,
}

struct Placed {
    bars: Vec<MemoryBar>,
    interrupts: Arc<Messages>,
}

impl Pci {
    /// Finds all virtio functions, and gives buses numbers and BARs addresses where firmware did not.
    pub fn new(
        tables: &Tables,
        controllers: Arc<Controllers>,
        arena: Arena,
    ) -> Result<Arc<Self>, TransportError> {
        let config = config_space(tables);
        // No ports: only legacy devices have any.
        let mut room = Room { memory: WINDOW, ports: 0..0 };
        let placed = tree::place(&*config, 0, 0, &mut room, pci::is_virtio)?;
        let functions =
            placed.into_iter().map(|f| (f.at, Placed { bars: f.bars, interrupts: Arc::default() }));
        let functions = functions.collect();
        Ok(Arc::new(Self { config, controllers, arena, functions }))
    }
}

impl ConfigSpace for Pci {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        self.config.read(at, offset, width)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        self.config.write(at, offset, width, value)
    }
}

impl Host for Pci {
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError> {
        let bar = self.functions.get(&at).and_then(|f| f.bars.iter().find(|b| b.number == bar));
        let bar = bar.ok_or(TransportError::Unsupported("a BAR that is not of memory"))?;
        // SAFETY: of a virtio function, and where the function says.
        Ok(Arc::new(unsafe { Mapped::new(bar.address, bar.len) }))
    }

    fn arena(&self, _: Address) -> Arena {
        self.arena.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TscClock)
    }

    fn interrupts(&self, at: Address) -> Option<Arc<dyn Interrupts>> {
        Some(self.functions.get(&at)?.interrupts.clone())
    }

    fn line(&self, at: Address) -> Option<Arc<dyn InterruptLine>> {
        // Firmware writes down which line it has routed the function's pin to.
        match Function::new(&*self.config, at).read8(INTERRUPT_LINE).ok()? {
            0 | 0xff => None,
            number => Some(Arc::new(self.controllers.line(number.into())?)),
        }
    }
}
