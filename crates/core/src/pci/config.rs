//! Configuration space: headers and capabilities of functions.

use crate::registers::Width;
use crate::transport::TransportError;
use core::fmt;

/// Which function of which device on which bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Segment, also called domain.
    pub segment: u16,
    /// Bus, 0 to 255.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

impl Address {
    /// A function on a bus of segment 0.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self { segment: 0, bus, device, function }
    }

    /// Bus, device and function in 16 bits.
    pub const fn bdf(self) -> u16 {
        (self.bus as u16) << 8 | (self.device as u16 & 31) << 3 | self.function as u16 & 7
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Access to configuration space. Widths are 8, 16 and 32 bits, offsets multiples of them.
pub trait ConfigSpace: Send + Sync {
    /// Reads; all ones if there is no such function.
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError>;

    /// Writes.
    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError>;
}

/// One function's configuration space.
#[derive(Clone, Copy)]
pub struct Function<'c, C: ?Sized> {
    space: &'c C,
    at: Address,
}

/// Offsets in a function's header.
mod header {
    pub(super) const VENDOR: u16 = 0x00;
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const STATUS: u16 = 0x06;
    pub(super) const REVISION_AND_CLASS: u16 = 0x08;
    pub(super) const TYPE: u16 = 0x0e;
    pub(super) const SECONDARY_BUS: u16 = 0x19;
    pub(super) const SUBSYSTEM: u16 = 0x2c;
    pub(super) const CAPABILITIES: u16 = 0x34;
}

/// The function decodes accesses to its I/O BARs.
pub const COMMAND_IO: u16 = 1;
/// The function decodes accesses to its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// The function may read and write memory.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// The function does not use its interrupt line.
pub const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;
/// As many capabilities as fit behind a header: a longer list is a loop.
const MOST_CAPABILITIES: usize = (0x100 - 0x40) / 4;

impl<'c, C: ConfigSpace + ?Sized> Function<'c, C> {
    /// The function at an address, which need not be there.
    pub fn new(space: &'c C, at: Address) -> Self {
        Self { space, at }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.at
    }

    /// Reads 8 bits.
    pub fn read8(&self, offset: u16) -> Result<u8, TransportError> {
        Ok(self.space.read(self.at, offset, Width::U8)? as u8)
    }

    /// Reads 16 bits.
    pub fn read16(&self, offset: u16) -> Result<u16, TransportError> {
        Ok(self.space.read(self.at, offset, Width::U16)? as u16)
    }

    /// Reads 32 bits.
    pub fn read32(&self, offset: u16) -> Result<u32, TransportError> {
        self.space.read(self.at, offset, Width::U32)
    }

    /// Writes 8 bits.
    pub fn write8(&self, offset: u16, value: u8) -> Result<(), TransportError> {
        self.space.write(self.at, offset, Width::U8, value.into())
    }

    /// Writes 16 bits.
    pub fn write16(&self, offset: u16, value: u16) -> Result<(), TransportError> {
        self.space.write(self.at, offset, Width::U16, value.into())
    }

    /// Writes 32 bits.
    pub fn write32(&self, offset: u16, value: u32) -> Result<(), TransportError> {
        self.space.write(self.at, offset, Width::U32, value)
    }

    /// Vendor and device id; `None` if there is no function.
    pub fn id(&self) -> Result<Option<(u16, u16)>, TransportError> {
        let id = self.read32(header::VENDOR)?;
        Ok((id as u16 != 0xffff).then_some((id as u16, (id >> 16) as u16)))
    }

    /// Subsystem vendor and subsystem device id.
    pub fn subsystem(&self) -> Result<(u16, u16), TransportError> {
        let id = self.read32(header::SUBSYSTEM)?;
        Ok((id as u16, (id >> 16) as u16))
    }

    /// Class code, 24 bits.
    pub fn class(&self) -> Result<u32, TransportError> {
        Ok(self.read32(header::REVISION_AND_CLASS)? >> 8)
    }

