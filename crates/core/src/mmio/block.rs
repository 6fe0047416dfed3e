//! The register block (4.2.2, 4.2.4).

use crate::clock::Clock;
use crate::registers::Window;
use crate::transport::{QueueSetup, TransportError};
use core::time::Duration;
use virtio_kit_spec::mmio as offset;
use virtio_kit_spec::mmio::legacy;
use virtio_kit_spec::{DeviceId, Features, Status};

/// Bytes in the pages of a legacy ring, and the alignment of its device area.
pub(super) const PAGE: usize = 4096;

/// The registers of one device.
#[derive(Clone)]
pub(super) struct Block {
    registers: Window,
    legacy: bool,
}

impl Block {
    /// Looks whether there is a device. `Ok(None)`: the place is empty (4.2.2.2).
    pub(super) fn find(registers: Window) -> Result<Option<Self>, TransportError> {
        if registers.len() < offset::CONFIG as u64 {
            return Err(TransportError::Unsupported("an MMIO block shorter than its registers"));
        }
        if registers.read32(offset::MAGIC_VALUE)? != offset::MAGIC {
            return Err(TransportError::Unsupported("a place that is no virtio device: wrong magic value"));
        }
        let legacy = match registers.read32(offset::VERSION)? {
            offset::VERSION_MODERN => false,
            offset::VERSION_LEGACY => true,
            _ => return Err(TransportError::Unsupported("an MMIO device of an unknown version")),
        };
        let block = Self { registers, legacy };
        Ok((block.id()? != DeviceId::INVALID).then_some(block))
    }

    pub(super) fn is_legacy(&self) -> bool {
        self.legacy
    }

    pub(super) fn id(&self) -> Result<DeviceId, TransportError> {
        Ok(DeviceId(self.registers.read32(offset::DEVICE_ID)?))
    }

    pub(super) fn vendor(&self) -> Result<u32, TransportError> {
        self.registers.read32(offset::VENDOR_ID)
    }

    pub(super) fn status(&self) -> Result<Status, TransportError> {
        Ok(Status::from_bits_retain(self.registers.read32(offset::STATUS)? as u8))
    }

    pub(super) fn set_status(&self, status: Status) -> Result<(), TransportError> {
        self.registers.write32(offset::STATUS, status.bits().into())
    }

    /// Writes 0 and waits until it reads back (2.4.2).
    pub(super) fn reset(&self, clock: &dyn Clock, limit: Duration) -> Result<(), TransportError> {
        self.set_status(Status::RESET)?;
        self.registers.await32(offset::STATUS, clock, limit, |value| value == 0)?;
        if self.legacy {
            self.registers.write32(legacy::GUEST_PAGE_SIZE, PAGE as u32)?;
        }
        Ok(())
    }

    /// Features offered (4.2.2). A device that knows only 64 may show the upper 32 of them for every larger number too,
    /// as QEMU does: no other can say VERSION_1 in all of them.
    pub(super) fn device_features(&self) -> Result<Features, TransportError> {
        let mut features = Features::EMPTY;
        let words = if self.legacy { 1 } else { Features::WORDS };
        for word in 0..words {
            self.registers.write32(offset::DEVICE_FEATURES_SEL, word)?;
            features = features.with_word(word, self.registers.read32(offset::DEVICE_FEATURES)?);
        }
        let high = features.word(1);
        let repeats = high != 0 && features.word(2) == high && features.word(3) == high;
        Ok(if repeats { Features::from_low(features.low()) } else { features })
    }

    /// Features accepted. After a reset there are none, so words of which nothing is accepted need not be written:
    /// to a device that knows only 64 they would be others.
    pub(super) fn set_driver_features(&self, features: Features) -> Result<(), TransportError> {
        let words = if self.legacy { 1 } else { Features::WORDS };
        for word in (0..words).filter(|&word| word < 2 || features.word(word) != 0) {
            self.registers.write32(offset::DRIVER_FEATURES_SEL, word)?;
            self.registers.write32(offset::DRIVER_FEATURES, features.word(word))?;
        }
        Ok(())
    }

    /// Changes with the configuration; a legacy device has none.
    pub(super) fn generation(&self) -> Result<u32, TransportError> {
        if self.legacy { Ok(0) } else { self.registers.read32(offset::CONFIG_GENERATION) }
    }

