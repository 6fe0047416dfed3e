//! The two ways to configuration space that machines have: two I/O ports (CAM), or a piece of memory (ECAM). Others
//! implement [`ConfigSpace`] themselves.

use super::config::{Address, ConfigSpace};
use crate::registers::{Registers, Width};
use crate::transport::TransportError;
use alloc::sync::Arc;
use core::fmt;
use spin::Mutex;

/// I/O ports. Widths are 8, 16 and 32 bits.
pub trait Ports: Send + Sync {
    /// Reads a port.
    fn read(&self, port: u16, width: Width) -> Result<u32, TransportError>;

    /// Writes a port.
    fn write(&self, port: u16, width: Width, value: u32) -> Result<(), TransportError>;
}

/// Configuration space by the ports 0xcf8 and 0xcfc: segment 0, and 256 bytes of each function.
#[derive(Debug)]
pub struct Cam<P> {
    ports: P,
    /// An access takes both ports.
    turn: Mutex<()>,
}

impl<P> Cam<P> {
    /// The port that selects a register.
    pub const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;

    /// Takes the ports over: nobody else may use these two.
    pub fn new(ports: P) -> Self {
        Self { ports, turn: Mutex::new(()) }
    }

    /// What is written to the first port to select a register, and where it is read or written then.
    pub fn select(at: Address, offset: u16) -> (u32, u16) {
        let register = 1 << 31 | u32::from(at.bdf()) << 8 | u32::from(offset & 0xfc);
        (register, Self::DATA + (offset & 3))
    }
}

impl<P: Ports> ConfigSpace for Cam<P> {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Ok(u32::MAX);
        }
        let (register, port) = Self::select(at, offset);
        let _turn = self.turn.lock();
        self.ports.write(Self::ADDRESS, Width::U32, register)?;
        self.ports.read(port, width)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Err(TransportError::Unsupported("configuration space that two ports do not reach"));
        }
        let (register, port) = Self::select(at, offset);
        let _turn = self.turn.lock();
        self.ports.write(Self::ADDRESS, Width::U32, register)?;
        self.ports.write(port, width, value)
    }
}

/// Configuration space mapped into memory: 4096 bytes of each function of some buses of one segment.
#[derive(Clone)]
pub struct Ecam {
    registers: Arc<dyn Registers>,
    segment: u16,
    first_bus: u8,
}

impl Ecam {
    /// `registers` begin with those of function 0 of device 0 on `first_bus`, 1 MiB for each bus, as ACPI's MCFG or
    /// a device tree says.
    pub fn new(registers: Arc<dyn Registers>, segment: u16, first_bus: u8) -> Self {
        Self { registers, segment, first_bus }
    }

    fn offset(&self, at: Address, offset: u16, width: Width) -> Option<u64> {
        let bus = at.bus.checked_sub(self.first_bus)?;
        let function = u64::from(Address { bus, ..at }.bdf()) << 12;
        let register = function + u64::from(offset);
        let inside = offset < 0x1000 && register + width.bytes() <= self.registers.len();
        (at.segment == self.segment && inside).then_some(register)
    }
}

impl fmt::Debug for Ecam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ecam(segment {:#x}, from bus {:#x})", self.segment, self.first_bus)
    }
}

impl ConfigSpace for Ecam {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        match self.offset(at, offset, width) {
            Some(register) => Ok(self.registers.read(register, width)? as u32),
            None => Ok(u32::MAX),
        }
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        let outside = TransportError::Unsupported("configuration space of a bus that is not there");
        let register = self.offset(at, offset, width).ok_or(outside)?;
        self.registers.write(register, width, value.into())
    }
}
