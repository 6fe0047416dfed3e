//! The driver's memory as the device's side maps it.

use super::{Arena, DeviceAddr};
use core::fmt;
use core::ptr::NonNull;

/// Memory of a driver, mapped into this program: a guest's RAM, a shared file.
///
/// # Safety
///
/// Until the value is dropped, `len()` bytes from `base()` are valid for reads and writes, and no Rust
/// reference lies in them. The driver may read and write them at any time. Both functions keep returning
/// the same values.
pub unsafe trait RegionMemory: Send + Sync {
    /// First byte.
    fn base(&self) -> NonNull<u8>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether there is no memory at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One run of a driver's addresses and the memory behind it.
pub struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
    #[allow(dead_code, reason = "held, not used: it keeps the memory mapped")]
    keep: Keep,
}

enum Keep {
    Arena(#[allow(dead_code, reason = "as above")] Arena),
    #[cfg(feature = "alloc")]
    Mapping(#[allow(dead_code, reason = "as above")] alloc::boxed::Box<dyn RegionMemory>),
    Static(#[allow(dead_code, reason = "as above")] &'static dyn RegionMemory),
}

// SAFETY: the memory stays valid while `keep` lives, wherever the region is; access to it is by copying.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The whole of an arena, at the addresses that its domain gives it: for a driver in this process.
    pub fn of_arena(arena: &Arena) -> Self {
        Self {
            start: arena.device_base().get(),
            len: arena.len(),
            host: arena.base(),
            keep: Keep::Arena(arena.clone()),
        }
    }

    /// A mapping that the driver addresses from `start` on.
    #[cfg(feature = "alloc")]
    pub fn new(start: u64, memory: impl RegionMemory + 'static) -> Result<Self, MemoryError> {
        let (host, len) = (memory.base(), memory.len() as u64);
        Self::checked(start, len, host, Keep::Mapping(alloc::boxed::Box::new(memory)))
    }

    /// A mapping that is never undone.
    pub fn of_static(start: u64, memory: &'static dyn RegionMemory) -> Result<Self, MemoryError> {
        Self::checked(start, memory.len() as u64, memory.base(), Keep::Static(memory))
    }

    fn checked(start: u64, len: u64, host: NonNull<u8>, keep: Keep) -> Result<Self, MemoryError> {
        if len == 0 || start.checked_add(len).is_none() {
            return Err(MemoryError::BadRange { start, len });
        }
        Ok(Self { start, len, host, keep })
    }

    /// First address, as the driver writes it into descriptors.
    pub fn start(&self) -> DeviceAddr {
        DeviceAddr(self.start)
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:#x}, {:#x} bytes)", self.start, self.len)
    }
}

/// All regions of a driver's memory at one moment. Clones share them.
///
/// A changed set of regions is another `Memory`: queues move to it one by one, and an old one lives, with
/// its mappings, until no queue and no chain in flight uses it.
#[derive(Clone, Debug)]
pub struct Memory(Regions);

#[cfg(feature = "alloc")]
type Regions = alloc::sync::Arc<[Region]>;
#[cfg(not(feature = "alloc"))]
type Regions = &'static [Region];

impl Memory {
    /// Sorts regions and checks that no two overlap.
    #[cfg(feature = "alloc")]
    pub fn new(regions: impl IntoIterator<Item = Region>) -> Result<Self, MemoryError> {
        let mut regions: alloc::vec::Vec<Region> = regions.into_iter().collect();
        Self::sort(&mut regions)?;
        Ok(Self(regions.into()))
    }

    /// Sorts regions in donated storage and checks that no two overlap.
    #[cfg(not(feature = "alloc"))]
    pub fn in_static(regions: &'static mut [Region]) -> Result<Self, MemoryError> {
        Self::sort(regions)?;
        Ok(Self(regions))
    }

    fn sort(regions: &mut [Region]) -> Result<(), MemoryError> {
        regions.sort_unstable_by_key(|r| r.start);
        match regions.windows(2).find(|w| w[0].start + w[0].len > w[1].start) {
            Some(w) => Err(MemoryError::Overlap { at: w[1].start }),
            None => Ok(()),
        }
    }

    /// The regions, by address.
    pub fn regions(&self) -> &[Region] {
        core::ops::Deref::deref(&self.0)
    }

    /// Where `addr` is mapped, with how many bytes follow it in its region.
    fn find(&self, addr: u64) -> Option<Translation> {
        let after = self.0.partition_point(|r| r.start <= addr);
        let region = &self.0[after.checked_sub(1)?];
        let hit = Translation { start: region.start, len: region.len, host: region.host };
        hit.at(addr, 1).map(|_| hit)
    }

    /// The pointer for `len` bytes at `addr`, all in one region.
    pub(crate) fn contiguous(&self, addr: u64, len: u64) -> Option<NonNull<u8>> {
        self.find(addr)?.at(addr, len)
    }
}

/// A region's mapping, as a queue remembers the one it used last.
#[derive(Clone, Copy)]
pub(crate) struct Translation {
    start: u64,
    len: u64,
    host: NonNull<u8>,
}

// SAFETY: a copy of three numbers; the pointer is used only while the `Memory` it came from is held.
unsafe impl Send for Translation {}

impl Translation {
    /// A mapping of nothing.
    pub(crate) const NONE: Self = Self { start: 0, len: 0, host: NonNull::dangling() };

    /// The pointer for `len` bytes at `addr`, if all are in this region.
    #[inline(always)]
    pub(crate) fn at(&self, addr: u64, len: u64) -> Option<NonNull<u8>> {
        let offset = addr.wrapping_sub(self.start);
        if offset < self.len && len <= self.len - offset {
            // SAFETY: inside the region's mapping.
            return Some(unsafe { self.host.add(offset as usize) });
        }
        None
    }

    /// As [`at`](Self::at), and `None` too if `len` is 0.
    #[inline(always)]
    pub(crate) fn at_some(&self, addr: u64, len: u32) -> Option<NonNull<u8>> {
        let offset = addr.wrapping_sub(self.start);
        // Not above `offset` if there are no bytes, or if it goes round.
        let end = offset.wrapping_add(len.into());
        if end <= self.len && offset < end {
            // SAFETY: inside the region's mapping.
            return Some(unsafe { self.host.add(offset as usize) });
        }
        None
    }

    /// Looks `addr` up anew and remembers it; how many bytes follow it in its region.
    #[cold]
    pub(crate) fn move_to(&mut self, memory: &Memory, addr: u64) -> Option<u64> {
        *self = memory.find(addr)?;
        Some(self.len - (addr - self.start))
    }
}

/// Regions that cannot be a driver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// A region is empty or runs past the end of the address space.
    BadRange {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Two regions share an address.
    Overlap {
        /// The first shared address.
        at: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange { start, len } => write!(f, "memory region {start:#x} + {len:#x} is no range"),
            Self::Overlap { at } => write!(f, "memory regions overlap at {at:#x}"),
        }
    }
}

impl core::error::Error for MemoryError {}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::super::{Arena, HeapMemory};
    use super::*;
    use alloc::vec::Vec;

