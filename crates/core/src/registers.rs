//! Registers: how the transports that have them reach them.
//!
//! Pointers, qtest's text protocol, VFIO's regions and the window in a function's configuration space
//! ([`CapType::PCI_CFG`](virtio_kit_spec::pci::CapType::PCI_CFG)) all implement [`Registers`]; what is built on
//! it works over each of them. Drivers never see registers.

use crate::clock::Clock;
use crate::transport::TransportError;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

/// How many bytes one access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// 8 bits.
    U8 = 1,
    /// 16 bits.
    U16 = 2,
    /// 32 bits.
    U32 = 4,
    /// 64 bits.
    U64 = 8,
}

impl Width {
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self as u64
    }
}

/// A run of little-endian registers. Each access is one access of exactly that width, in program order, and
/// ordered after earlier stores to memory that the device may read.
pub trait Registers: Send + Sync {
    /// Bytes in the run.
    fn len(&self) -> u64;

    /// Whether there are no registers at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the register at `offset`, a multiple of the width; the value is zero-extended.
    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError>;

    /// Writes the low bits of `value` to the register at `offset`, a multiple of the width.
    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError>;
}

/// A part of a run of registers, with its bounds checked.
#[derive(Clone)]
pub struct Window {
    registers: Arc<dyn Registers>,
    start: u64,
    len: u64,
}

const OUTSIDE: TransportError = TransportError::Unsupported("a register that the device does not have");

impl Window {
    /// `len` bytes from `start`; `None` if they are not all there.
    pub fn new(registers: Arc<dyn Registers>, start: u64, len: u64) -> Option<Self> {
        (start.checked_add(len)? <= registers.len()).then_some(Self { registers, start, len })
    }

    /// A part of this part.
    pub fn part(&self, start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len)?;
        let start = self.start + start;
        (end <= self.len).then(|| Self { registers: self.registers.clone(), start, len })
    }

    /// Bytes in the window.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the window has no register.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, offset: usize, width: Width) -> Result<u64, TransportError> {
        let offset = offset as u64;
        match offset.checked_add(width.bytes()) {
            Some(end) if end <= self.len => Ok(self.start + offset),
            _ => Err(OUTSIDE),
        }
    }

    /// Reads one register.
    pub fn read(&self, offset: usize, width: Width) -> Result<u64, TransportError> {
        self.registers.read(self.at(offset, width)?, width)
    }

    /// Writes one register.
    pub fn write(&self, offset: usize, width: Width, value: u64) -> Result<(), TransportError> {
        self.registers.write(self.at(offset, width)?, width, value)
    }

    /// Reads 8 bits.
    pub fn read8(&self, offset: usize) -> Result<u8, TransportError> {
        Ok(self.read(offset, Width::U8)? as u8)
    }

    /// Reads 16 bits.
    pub fn read16(&self, offset: usize) -> Result<u16, TransportError> {
        Ok(self.read(offset, Width::U16)? as u16)
    }

    /// Reads 32 bits.
    pub fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        Ok(self.read(offset, Width::U32)? as u32)
    }

    /// Writes 8 bits.
    pub fn write8(&self, offset: usize, value: u8) -> Result<(), TransportError> {
        self.write(offset, Width::U8, value.into())
    }

    /// Writes 16 bits.
    pub fn write16(&self, offset: usize, value: u16) -> Result<(), TransportError> {
        self.write(offset, Width::U16, value.into())
    }

    /// Writes 32 bits.
    pub fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.write(offset, Width::U32, value.into())
    }

    /// Writes 64 bits as two halves, the low one first: no device demands one access (4.1.3.1, 4.2.2.2).
    pub fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.write32(offset, value as u32)?;
        self.write32(offset + 4, (value >> 32) as u32)
    }

    /// Fills `to` from `offset` on by aligned accesses of up to 32 bits; what lies beyond the end reads as 0.
    pub fn read_bytes(&self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        to.fill(0);
        let there = usize::try_from(self.len).unwrap_or(usize::MAX).saturating_sub(offset).min(to.len());
        for (at, width) in pieces(offset, there) {
            let value = self.read(at, width)?.to_le_bytes();
            let len = width.bytes() as usize;
            to[at - offset..][..len].copy_from_slice(&value[..len]);
        }
        Ok(())
    }

    /// Writes `from` at `offset` by aligned accesses of up to 32 bits. All of it must be inside.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        if offset as u64 > self.len || from.len() as u64 > self.len - offset as u64 {
            return Err(OUTSIDE);
        }
        for (at, width) in pieces(offset, from.len()) {
            let len = width.bytes() as usize;
            let mut value = [0; 8];
            value[..len].copy_from_slice(&from[at - offset..][..len]);
            self.write(at, width, u64::from_le_bytes(value))?;
        }
        Ok(())
    }

    /// Reads 16 bits until `done` says so or the `limit` has passed.
    pub(crate) fn await16(
        &self,
        offset: usize,
        clock: &dyn Clock,
        limit: Duration,
        done: impl Fn(u16) -> bool,
    ) -> Result<(), TransportError> {
        wait_for(clock, limit, || Ok(done(self.read16(offset)?)))
    }

    /// Reads 32 bits until `done` says so or the `limit` has passed.
    pub(crate) fn await32(
        &self,
        offset: usize,
        clock: &dyn Clock,
        limit: Duration,
        done: impl Fn(u32) -> bool,
    ) -> Result<(), TransportError> {
        wait_for(clock, limit, || Ok(done(self.read32(offset)?)))
    }
}

