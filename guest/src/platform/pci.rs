//! PCI: configuration space by ports or in memory, BARs, interrupts.

use super::clock::TscClock;
use super::msix::Messages;
use super::registers::Mapped;
use crate::x86::acpi::Ecam;
use crate::x86::{cpu, paging, port};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use virtio_kit::Arena;
use virtio_kit::bus::{Backend, Event};
use virtio_kit::clock::Clock;
use virtio_kit::driver::Found;
use virtio_kit::pci::bars::{self, MemoryBar};
use virtio_kit::pci::config::{self, Function};
use virtio_kit::pci::{self, Address, ConfigSpace, Host, Interrupts, PciTransport};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;

/// How configuration space is reached.
enum Access {
    /// By two ports, one after the other.
    Ports(Mutex<()>),
    /// In memory.
    Memory(Ecam),
}

const PORT_ADDRESS: u16 = 0xcf8;
const PORT_DATA: u16 = 0xcfc;

/// Where BARs are put that firmware left without an address. Firmware that leaves none there puts nothing else here.
const WINDOW: core::ops::Range<u64> = 0xc000_0000..0xe000_0000;

/// Configuration space.
pub struct Config(Access);

impl Config {
    /// Configuration space in memory if there is such a thing, or else by ports.
    ///
    /// # Safety
    ///
    /// The range must be configuration space's.
    pub unsafe fn new(ecam: Option<Ecam>) -> Self {
        Self(match ecam {
            Some(ecam) => {
                // SAFETY: the caller's promise.
                unsafe { paging::map(ecam.base, (u64::from(ecam.last_bus) + 1) << 20) };
                Access::Memory(ecam)
            }
            None => Access::Ports(Mutex::new(())),
        })
    }

    fn access(&self, at: Address, offset: u16, width: Width, value: Option<u32>) -> Option<u32> {
        let aligned = u64::from(offset).is_multiple_of(width.bytes());
        if at.segment != 0 || width == Width::U64 || !aligned {
            return None;
        }
        match &self.0 {
            Access::Ports(lock) if offset <= 0xff => {
                let _off = cpu::interrupts_off();
                let _lock = lock.lock();
                let register = 1 << 31 | u32::from(at.bdf()) << 8 | u32::from(offset & 0xfc);
                let data = PORT_DATA + (offset & 3);
                // SAFETY: the ports of configuration space. What is written there is up to safe code that drives
                // virtio functions.
                unsafe {
                    port::write32(PORT_ADDRESS, register);
                    match (width, value) {
                        (Width::U8, None) => return Some(port::read8(data).into()),
                        (Width::U16, None) => return Some(port::read16(data).into()),
                        (_, None) => return Some(port::read32(data)),
                        (Width::U8, Some(value)) => port::write8(data, value as u8),
                        (Width::U16, Some(value)) => port::write16(data, value as u16),
                        (_, Some(value)) => port::write32(data, value),
                    }
                }
                Some(0)
            }
            Access::Memory(ecam) if at.bus <= ecam.last_bus && offset < 1 << 12 => {
                let register = (ecam.base as usize) + (usize::from(at.bdf()) << 12) + usize::from(offset);
                // SAFETY: in the range that `new` was promised. Otherwise as above.
                unsafe {
                    match (width, value) {
                        (Width::U8, None) => return Some(paging::read8(register).into()),
                        (Width::U16, None) => return Some(paging::read16(register).into()),
                        (_, None) => return Some(paging::read32(register)),
                        (Width::U8, Some(value)) => paging::write8(register, value as u8),
                        (Width::U16, Some(value)) => paging::write16(register, value as u16),
                        (_, Some(value)) => paging::write32(register, value),
                    }
                }
                Some(0)
            }
            _ => None,
        }
    }
}

impl ConfigSpace for Config {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        Ok(self.access(at, offset, width, None).unwrap_or(u32::MAX))
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        let outside = TransportError::Unsupported("a register outside configuration space");
        self.access(at, offset, width, Some(value)).map(|_| ()).ok_or(outside)
    }
}

/// The machine's PCI bus.
pub struct Pci {
    config: Config,
    arena: Arena,
    functions: Mutex<BTreeMap<Address, Placed>>,
}

struct Placed {
    bars: Vec<MemoryBar>,
    interrupts: Arc<Messages>,
}

impl Pci {
    pub fn new(config: Config, arena: Arena) -> Arc<Self> {
        Arc::new(Self { config, arena, functions: Mutex::default() })
    }

    /// Finds all virtio functions, and gives BARs addresses where firmware did not.
    fn scan(&self) -> Result<Vec<Address>, TransportError> {
        let mut found = Vec::new();
        let mut next = WINDOW.start;
        config::scan(self, 0, |at, id| {
            if !pci::is_modern(id) {
                return Ok(());
            }
            let function = Function::new(self, at);
            let mut placed = Vec::new();
            for number in 0..6 {
                placed.extend(bars::memory_bar(&function, number)?);
            }
            if placed.iter().any(|bar| bar.address == 0) {
                placed = bars::place(&function, &mut next, WINDOW.end)?;
            }
            let interrupts = Arc::new(Messages::default());
            self.functions.lock().insert(at, Placed { bars: placed, interrupts });
            found.push(at);
            Ok(())
        })?;
        Ok(found)
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
        let functions = self.functions.lock();
        let bar = functions.get(&at).and_then(|f| f.bars.iter().find(|b| b.number == bar));
        let bar = bar.ok_or(TransportError::Unsupported("a BAR that is not of memory"))?;
        // SAFETY: only virtio functions were looked at, and the BAR is where the function says.
        Ok(Arc::new(unsafe { Mapped::new(bar.address, bar.len) }))
    }

    fn arena(&self, _: Address) -> Arena {
        self.arena.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TscClock)
    }

    fn interrupts(&self, at: Address) -> Option<Arc<dyn Interrupts>> {
        let functions = self.functions.lock();
        Some(functions.get(&at)?.interrupts.clone())
    }
}

/// Tells the bus of all virtio functions.
pub struct PciBackend(pub Arc<Pci>, pub bool);

impl Backend for PciBackend {
    fn name(&self) -> &str {
        "pci"
    }

    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        if core::mem::replace(&mut self.1, false) {
            for at in self.0.scan().unwrap_or_default() {
                if let Ok(transport) = PciTransport::open(self.0.clone(), at) {
                    tell(Event::Added(at.bdf().into(), Found::new(alloc::boxed::Box::new(transport))));
                }
            }
        }
    }
}
