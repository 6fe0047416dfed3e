//! Owned pieces of an arena.

use super::arena::{GRANULE, Inner};
use super::{DeviceAddr, Domain, copy_in, copy_out};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An owned buffer in memory that a device can reach.
///
/// A buffer has a *capacity*, fixed when it is allocated, and a *window* into it, which is what a chain shows
/// to the device: `len` bytes from where it begins, at least one. Reading and writing are relative to the window and copy;
/// what is read may be anything, since the device may write at any time.
///
/// Two words long, so that moving one into a queue and out again costs next to nothing.
pub struct DmaBuf {
    /// The arena, with log2(capacity / 64) in the low bits.
    arena: NonNull<Inner>,
    start: u32,
    len: u32,
}

// SAFETY: a buffer is an owned piece of its arena, whose bookkeeping is atomic.
unsafe impl Send for DmaBuf {}
// SAFETY: shared access only reads, by copying.
unsafe impl Sync for DmaBuf {}

const TAG: usize = align_of::<Inner>() - 1;
// 2^26 granules fill the largest arena.
const _: () = assert!(TAG >= 26);

impl DmaBuf {
    /// The bits of `raw`'s arena that differ between buffers of one arena.
    pub(crate) const TAG: usize = TAG;

    /// The arena as a number, with the size class in its low bits; where the window begins; its length.
    #[inline(always)]
    pub(crate) fn raw(&self) -> (usize, u32, u32) {
        (self.arena.addr().get(), self.start, self.len)
    }

    /// `start` must be aligned to the capacity of `GRANULE << order`, and the reference counted.
    pub(super) fn new(arena: NonNull<Inner>, start: u32, order: u32, len: u32) -> Self {
        debug_assert!(arena.addr().get() & TAG == 0 && order as usize <= TAG);
        Self { arena: arena.map_addr(|a| a | order as usize), start, len }
    }

    #[inline(always)]
    fn arena_ptr(&self) -> NonNull<Inner> {
        // SAFETY: an address of a live `Inner` is not among the first 64 bytes.
        self.arena.map_addr(|a| unsafe { core::num::NonZero::new_unchecked(a.get() & !TAG) })
    }

    #[inline(always)]
    fn inner(&self) -> &Inner {
        // SAFETY: a buffer counts as a reference, so the arena is live.
        unsafe { self.arena_ptr().as_ref() }
    }

    /// The largest buffer, in bytes: 1 GiB.
    pub const MAX_LEN: usize = 1 << 30;

