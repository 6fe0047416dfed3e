//! The memory of a ring, on the side of the driver, who provides it.

use super::add::Home;
use super::error::NewError;
use crate::mem::{Arena, DeviceAddr, DmaBuf, Domain};
use crate::words::Area;
use virtio_kit_spec::{packed, split};

/// Device addresses of a queue's three areas (2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddrs {
    /// Descriptor table or packed descriptor ring.
    pub desc: DeviceAddr,
    /// Driver area: available ring, or driver event suppression.
    pub driver: DeviceAddr,
    /// Device area: used ring, or device event suppression.
    pub device: DeviceAddr,
}

/// The three areas of a ring, each an allocation of its own: no two share a cache line, and a domain may give
/// the device area other permissions than the driver's.
#[derive(Debug)]
pub struct RingMemory {
    pub(super) desc: DmaBuf,
    pub(super) driver: DmaBuf,
    pub(super) device: DmaBuf,
    pub(super) packed: bool,
    pub(super) size: u16,
}

impl RingMemory {
    /// Allocates zeroed areas for a ring of `size` descriptors.
    pub fn alloc(arena: &Arena, packed: bool, size: u16) -> Result<Self, NewError> {
        if size == 0 || size > split::MAX_SIZE || (!packed && !size.is_power_of_two()) {
            return Err(NewError::BadSize(size));
        }
        let [desc, driver, device] = if packed {
            [packed::desc_size(size), packed::EVENT_SIZE, packed::EVENT_SIZE]
        } else {
            [split::desc_size(size), split::driver_size(size), split::device_size(size)]
        };
        Ok(Self {
            desc: arena.alloc_zeroed(desc)?,
            driver: arena.alloc_zeroed(driver)?,
            device: arena.alloc_zeroed(device)?,
            packed,
            size,
        })
    }

    /// Where the device finds the areas.
    pub fn addrs(&self) -> RingAddrs {
        RingAddrs {
            desc: self.desc.device_addr(),
            driver: self.driver.device_addr(),
            device: self.device.device_addr(),
        }
    }

    /// The domain that the areas and all buffers of the queue are in.
    pub fn domain(&self) -> Domain {
        self.desc.domain()
    }

    /// The arena that the descriptors are in.
    pub(super) fn home(&self) -> Home {
        let (arena, start, _) = self.desc.raw();
        let base = self.desc.device_addr().get() - u64::from(start);
        Home { arena: arena & !DmaBuf::TAG, base, domain: self.domain() }
    }

    /// Sets all areas to zero.
    pub(super) fn clear(&mut self) {
        [&mut self.desc, &mut self.driver, &mut self.device].into_iter().for_each(|b| b.fill(0));
    }

    /// The areas as words: descriptors, driver area, device area.
    ///
    /// # Safety
    ///
    /// The words must not be used after this memory is dropped.
    pub(super) unsafe fn areas(&self) -> [Area; 3] {
        // SAFETY: each buffer was allocated with its area's length and is aligned to at least 64 bytes; the
        // caller keeps it alive.
        [&self.desc, &self.driver, &self.device].map(|b| unsafe { Area::new(b.as_ptr()) })
    }
}