    /// Revision, 8 bits.
    pub fn revision(&self) -> Result<u8, TransportError> {
        self.read8(header::REVISION_AND_CLASS)
    }

    /// The number of the bus behind a bridge; `None` if this is none, or firmware gave it no bus.
    pub fn secondary_bus(&self) -> Result<Option<u8>, TransportError> {
        if self.read8(header::TYPE)? & 0x7f != 1 {
            return Ok(None);
        }
        let bus = self.read8(header::SECONDARY_BUS)?;
        Ok((bus > self.at.bus).then_some(bus))
    }

    /// Whether the device has more functions than number 0.
    pub fn is_multifunction(&self) -> Result<bool, TransportError> {
        Ok(self.read8(header::TYPE)? & 0x80 != 0)
    }

    /// Whether this is an endpoint's header, and not a bridge's.
    pub fn is_endpoint(&self) -> Result<bool, TransportError> {
        Ok(self.read8(header::TYPE)? & 0x7f == 0)
    }

    /// Whether this is a bridge to another PCI bus.
    pub fn is_bridge(&self) -> Result<bool, TransportError> {
        Ok(self.read8(header::TYPE)? & 0x7f == 1)
    }

    /// The command register.
    pub fn command(&self) -> Result<u16, TransportError> {
        self.read16(header::COMMAND)
    }

    /// Writes the command register.
    pub fn set_command(&self, command: u16) -> Result<(), TransportError> {
        self.write16(header::COMMAND, command)
    }

    /// Shows every capability (its id and where it begins) to `see`, until that gives a value. A list that
    /// leads back into itself ends when it is longer than configuration space has room for.
    pub fn find_capability<R>(
        &self,
        mut see: impl FnMut(u8, u16) -> Result<Option<R>, TransportError>,
    ) -> Result<Option<R>, TransportError> {
        if self.read16(header::STATUS)? & STATUS_HAS_CAPABILITIES == 0 {
            return Ok(None);
        }
        let mut at = self.read8(header::CAPABILITIES)? & !3;
        for _ in 0..MOST_CAPABILITIES {
            if at < 0x40 {
                break;
            }
            let head = self.read16(at.into())?;
            if let Some(found) = see(head as u8, at.into())? {
                return Ok(Some(found));
            }
            at = (head >> 8) as u8 & !3;
        }
        Ok(None)
    }
}

/// Shows every function on one bus of segment 0 to `see`.
pub fn scan<C: ConfigSpace + ?Sized>(
    space: &C,
    bus: u8,
    see: impl FnMut(Address, (u16, u16)) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    scan_bus(space, 0, bus, see)
}

/// Shows every function on a bus, and on the buses behind its bridges, to `see`. Firmware must have numbered them:
/// the number of a bus behind a bridge is above the bridge's own, and so the walk comes to an end.
pub fn scan_tree<C: ConfigSpace + ?Sized>(
    space: &C,
    segment: u16,
    root: u8,
    mut see: impl FnMut(Address, (u16, u16)) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    let (mut seen, mut found) = ([false; 256], [false; 256]);
    found[usize::from(root)] = true;
    while let Some(bus) = (0..256).find(|&bus| found[bus] && !seen[bus]) {
        seen[bus] = true;
        scan_bus(space, segment, bus as u8, |at, id| {
            if let Some(behind) = Function::new(space, at).secondary_bus()? {
                found[usize::from(behind)] = true;
            }
            see(at, id)
        })?;
    }
    Ok(())
}

pub(super) fn scan_bus<C: ConfigSpace + ?Sized>(
    space: &C,
    segment: u16,
    bus: u8,
    mut see: impl FnMut(Address, (u16, u16)) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    for device in 0..32 {
        let at = |function| Address { segment, bus, device, function };
        let first = Function::new(space, at(0));
        let Some(id) = first.id()? else { continue };
        see(first.address(), id)?;
        if !first.is_multifunction()? {
            continue;
        }
        for function in 1..8 {
            let other = Function::new(space, at(function));
            if let Some(id) = other.id()? {
                see(other.address(), id)?;
            }
        }
    }
    Ok(())
}