    /// Length of the window in bytes; never 0.
    #[inline(always)]
    #[allow(clippy::len_without_is_empty, reason = "a window is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes that the buffer can hold: a power of two, at least 64.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        GRANULE << (self.arena.addr().get() & TAG)
    }

    fn block(&self) -> u32 {
        self.start & !(self.capacity() as u64 - 1) as u32
    }

    /// Makes the window the given range of the capacity, which may not be empty.
    pub fn set_window(&mut self, range: Range<usize>) -> Result<(), OutOfBounds> {
        if range.start >= range.end || range.end > self.capacity() {
            return Err(OutOfBounds);
        }
        self.start = self.block() + range.start as u32;
        self.len = (range.end - range.start) as u32;
        Ok(())
    }

    /// Makes the window the first `len` bytes of the capacity.
    pub fn set_len(&mut self, len: usize) -> Result<(), OutOfBounds> {
        self.set_window(0..len)
    }

    /// Copies from the window, `at` bytes into it, filling `to`.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.checked(at, to.len())?;
        // SAFETY: inside this buffer, which is inside a live arena.
        unsafe { copy_out(from, to) };
        Ok(())
    }

    /// Copies `from` into the window, `at` bytes into it.
    #[inline]
    pub fn write(&mut self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.checked(at, from.len())?;
        // SAFETY: as in `read`.
        unsafe { copy_in(from, to) };
        Ok(())
    }

    /// Copies a value out of the window.
    #[inline]
    pub fn read_value<T: FromBytes + IntoBytes>(&self, at: usize) -> Result<T, OutOfBounds> {
        let mut value = T::new_zeroed();
        self.read(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a value into the window.
    #[inline]
    pub fn write_value<T: IntoBytes + Immutable>(&mut self, at: usize, value: &T) -> Result<(), OutOfBounds> {
        self.write(at, value.as_bytes())
    }

    /// Sets every byte of the window.
    pub fn fill(&mut self, value: u8) {
        self.inner().fill(self.start, self.len, value);
    }

    /// Where a device finds the window.
    #[inline(always)]
    pub fn device_addr(&self) -> DeviceAddr {
        DeviceAddr(self.inner().device_base + u64::from(self.start))
    }

    /// The domain of the buffer's arena.
    #[inline(always)]
    pub fn domain(&self) -> Domain {
        self.inner().domain
    }

    /// The window as a slice of bytes.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives, nobody else may write to the window: no device whose answer is still
    /// to come, and no device at all that is not trusted to leave buffers alone that it has returned.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: valid memory; not written by others, by this function's contract.
        unsafe { NonNull::slice_from_raw_parts(self.as_ptr(), self.len()).as_ref() }
    }

    /// First byte of the window. Dereferencing it is for code that can vouch for what the device does.
    pub fn as_ptr(&self) -> NonNull<u8> {
        // SAFETY: the window begins inside the arena.
        unsafe { self.inner().base.add(self.start as usize) }
    }

    #[inline]
    fn checked(&self, at: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if at > self.len() || len > self.len() - at {
            return Err(OutOfBounds);
        }
        // SAFETY: at most the window's end, which is inside the arena.
        Ok(unsafe { self.as_ptr().add(at) })
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        let granules = self.capacity() / GRANULE;
        self.inner().unclaim(self.block() as usize / GRANULE, granules);
        // SAFETY: this buffer's own reference, not used after this.
        unsafe { Inner::let_go(self.arena_ptr()) }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({:#x}, {} of {} bytes)", self.device_addr().get(), self.len, self.capacity())
    }
}

/// A range that is not inside a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the range is not inside the buffer")
    }
}

impl core::error::Error for OutOfBounds {}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::super::{Arena, HeapMemory};
    use super::*;

    #[test]
    fn a_window_stays_inside_its_block_wherever_it_is_moved() {
        let arena = Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap();
        let _first = arena.alloc(64).unwrap();
        let mut buffer = arena.alloc(1000).unwrap();
        assert_eq!((buffer.len(), buffer.capacity()), (1000, 1024));
        let base = buffer.device_addr().get();
        for (start, end) in [(0, 1024), (1023, 1024), (10, 11), (1000, 1001)] {
            buffer.set_window(start..end).unwrap();
            assert_eq!(buffer.device_addr().get(), base + start as u64);
            assert_eq!(buffer.len(), end - start);
        }
        assert_eq!(buffer.set_window(0..1025), Err(OutOfBounds));
        assert_eq!(buffer.set_window(1024..1024), Err(OutOfBounds));
        assert_eq!(buffer.set_window(5..5), Err(OutOfBounds));
        #[allow(clippy::reversed_empty_ranges, reason = "the point of the test")]
        let reversed = buffer.set_window(5..4);
        assert_eq!(reversed, Err(OutOfBounds));
        buffer.set_len(16).unwrap();
        assert_eq!(buffer.device_addr().get(), base);
    }

    #[test]
    fn reads_and_writes_are_bounded_by_the_window() {
        let arena = Arena::new(HeapMemory::new(4096).unwrap()).unwrap();
        let mut buffer = arena.alloc_zeroed(100).unwrap();
        buffer.write(98, &[1, 2]).unwrap();
        assert_eq!(buffer.write(99, &[1, 2]), Err(OutOfBounds));
        assert_eq!(buffer.read(usize::MAX, &mut [0]), Err(OutOfBounds));
        assert_eq!(buffer.read_value::<[u8; 2]>(98), Ok([1, 2]));
        assert_eq!(buffer.read_value::<u32>(97), Err(OutOfBounds));
    }
}