    struct Piece(Arena, u64);

    // SAFETY: a piece of an arena that it holds, from the arena's start.
    unsafe impl RegionMemory for Piece {
        fn base(&self) -> NonNull<u8> {
            self.0.base()
        }
        fn len(&self) -> usize {
            self.1 as usize
        }
    }

    fn region(start: u64, len: u64) -> Result<Region, MemoryError> {
        Region::new(start, Piece(Arena::new(HeapMemory::new(8192).unwrap()).unwrap(), len))
    }

    #[test]
    fn addresses_resolve_inside_their_region_and_nowhere_else() {
        let memory = Memory::new((0..100u64).rev().map(|i| region(i * 0x4000, 0x2000).unwrap())).unwrap();
        for i in 0..100u64 {
            assert!(memory.contiguous(i * 0x4000, 0x2000).is_some());
            assert!(memory.contiguous(i * 0x4000 + 0x1fff, 1).is_some());
            assert!(memory.contiguous(i * 0x4000 + 0x1fff, 2).is_none());
            assert!(memory.contiguous(i * 0x4000 + 0x2000, 1).is_none());
        }
        assert!(memory.contiguous(u64::MAX, 1).is_none());
        assert!(memory.contiguous(0, u64::MAX).is_none());
    }

    #[test]
    fn overlapping_empty_and_wrapping_regions_are_refused() {
        let both: Vec<Region> = [region(0x1000, 0x1001).unwrap(), region(0x2000, 1).unwrap()].into();
        assert_eq!(Memory::new(both).unwrap_err(), MemoryError::Overlap { at: 0x2000 });
        assert!(region(0, 0).is_err());
        assert!(region(u64::MAX - 1, 2).is_err());
    }
}
