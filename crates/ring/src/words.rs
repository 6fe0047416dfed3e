//! Ring words in shared memory: aligned little-endian words, loaded and stored whole and atomically.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// One area of a ring (descriptors, driver area or device area): a pointer to shared memory.
///
/// The other end may write the area at any time, so every access is one atomic load or store.
#[derive(Clone, Copy)]
pub(crate) struct Area(NonNull<u8>);

impl Area {
    /// # Safety
    ///
    /// For as long as the area or a copy of it is used, `ptr` must be valid for atomic reads and writes of
    /// every word that the holder of the area touches, and aligned to 16 bytes (4 for driver and device
    /// areas of a packed ring, 2 and 4 for those of a split one).
    pub(crate) unsafe fn new(ptr: NonNull<u8>) -> Self {
        Self(ptr)
    }

    /// The part of the area from `offset` on.
    ///
    /// # Safety
    ///
    /// `offset` must be a multiple of 8 and inside the area.
    #[inline(always)]
    pub(crate) unsafe fn from(&self, offset: usize) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { self.0.add(offset) })
    }

    /// # Safety
    ///
    /// `offset` must be even and inside the area.
    #[inline(always)]
    unsafe fn u16(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2));
        // SAFETY: valid and aligned by the contracts of `new` and of this function.
        unsafe { self.0.byte_add(offset).cast().as_ref() }
    }

    /// # Safety
    ///
    /// `offset` must be a multiple of 4 and inside the area.
    #[inline(always)]
    unsafe fn u32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4));
        // SAFETY: valid and aligned by the contracts of `new` and of this function.
        unsafe { self.0.byte_add(offset).cast().as_ref() }
    }

    /// # Safety
    ///
    /// As for `u16`.
    #[inline(always)]
    pub(crate) unsafe fn load16(&self, offset: usize, order: Ordering) -> u16 {
        // SAFETY: the caller's promise.
        u16::from_le(unsafe { self.u16(offset) }.load(order))
    }

    /// # Safety
    ///
    /// As for `u16`.
    #[inline(always)]
    pub(crate) unsafe fn store16(&self, offset: usize, value: u16, order: Ordering) {
        // SAFETY: the caller's promise.
        unsafe { self.u16(offset) }.store(value.to_le(), order);
    }

    /// # Safety
    ///
    /// As for `u32`.
    #[inline(always)]
    pub(crate) unsafe fn load32(&self, offset: usize, order: Ordering) -> u32 {
        // SAFETY: the caller's promise.
        u32::from_le(unsafe { self.u32(offset) }.load(order))
    }

    /// # Safety
    ///
    /// As for `u32`.
    #[inline(always)]
    pub(crate) unsafe fn store32(&self, offset: usize, value: u32, order: Ordering) {
        // SAFETY: the caller's promise.
        unsafe { self.u32(offset) }.store(value.to_le(), order);
    }

    /// Loads 8 bytes. Where the machine has no 64-bit atomics the upper half, which holds a packed
    /// descriptor's flags, is loaded first.
    ///
    /// # Safety
    ///
    /// `offset` must be a multiple of 8 and inside the area.
    #[inline(always)]
    pub(crate) unsafe fn load64(&self, offset: usize, order: Ordering) -> u64 {
        #[cfg(target_has_atomic = "64")]
        // SAFETY: the caller's promise.
        return u64::from_le(unsafe { self.u64(offset) }.load(order));
        #[cfg(not(target_has_atomic = "64"))]
        // SAFETY: the caller's promise covers both halves.
        unsafe {
            let high = self.load32(offset + 4, order);
            u64::from(high) << 32 | u64::from(self.load32(offset, order))
        }
    }

    /// Stores 8 bytes. Where the machine has no 64-bit atomics the upper half, which holds a packed
    /// descriptor's flags, is stored last.
    ///
    /// # Safety
    ///
    /// As for [`load64`](Self::load64).
    #[inline(always)]
    pub(crate) unsafe fn store64(&self, offset: usize, value: u64, order: Ordering) {
        #[cfg(target_has_atomic = "64")]
        // SAFETY: the caller's promise.
        unsafe { self.u64(offset) }.store(value.to_le(), order);
        #[cfg(not(target_has_atomic = "64"))]
        // SAFETY: the caller's promise covers both halves.
        unsafe {
            self.store32(offset, value as u32, order);
            self.store32(offset + 4, (value >> 32) as u32, order);
        }
    }

    /// # Safety
    ///
    /// `offset` must be a multiple of 8 and inside the area.
    #[cfg(target_has_atomic = "64")]
    #[inline(always)]
    unsafe fn u64(&self, offset: usize) -> &core::sync::atomic::AtomicU64 {
        debug_assert!(offset.is_multiple_of(8));
        // SAFETY: valid and aligned by the contracts of `new` and of this function.
        unsafe { self.0.byte_add(offset).cast().as_ref() }
    }
}

/// The second word of a descriptor: length, then two 16-bit fields.
///
/// Split descriptors have (flags, next), packed ones (id, flags); both are written with one store.
#[inline(always)]
pub(crate) fn word(len: u32, low: u16, high: u16) -> u64 {
    u64::from(len) | u64::from(low) << 32 | u64::from(high) << 48
}

/// Takes [`word`] apart.
#[inline(always)]
pub(crate) fn fields(word: u64) -> (u32, u16, u16) {
    (word as u32, (word >> 32) as u16, (word >> 48) as u16)
}

/// Marks the branch that calls it as rare: going round the end of a ring, which the compiler would otherwise
/// turn into several conditional moves for each descriptor.
#[cold]
#[inline(never)]
pub(crate) fn rare() {}

/// The same pointer, of whose target the compiler no longer knows what was written there a moment ago.
#[inline(always)]
pub(crate) fn opaque<T>(pointer: NonNull<T>) -> NonNull<T> {
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
    {
        let mut same = pointer.as_ptr();
        #[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is done with it")]
        // SAFETY: no instruction, which leaves the pointer as it was: not null.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) same, options(nomem, nostack, preserves_flags));
            NonNull::new_unchecked(same)
        }
    }
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(miri))))]
    core::hint::black_box(pointer)
}
