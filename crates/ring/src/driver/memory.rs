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
/// the device area other permissions than the driver's. On a legacy interface they are one run of addresses.
#[derive(Debug)]
pub struct RingMemory {
    pub(super) desc: DmaBuf,
    rest: Rest,
    pub(super) packed: bool,
    pub(super) size: u16,
}

/// Where driver area and device area are.
#[derive(Debug)]
enum Rest {
    Apart {
        driver: DmaBuf,
        device: DmaBuf,
    },
    /// In the descriptors' buffer.
    Joined(split::LegacyLayout),
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
        let desc = arena.alloc_zeroed(desc)?;
        let rest = Rest::Apart { driver: arena.alloc_zeroed(driver)?, device: arena.alloc_zeroed(device)? };
        Ok(Self { desc, rest, packed, size })
    }

    /// Allocates zeroed areas for a split ring of `size` descriptors as the legacy interface has them (2.7.2): one
    /// run of addresses that begins at a page of 4096 bytes, the device area at a multiple of `align` in it.
    /// `align` is the transport's: a power of two from 4 to 4096.
    pub fn alloc_legacy(arena: &Arena, size: u16, align: usize) -> Result<Self, NewError> {
        if size == 0 || size > split::MAX_SIZE || !size.is_power_of_two() {
            return Err(NewError::BadSize(size));
        }
        if !align.is_power_of_two() || !(split::DEVICE_ALIGN..=4096).contains(&align) {
            return Err(NewError::BadAlign(align));
        }
        let layout = split::LegacyLayout::new(size, align);
        // A page or more, so that the buffer begins at one.
        let desc = arena.alloc_zeroed(layout.size.max(4096))?;
        Ok(Self { desc, rest: Rest::Joined(layout), packed: false, size })
    }

    /// Where the device finds the areas.
    pub fn addrs(&self) -> RingAddrs {
        let desc = self.desc.device_addr();
        let (driver, device) = match &self.rest {
            Rest::Apart { driver, device } => (driver.device_addr(), device.device_addr()),
            Rest::Joined(at) => {
                (DeviceAddr(desc.0 + at.driver as u64), DeviceAddr(desc.0 + at.device as u64))
            }
        };
        RingAddrs { desc, driver, device }
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
        self.desc.fill(0);
        if let Rest::Apart { driver, device } = &mut self.rest {
            driver.fill(0);
            device.fill(0);
        }
    }

    /// The areas as words: descriptors, driver area, device area.
    ///
    /// # Safety
    ///
    /// The words must not be used after this memory is dropped.
    pub(super) unsafe fn areas(&self) -> [Area; 3] {
        let desc = self.desc.as_ptr();
        let pointers = match &self.rest {
            Rest::Apart { driver, device } => [desc, driver.as_ptr(), device.as_ptr()],
            // SAFETY: the buffer was allocated with the length of the whole layout, and nothing cuts it.
            Rest::Joined(at) => [desc, unsafe { desc.add(at.driver) }, unsafe { desc.add(at.device) }],
        };
        // SAFETY: each area has its length there, in a buffer of its own that is aligned to at least 64 bytes, or in
        // one of 4096: descriptors at its start, the driver area after whole descriptors, the device area at a
        // multiple of at least 4. The caller keeps them alive.
        pointers.map(|p| unsafe { Area::new(p) })
    }
}
