//! The common configuration (4.1.4.3).

use super::routing::VectorRegisters;
use crate::clock::Clock;
use crate::registers::{Window, wait_for};
use crate::transport::{QueueSetup, TransportError};
use core::time::Duration;
use virtio_kit_spec::pci::common as offset;
use virtio_kit_spec::{Features, Status};

/// The common configuration registers of one device.
pub(super) struct Common(pub(super) Window);

impl Common {
    pub(super) fn status(&self) -> Result<Status, TransportError> {
        Ok(Status::from_bits_retain(self.0.read8(offset::DEVICE_STATUS)?))
    }

    pub(super) fn set_status(&self, status: Status) -> Result<(), TransportError> {
        self.0.write8(offset::DEVICE_STATUS, status.bits())
    }

    /// Writes 0 and waits until it reads back (2.4.2, 4.1.4.3.2).
    pub(super) fn reset(&self, clock: &dyn Clock, limit: Duration) -> Result<(), TransportError> {
        self.set_status(Status::RESET)?;
        wait_for(clock, limit, || Ok(self.status()?.is_empty()))
    }

    pub(super) fn device_features(&self) -> Result<Features, TransportError> {
        let mut features = Features::EMPTY;
        for word in 0..Features::WORDS {
            self.0.write32(offset::DEVICE_FEATURE_SELECT, word)?;
            features = features.with_word(word, self.0.read32(offset::DEVICE_FEATURE)?);
        }
        Ok(features)
    }

    pub(super) fn set_driver_features(&self, features: Features) -> Result<(), TransportError> {
        for word in 0..Features::WORDS {
            self.0.write32(offset::DRIVER_FEATURE_SELECT, word)?;
            self.0.write32(offset::DRIVER_FEATURE, features.word(word))?;
        }
        Ok(())
    }

    pub(super) fn generation(&self) -> Result<u8, TransportError> {
        self.0.read8(offset::CONFIG_GENERATION)
    }

    pub(super) fn queue_count(&self) -> Result<u16, TransportError> {
        self.0.read16(offset::NUM_QUEUES)
    }

    /// Makes the following functions be about a queue.
    pub(super) fn select(&self, queue: u16) -> Result<Selected<'_>, TransportError> {
        self.0.write16(offset::QUEUE_SELECT, queue)?;
        Ok(Selected(&self.0))
    }

    /// Whether the registers reach as far as those of queue reset.
    pub(super) fn has_queue_reset(&self) -> bool {
        self.0.len() >= offset::QUEUE_RESET as u64 + 2
    }
}

impl VectorRegisters for Common {
    fn set_config_vector(&self, vector: u16) -> Result<bool, TransportError> {
        self.0.write16(offset::CONFIG_MSIX_VECTOR, vector)?;
        Ok(self.0.read16(offset::CONFIG_MSIX_VECTOR)? == vector)
    }

    fn set_queue_vector(&self, queue: u16, vector: u16) -> Result<bool, TransportError> {
        self.select(queue)?;
        self.0.write16(offset::QUEUE_MSIX_VECTOR, vector)?;
        Ok(self.0.read16(offset::QUEUE_MSIX_VECTOR)? == vector)
    }
}

/// The registers of the queue that is selected.
pub(super) struct Selected<'w>(&'w Window);

impl Selected<'_> {
    /// Before the size is written: the maximum, 0 if there is no such queue.
    pub(super) fn size(&self) -> Result<u16, TransportError> {
        self.0.read16(offset::QUEUE_SIZE)
    }

    pub(super) fn is_enabled(&self) -> Result<bool, TransportError> {
        Ok(self.0.read16(offset::QUEUE_ENABLE)? != 0)
    }

    pub(super) fn notify_off(&self) -> Result<u16, TransportError> {
        self.0.read16(offset::QUEUE_NOTIFY_OFF)
    }

    /// Writes size and addresses, and reads the size back.
    pub(super) fn configure(&self, setup: &QueueSetup) -> Result<(), TransportError> {
        self.0.write16(offset::QUEUE_SIZE, setup.size)?;
        if self.size()? != setup.size {
            return Err(TransportError::Refused("the size of a queue"));
        }
        self.0.write64(offset::QUEUE_DESC, setup.addrs.desc.get())?;
        self.0.write64(offset::QUEUE_DRIVER, setup.addrs.driver.get())?;
        self.0.write64(offset::QUEUE_DEVICE, setup.addrs.device.get())
    }

    pub(super) fn enable(&self) -> Result<(), TransportError> {
        self.0.write16(offset::QUEUE_ENABLE, 1)?;
        if self.is_enabled()? { Ok(()) } else { Err(TransportError::Refused("enabling a queue")) }
    }

    /// Resets the queue and waits until the device says that it has (2.6.1, 4.1.4.3.2): both registers 0.
    pub(super) fn reset(&self, clock: &dyn Clock, limit: Duration) -> Result<(), TransportError> {
        self.0.write16(offset::QUEUE_RESET, 1)?;
        self.0.await16(offset::QUEUE_RESET, clock, limit, |value| value == 0)?;
        self.0.await16(offset::QUEUE_ENABLE, clock, limit, |value| value == 0)
    }
}
