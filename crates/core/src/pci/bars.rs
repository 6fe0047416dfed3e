//! BARs: how large they are, and where they are put.

use super::config::{COMMAND_IO, COMMAND_MEMORY, ConfigSpace, Function};
use crate::transport::TransportError;
use alloc::vec::Vec;
use virtio_kit_spec::pci::MAX_BAR;

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBar {
    /// Its number, 0 to 5.
    pub number: u8,
    /// Its address, 0 if it was given none.
    pub address: u64,
    /// Its length in bytes, a power of two.
    pub len: u64,
    /// Whether it is 64 bits wide, and so takes the place of the next one too.
    pub wide: bool,
}

/// A BAR of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoBar {
    /// Its number, 0 to 5.
    pub number: u8,
    /// Its first port, 0 if it was given none.
    pub port: u16,
    /// Its length in ports, a power of two.
    pub len: u16,
}

const IO: u32 = 1;
const IO_FLAGS: u32 = 3;
const WIDE: u32 = 2 << 1;
const TYPE: u32 = 3 << 1;
const FLAGS: u32 = 0xf;

const fn offset(number: u8) -> u16 {
    0x10 + 4 * number as u16
}

/// Looks at BAR `number`; `None` if it is not there, or one of I/O ports.
///
/// The function decodes nothing meanwhile.
pub fn memory_bar<C: ConfigSpace + ?Sized>(
    function: &Function<'_, C>,
    number: u8,
) -> Result<Option<MemoryBar>, TransportError> {
    if number > MAX_BAR {
        return Ok(None);
    }
    let low = function.read32(offset(number))?;
    if low & IO != 0 {
        return Ok(None);
    }
    let wide = low & TYPE == WIDE && number < MAX_BAR;
    let command = function.command()?;
    function.set_command(command & !(COMMAND_IO | COMMAND_MEMORY))?;
    let mut address = u64::from(low & !FLAGS);
    let mut mask = size_mask(function, number, low)? & u64::from(!FLAGS) | !u64::from(u32::MAX);
    if wide {
        let high = function.read32(offset(number + 1))?;
        address |= u64::from(high) << 32;
        mask = mask & u64::from(u32::MAX) | size_mask(function, number + 1, high)? << 32;
    }
    function.set_command(command)?;
    if mask as u32 & !FLAGS == 0 && (!wide || mask >> 32 == 0) {
        return Ok(None);
    }
    // The length is the lowest bit that can be set.
    let len = 1 << mask.trailing_zeros();
    Ok(Some(MemoryBar { number, address, len, wide }))
}

/// Which bits of a BAR can be set; its value is put back.
fn size_mask<C: ConfigSpace + ?Sized>(
    function: &Function<'_, C>,
    number: u8,
    value: u32,
) -> Result<u64, TransportError> {
    function.write32(offset(number), u32::MAX)?;
    let mask = function.read32(offset(number))?;
    function.write32(offset(number), value)?;
    Ok(mask.into())
}

/// Looks at BAR `number`; `None` if it is not there, or one of memory. It decodes nothing meanwhile.
pub fn io_bar<C: ConfigSpace + ?Sized>(
    function: &Function<'_, C>,
    number: u8,
) -> Result<Option<IoBar>, TransportError> {
    if number > MAX_BAR {
        return Ok(None);
    }
    let value = function.read32(offset(number))?;
    if value & IO == 0 {
        return Ok(None);
    }
    let command = function.command()?;
    function.set_command(command & !(COMMAND_IO | COMMAND_MEMORY))?;
    let mask = size_mask(function, number, value)? as u32 & !IO_FLAGS;
    function.set_command(command)?;
    // Only 16 bits of a port's number need to be there.
    if mask as u16 == 0 {
        return Ok(None);
    }
    let port = (value & !IO_FLAGS) as u16;
    Ok(Some(IoBar { number, port, len: 1 << mask.trailing_zeros() }))
}

/// All BARs of memory of a function, as they are.
pub fn all<C: ConfigSpace + ?Sized>(function: &Function<'_, C>) -> Result<Vec<MemoryBar>, TransportError> {
    let last = last(function)?;
    let (mut found, mut number) = (Vec::new(), 0);
    while number <= last {
        let bar = memory_bar(function, number)?;
        number += 1 + u8::from(bar.is_some_and(|bar| bar.wide));
        found.extend(bar);
    }
    Ok(found)
}

/// All BARs of I/O ports of a function, as they are.
pub fn all_io<C: ConfigSpace + ?Sized>(function: &Function<'_, C>) -> Result<Vec<IoBar>, TransportError> {
    let mut found = Vec::new();
    for number in 0..=last(function)? {
        found.extend(io_bar(function, number)?);
    }
    Ok(found)
}

/// The last BAR that a function can have: a bridge has two.
fn last<C: ConfigSpace + ?Sized>(function: &Function<'_, C>) -> Result<u8, TransportError> {
    Ok(if function.is_endpoint()? { MAX_BAR } else { 1 })
}

/// Gives every BAR of I/O ports of a function a first port, from `next` on and below `end`, where no firmware did;
/// `next` moves on. The BARs, as they are now.
pub fn place_io<C: ConfigSpace + ?Sized>(
    function: &Function<'_, C>,
    next: &mut u16,
    end: u16,
) -> Result<Vec<IoBar>, TransportError> {
    let mut placed = Vec::new();
    for bar in all_io(function)? {
        if bar.port != 0 {
            placed.push(bar);
            continue;
        }
        let port = next.checked_next_multiple_of(bar.len).ok_or(TransportError::NoMemory)?;
        *next = port.checked_add(bar.len).filter(|&after| after <= end).ok_or(TransportError::NoMemory)?;
        function.write32(offset(bar.number), u32::from(port) | IO)?;
        placed.push(IoBar { port, ..bar });
    }
    Ok(placed)
}

/// Gives every memory BAR of a function an address, from `next` on and below `end`, where no firmware did;
/// `next` moves on. The BARs, as they are now.
pub fn place<C: ConfigSpace + ?Sized>(
    function: &Function<'_, C>,
    next: &mut u64,
    end: u64,
) -> Result<Vec<MemoryBar>, TransportError> {
    let mut placed = Vec::new();
    for bar in all(function)? {
        if bar.address != 0 {
            placed.push(bar);
            continue;
        }
        let address = next.checked_next_multiple_of(bar.len).ok_or(TransportError::NoMemory)?;
        let end = if bar.wide { end } else { end.min(1 << 32) };
        let after = address.checked_add(bar.len).filter(|&after| after <= end);
        *next = after.ok_or(TransportError::NoMemory)?;
        function.write32(offset(bar.number), address as u32)?;
        if bar.wide {
            function.write32(offset(bar.number + 1), (address >> 32) as u32)?;
        }
        placed.push(MemoryBar { address, ..bar });
    }
    Ok(placed)
}
