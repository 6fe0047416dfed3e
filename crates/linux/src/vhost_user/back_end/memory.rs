//! The front-end's memory: its regions, mapped, in both of the address spaces that messages use.

use virtio_kit_ring::mem::{Memory, Region, RegionMemory};

use super::error::Refusal;
use crate::mapping::{MapError, Mapping};
use crate::vhost_user::codec::{MemoryRegion, SharedRegion};

/// All regions at this moment.
#[derive(Clone, Default)]
pub(super) struct Regions {
    all: Vec<Slot>,
}

#[derive(Clone)]
struct Slot {
    region: MemoryRegion,
    mapping: Mapping,
}

/// What queues look addresses up in.
#[derive(Clone)]
pub(super) struct Views {
    /// By guest address: descriptors.
    pub(super) guest: Memory,
    /// By the front-end's own addresses: rings.
    pub(super) user: Memory,
}

impl Regions {
    /// Maps a whole table.
    pub(super) fn of_table(table: Vec<SharedRegion>) -> Result<Self, Refusal> {
        let all: Result<_, MapError> = table.into_iter().map(Slot::map).collect();
        Ok(Self { all: all? })
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn add(&mut self, shared: SharedRegion) -> Result<(), Refusal> {
        self.all.push(Slot::map(shared)?);
        Ok(())
    }

    /// Takes out the region with these addresses and this size; the offset does not count.
    pub(super) fn remove(&mut self, which: &MemoryRegion) -> Result<(), Refusal> {
        let key = |region: &MemoryRegion| (region.guest_addr, region.user_addr, region.size);
        let at = self.all.iter().position(|slot| key(&slot.region) == key(which)).ok_or(Refusal::NoRegion)?;
        self.all.remove(at);
        Ok(())
    }

    pub(super) fn views(&self) -> Result<Views, Refusal> {
        let view = |start: fn(&MemoryRegion) -> u64| {
            let regions = self.all.iter().map(|slot| Region::new(start(&slot.region), slot.mapping.clone()));
            Memory::new(regions.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(Views { guest: view(|region| region.guest_addr)?, user: view(|region| region.user_addr)? })
    }

    /// Whether the file behind any region was cut short.
    pub(super) fn are_cut_short(&self) -> bool {
        self.all.iter().any(|slot| slot.mapping.is_cut_short())
    }

    /// The guest address of what is mapped here at `host`.
    pub(super) fn guest_addr_of(&self, host: usize) -> Option<u64> {
        self.all.iter().find_map(|slot| {
            let offset = host.checked_sub(slot.mapping.base().addr().get())? as u64;
            (offset < slot.region.size).then(|| slot.region.guest_addr + offset)
        })
    }

    /// The guest address of what the front-end has at an address of its own.
    pub(super) fn guest_addr_of_user(&self, user_addr: u64) -> Option<u64> {
        self.all.iter().find_map(|slot| {
            let offset = user_addr.checked_sub(slot.region.user_addr)?;
            (offset < slot.region.size).then(|| slot.region.guest_addr + offset)
        })
    }

    /// A 16-bit word of a ring, at one of the front-end's own addresses.
    pub(super) fn ring_word(&self, user_addr: u64) -> Option<u16> {
        self.all.iter().find_map(|slot| {
            let offset = user_addr.checked_sub(slot.region.user_addr).filter(|at| *at < slot.region.size)?;
            slot.mapping.load16(usize::try_from(offset).ok()?).map(u16::from_le)
        })
    }
}

impl Slot {
    fn map(SharedRegion { region, fd }: SharedRegion) -> Result<Self, MapError> {
        Ok(Self { region, mapping: Mapping::new(fd, region.mmap_offset, region.size)? })
    }
}