/// Asks until the answer is yes or the `limit` has passed.
pub(crate) fn wait_for(
    clock: &dyn Clock,
    limit: Duration,
    mut ask: impl FnMut() -> Result<bool, TransportError>,
) -> Result<(), TransportError> {
    let look = || match ask() {
        Ok(done) => done.then_some(Ok(())),
        Err(error) => Some(Err(error)),
    };
    Clock::wait_for(&clock, limit, look).unwrap_or(Err(TransportError::Timeout))
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({:#x} + {:#x})", self.start, self.len)
    }
}

/// The widest aligned accesses that cover `len` bytes from `offset`.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, Width)> {
    let (mut at, end) = (offset, offset + len);
    core::iter::from_fn(move || {
        let width = match end - at {
            0 => return None,
            4.. if at.is_multiple_of(4) => Width::U32,
            2.. if at.is_multiple_of(2) => Width::U16,
            _ => Width::U8,
        };
        at += width.bytes() as usize;
        Some((at - width.bytes() as usize, width))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use spin::Mutex;

    /// Registers that are only memory, and remember how they were accessed.
    pub(crate) struct Plain {
        pub(crate) bytes: Mutex<Vec<u8>>,
        pub(crate) seen: Mutex<Vec<(u64, Width)>>,
    }

    impl Plain {
        pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
            Arc::new(Self { bytes: Mutex::new(bytes), seen: Mutex::new(vec![]) })
        }
    }

    impl Registers for Plain {
        fn len(&self) -> u64 {
            self.bytes.lock().len() as u64
        }
        fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
            self.seen.lock().push((offset, width));
            let mut value = [0; 8];
            let len = width.bytes() as usize;
            value[..len].copy_from_slice(&self.bytes.lock()[offset as usize..][..len]);
            Ok(u64::from_le_bytes(value))
        }
        fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
            self.seen.lock().push((offset, width));
            let len = width.bytes() as usize;
            self.bytes.lock()[offset as usize..][..len].copy_from_slice(&value.to_le_bytes()[..len]);
            Ok(())
        }
    }

    #[test]
    fn bytes_move_in_aligned_accesses_and_read_as_zero_beyond_the_end() {
        let plain = Plain::new((0..32).collect());
        let window = Window::new(plain.clone(), 4, 16).unwrap();
        let mut to = [0xff; 9];
        window.read_bytes(1, &mut to).unwrap();
        assert_eq!(to, [5, 6, 7, 8, 9, 10, 11, 12, 13]);
        let seen = [(5, Width::U8), (6, Width::U16), (8, Width::U32), (12, Width::U16)];
        assert_eq!(*plain.seen.lock(), seen);
        let mut to = [0xff; 8];
        window.read_bytes(14, &mut to).unwrap();
        assert_eq!(to, [18, 19, 0, 0, 0, 0, 0, 0]);
        window.read_bytes(100, &mut to).unwrap();
        assert_eq!(to, [0; 8]);
        window.write_bytes(12, &[1, 2, 3, 4]).unwrap();
        assert_eq!(plain.bytes.lock()[16..21], [1, 2, 3, 4, 20]);
        assert_eq!(window.write_bytes(13, &[1, 2, 3, 4]), Err(OUTSIDE));
    }

    #[test]
    fn windows_end_where_their_registers_do() {
        let plain = Plain::new(vec![0; 32]);
        assert!(Window::new(plain.clone(), 16, 17).is_none());
        assert!(Window::new(plain.clone(), u64::MAX, 1).is_none());
        let window = Window::new(plain, 16, 16).unwrap();
        assert!(window.part(8, 9).is_none() && window.part(u64::MAX, 2).is_none());
        assert_eq!(window.part(8, 8).unwrap().read8(8), Err(OUTSIDE));
        assert_eq!(window.read32(13), Err(OUTSIDE));
        assert_eq!(window.read32(usize::MAX), Err(OUTSIDE));
    }
}
