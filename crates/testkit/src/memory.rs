//! Memory that driver, device and an attacker share: the one place where the kit touches it by pointer.
//!
//! Everything outside this module is safe code. An access that is not inside the memory panics: that is a
//! mistake in a test, not an attack.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::{DmaMemory, RegionMemory};

/// A handle to shared memory: gives it to an arena as [`DmaMemory`], to a device as [`RegionMemory`], and
/// to a foreign end as words at device addresses. Clones share the memory, which lives as long as any of them.
#[derive(Clone)]
pub struct SharedMemory(Arc<Mapping>);

struct Mapping {
    /// What was allocated; the memory is inside, from its first multiple of 4096 on.
    allocation: NonNull<u8>,
    layout: Layout,
    base: NonNull<u8>,
    len: usize,
    device_base: u64,
    domain: Domain,
}

// SAFETY: the allocation belongs to this value alone, and is accessed only through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: allocated in `SharedMemory::new` with this layout; the last handle is gone, and arenas and
        // regions over the memory hold one each.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

impl SharedMemory {
    /// Allocates `len` zeroed bytes, rounded up to 4096, that devices of a new domain see at `device_base`.
    ///
    /// Untouched pages cost nothing, so a length of gigabytes is fine.
    ///
    /// # Panics
    ///
    /// Without memory, or if `device_base` is not a multiple of 4096.
    pub fn new(device_base: u64, len: usize) -> Self {
        Self::in_domain(device_base, len, Domain::new())
    }

    /// Another piece of memory that the same devices see, elsewhere.
    ///
    /// # Panics
    ///
    /// Without memory, or if the two have an address in common.
    pub fn beside(&self, device_base: u64, len: usize) -> Self {
        let other = Self::in_domain(device_base, len, self.0.domain);
        assert!(other.start() >= self.end() || self.start() >= other.end(), "the same addresses");
        other
    }

    fn in_domain(device_base: u64, len: usize, domain: Domain) -> Self {
        assert!(device_base.is_multiple_of(4096), "misaligned base");
        let len = len.max(1).next_multiple_of(4096);
        // Aligned by hand: zeroed memory of a larger alignment would be written to, all of it.
        let layout = Layout::from_size_align(len + 4096, 8).expect("a sane length");
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
        // SAFETY: at most 4095 bytes on, with `len` bytes after that.
        let base = unsafe { allocation.add(allocation.align_offset(4096)) };
        Self(Arc::new(Mapping { allocation, layout, base, len, device_base, domain }))
    }

    /// Address of the first byte as devices see it.
    pub fn start(&self) -> u64 {
        self.0.device_base
    }

    /// First address after the memory.
    pub fn end(&self) -> u64 {
        self.0.device_base + self.0.len as u64
    }

    /// Whether the `len` bytes at a pointer are all in this memory.
    pub fn holds(&self, ptr: NonNull<u8>, len: usize) -> bool {
        let offset = (ptr.as_ptr() as usize).wrapping_sub(self.0.base.as_ptr() as usize);
        offset < self.0.len && len <= self.0.len - offset
    }

    /// The place of an aligned `T` at a device address.
    fn at<T>(&self, addr: u64) -> &T {
        let (offset, size) = (addr.wrapping_sub(self.0.device_base), size_of::<T>() as u64);
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.0.len as u64);
        assert!(inside && offset.is_multiple_of(size), "{addr:#x} is no place for {size} bytes");
        // SAFETY: inside the allocation, which `self` keeps, and aligned, since the base is to 4096. `T` is
        // only ever one of the atomics below: any bytes are one, and no other kind of access is made to this
        // memory than atomic ones and the copies of the ring crate, which tolerate other writers.
        unsafe { self.0.base.add(offset as usize).cast().as_ref() }
    }

    /// One byte.
    pub fn read8(&self, addr: u64) -> u8 {
        self.at::<AtomicU8>(addr).load(SeqCst)
    }

    /// A little-endian word of 16 bits.
    pub fn read16(&self, addr: u64) -> u16 {
        u16::from_le(self.at::<AtomicU16>(addr).load(SeqCst))
    }

    /// A little-endian word of 32 bits.
    pub fn read32(&self, addr: u64) -> u32 {
        u32::from_le(self.at::<AtomicU32>(addr).load(SeqCst))
    }

    /// A little-endian word of 64 bits.
    pub fn read64(&self, addr: u64) -> u64 {
        u64::from_le(self.at::<AtomicU64>(addr).load(SeqCst))
    }

    /// Writes one byte.
    pub fn write8(&self, addr: u64, value: u8) {
        self.at::<AtomicU8>(addr).store(value, SeqCst);
    }

    /// Writes a little-endian word of 16 bits.
    pub fn write16(&self, addr: u64, value: u16) {
        self.at::<AtomicU16>(addr).store(value.to_le(), SeqCst);
    }

    /// Writes a little-endian word of 32 bits.
    pub fn write32(&self, addr: u64, value: u32) {
        self.at::<AtomicU32>(addr).store(value.to_le(), SeqCst);
    }

    /// Writes a little-endian word of 64 bits.
    pub fn write64(&self, addr: u64, value: u64) {
        self.at::<AtomicU64>(addr).store(value.to_le(), SeqCst);
    }

    /// Writes bytes, one by one.
    pub fn write_bytes(&self, addr: u64, bytes: &[u8]) {
        (addr..).zip(bytes).for_each(|(at, &byte)| self.write8(at, byte));
    }

    /// Sets `len` bytes to one value.
    pub fn fill(&self, addr: u64, len: usize, value: u8) {
        (addr..addr + len as u64).for_each(|at| self.write8(at, value));
    }
}

// SAFETY: an allocation with one address in its domain, which it has alone or beside pieces elsewhere, kept alive
// by the handle. Nobody makes references into it except to atomics. Devices in this process reach it only through
// regions, which hold handles of their own.
unsafe impl DmaMemory for SharedMemory {
    fn base(&self) -> NonNull<u8> {
        self.0.base
    }
    fn len(&self) -> usize {
        self.0.len
    }
    fn device_base(&self) -> u64 {
        self.0.device_base
    }
    fn domain(&self) -> Domain {
        self.0.domain
    }
}

// SAFETY: as above.
unsafe impl RegionMemory for SharedMemory {
    fn base(&self) -> NonNull<u8> {
        self.0.base
    }
    fn len(&self) -> usize {
        self.0.len
    }
}

/// A run of bytes of shared memory, to be a region of its own.
pub struct Part {
    memory: SharedMemory,
    offset: usize,
    len: usize,
}

impl SharedMemory {
    /// The bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the memory.
    pub fn part(&self, offset: usize, len: usize) -> Part {
        assert!(offset <= self.0.len && len <= self.0.len - offset, "beyond the memory");
        Part { memory: self.clone(), offset, len }
    }
}

// SAFETY: inside an allocation that the handle keeps; see `SharedMemory`.
unsafe impl RegionMemory for Part {
    fn base(&self) -> NonNull<u8> {
        // SAFETY: `part` checked that the offset is inside the allocation or at its end.
        unsafe { self.memory.0.base.add(self.offset) }
    }
    fn len(&self) -> usize {
        self.len
    }
}