    /// The configuration space.
    pub(super) fn config(&self) -> Option<Window> {
        let start = offset::CONFIG as u64;
        self.registers.part(start, self.registers.len() - start)
    }

    /// The register that notifies the device of available buffers.
    pub(super) fn notify(&self) -> Option<Window> {
        self.registers.part(offset::QUEUE_NOTIFY as u64, 4)
    }

    /// Which interrupts came in, of those that are known; they are acknowledged.
    pub(super) fn take_interrupts(&self) -> Result<u32, TransportError> {
        let came = self.registers.read32(offset::INTERRUPT_STATUS)?;
        let known = came & (offset::INTERRUPT_QUEUE | offset::INTERRUPT_CONFIG);
        if known != 0 {
            self.registers.write32(offset::INTERRUPT_ACK, known)?;
        }
        Ok(known)
    }

    /// Physical address and length of a shared memory region (2.10, 4.2.2.2).
    pub(super) fn shared_memory(&self, id: u8) -> Result<Option<(u64, u64)>, TransportError> {
        if self.legacy {
            return Ok(None);
        }
        let registers = &self.registers;
        let wide = |low, high| -> Result<u64, TransportError> {
            Ok(u64::from(registers.read32(low)?) | u64::from(registers.read32(high)?) << 32)
        };
        registers.write32(offset::SHM_SEL, id.into())?;
        let len = wide(offset::SHM_LEN_LOW, offset::SHM_LEN_HIGH)?;
        if len == offset::SHM_NONE || len == 0 {
            return Ok(None);
        }
        Ok(Some((wide(offset::SHM_BASE_LOW, offset::SHM_BASE_HIGH)?, len)))
    }

    /// Makes the following functions be about a queue.
    pub(super) fn select(&self, queue: u16) -> Result<Selected<'_>, TransportError> {
        self.registers.write32(offset::QUEUE_SEL, queue.into())?;
        Ok(Selected(self))
    }
}

/// The registers of the queue that is selected.
pub(super) struct Selected<'b>(&'b Block);

impl Selected<'_> {
    /// Most descriptors; 0 if there is no such queue.
    pub(super) fn max_size(&self) -> Result<u16, TransportError> {
        let max = self.0.registers.read32(offset::QUEUE_SIZE_MAX)?;
        // A size that no ring can have is as good as the largest that one can.
        Ok(max.min(32768) as u16)
    }

    pub(super) fn is_enabled(&self) -> Result<bool, TransportError> {
        let register = if self.0.legacy { legacy::QUEUE_PFN } else { offset::QUEUE_READY };
        Ok(self.0.registers.read32(register)? != 0)
    }

    /// Writes size and addresses, and lets the device use the queue (4.2.3.2, 4.2.4.1).
    pub(super) fn enable(&self, setup: &QueueSetup) -> Result<(), TransportError> {
        let registers = &self.0.registers;
        registers.write32(offset::QUEUE_SIZE, setup.size.into())?;
        if self.0.legacy {
            let page = setup.addrs.desc.get() / PAGE as u64;
            let page = u32::try_from(page).map_err(|_| {
                TransportError::Unsupported("a ring above 16 TiB, which no legacy device can reach")
            })?;
            registers.write32(legacy::QUEUE_ALIGN, PAGE as u32)?;
            registers.write32(legacy::QUEUE_PFN, page)?;
        } else {
            registers.write64(offset::QUEUE_DESC_LOW, setup.addrs.desc.get())?;
            registers.write64(offset::QUEUE_DRIVER_LOW, setup.addrs.driver.get())?;
            registers.write64(offset::QUEUE_DEVICE_LOW, setup.addrs.device.get())?;
            registers.write32(offset::QUEUE_READY, 1)?;
        }
        if self.is_enabled()? { Ok(()) } else { Err(TransportError::Refused("enabling a queue")) }
    }

    /// Resets the queue and waits until the device says that it has (2.6.1, 4.2.2.2): both registers 0.
    pub(super) fn reset(&self, clock: &dyn Clock, limit: Duration) -> Result<(), TransportError> {
        let registers = &self.0.registers;
        registers.write32(offset::QUEUE_RESET, 1)?;
        registers.await32(offset::QUEUE_RESET, clock, limit, |value| value == 0)?;
        // QEMU up to 10.0 offers RING_RESET on MMIO and has no such register.
        if self.is_enabled()? {
            return Err(TransportError::Refused("resetting a queue, which it offers to do"));
        }
        Ok(())
    }
}
