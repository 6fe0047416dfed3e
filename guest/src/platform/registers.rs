//! Registers in memory.

use crate::x86::paging;
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;

/// A device's registers, where the CPU sees them.
pub struct Mapped {
    base: usize,
    len: u64,
}

impl Mapped {
    /// The registers at a physical address.
    ///
    /// # Safety
    ///
    /// They must be a virtio device's, or configuration space, and nothing else.
    pub unsafe fn new(address: u64, len: u64) -> Self {
        // SAFETY: a device's, by the caller's promise.
        unsafe { paging::map(address, len) };
        Self { base: address as usize, len }
    }

    /// The address of a register, if all of it is there.
    fn at(&self, offset: u64, width: Width) -> Result<usize, TransportError> {
        // Widths are powers of two; a division would cost more than all the rest.
        match offset.checked_add(width.bytes()) {
            Some(end) if end <= self.len && offset & (width.bytes() - 1) == 0 => {
                Ok(self.base + offset as usize)
            }
            _ => Err(TransportError::Unsupported("a register that is not there")),
        }
    }
}

impl Registers for Mapped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, width: Width) -> Result<u64, TransportError> {
        let at = self.at(offset, width)?;
        // SAFETY: a register of the device.
        Ok(unsafe {
            match width {
                Width::U8 => paging::read8(at).into(),
                Width::U16 => paging::read16(at).into(),
                Width::U32 => paging::read32(at).into(),
                Width::U64 => paging::read64(at),
            }
        })
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), TransportError> {
        let at = self.at(offset, width)?;
        // SAFETY: a register of the device. What a virtio device does to memory is what its queues say, and those hold
        // addresses of arenas only.
        unsafe {
            match width {
                Width::U8 => paging::write8(at, value as u8),
                Width::U16 => paging::write16(at, value as u16),
                Width::U32 => paging::write32(at, value as u32),
                Width::U64 => paging::write64(at, value),
            }
        }
        Ok(())
    }
}
