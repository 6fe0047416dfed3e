//! Arenas: memory donated once, handed out as [`DmaBuf`]s, given back when the last handle is gone.

use super::{DeviceAddr, DmaBuf, Domain, copy};
use crate::store::Store;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// The unit of allocation, in bytes: a cache line, so that two buffers never share one.
pub(crate) const GRANULE: usize = 64;
const BITS: usize = usize::BITS as usize;

/// Memory that a device can reach, given to an [`Arena`] for good.
///
/// # Safety
///
/// From the moment the value is given to an arena until it is dropped:
///
/// - `len()` bytes from `base()` are valid for reads and writes, and no Rust reference or allocation of
///   anyone else lies in them. The other end may read and write them at any time.
/// - They appear to every device of `domain()` as one run of addresses from `device_base()`, and no other
///   memory has these addresses there.
/// - All four functions keep returning the same values.
///
/// Dropping the value is the moment at which the memory may become something else, so `drop` must first
/// make sure that no device can reach it any more (unmap it from the domain), or leak it.
pub unsafe trait DmaMemory: Send + Sync {
    /// First byte, aligned to 4096.
    fn base(&self) -> NonNull<u8>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Address of the first byte as the domain's devices see it, aligned to 4096.
    fn device_base(&self) -> u64;
    /// The domain in which that address holds.
    fn domain(&self) -> Domain;
    /// Whether there is no memory at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory of a kernel or firmware: a physical range that is donated for ever.
pub struct RawMemory {
    base: NonNull<u8>,
    len: usize,
    device_base: u64,
    domain: Domain,
}

// SAFETY: the memory belongs to nobody else, by the contract of `new`.
unsafe impl Send for RawMemory {}
// SAFETY: no function gives access to the memory.
unsafe impl Sync for RawMemory {}

impl RawMemory {
    /// Describes `len` bytes at `base`, which devices of `domain` see at `device_base`.
    ///
    /// # Safety
    ///
    /// The memory must be as [`DmaMemory`] demands, and stay so for the rest of the program.
    pub unsafe fn new(base: NonNull<u8>, len: usize, device_base: u64, domain: Domain) -> Self {
        Self { base, len, device_base, domain }
    }
}

// SAFETY: the contract of `new`.
unsafe impl DmaMemory for RawMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
    fn device_base(&self) -> u64 {
        self.device_base
    }
    fn domain(&self) -> Domain {
        self.domain
    }
}

/// Memory from the heap, for a device in the same process.
#[cfg(feature = "alloc")]
pub struct HeapMemory {
    base: NonNull<u8>,
    layout: core::alloc::Layout,
    domain: Domain,
}

// SAFETY: the allocation belongs to this value alone.
#[cfg(feature = "alloc")]
unsafe impl Send for HeapMemory {}
// SAFETY: no function gives access to the memory.
#[cfg(feature = "alloc")]
unsafe impl Sync for HeapMemory {}

#[cfg(feature = "alloc")]
impl HeapMemory {
    /// Where every heap arena begins in its domain. Not 0, and not the pointer: an address that a device
    /// does not translate must not work by luck.
    const DEVICE_BASE: u64 = 0x1000_0000;

    /// Allocates `len` zeroed bytes (rounded up to 4096) as the only memory of a domain of its own.
    pub fn new(len: usize) -> Result<Self, AllocError> {
        let len = len.max(1).checked_next_multiple_of(4096).ok_or(AllocError::TooLarge)?;
        let layout = core::alloc::Layout::from_size_align(len, 4096).map_err(|_| AllocError::TooLarge)?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) }).ok_or(AllocError::Full)?;
        Ok(Self { base, layout, domain: Domain::new() })
    }
}

#[cfg(feature = "alloc")]
impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Devices in this process reach it only through a
        // `Region` that holds the arena, so the arena's last handle being gone means that none can.
        unsafe { alloc::alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: an allocation of its own, in a domain of its own, valid until dropped.
#[cfg(feature = "alloc")]
unsafe impl DmaMemory for HeapMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.layout.size()
    }
    fn device_base(&self) -> u64 {
        Self::DEVICE_BASE
    }
    fn domain(&self) -> Domain {
        self.domain
    }
}

/// A handle to donated memory. Clones are handles to the same memory.
///
/// Allocation is lock-free and may be used from any thread or interrupt; it takes time proportional to the
/// arena's size at worst, and belongs at set-up or beside the data path. The memory returns to where it
/// came from when the last handle, buffer and region is dropped; a leaked one keeps it for ever.
pub struct Arena(NonNull<Inner>);

/// What handles and buffers point to. Aligned so that a pointer's low bits can carry a buffer's size class.
#[repr(align(64))]
pub(super) struct Inner {
    pub(super) base: NonNull<u8>,
    pub(super) device_base: u64,
    pub(super) domain: Domain,
    len: u64,
    used: Store<AtomicUsize>,
    /// Word at which the next search for small blocks begins.
    hint: AtomicUsize,
    /// Handles, buffers and regions.
    references: AtomicU32,
    retired: AtomicBool,
    release: unsafe fn(NonNull<Self>),
}

/// Where an arena's private part lives: made by [`Arena::new`], or donated to [`Arena::new_in`].
#[repr(C)]
pub struct ArenaStorage<M>(Inner, M);

// SAFETY: handles only share `Inner`, whose mutable parts are atomics; the memory may move to any thread.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// The largest arena, in bytes. Use several for more.
    pub const MAX_LEN: u64 = 1 << 32;

    /// Takes memory over, with its bookkeeping on the heap: 1 bit for 64 bytes.
    #[cfg(feature = "alloc")]
    pub fn new<M: DmaMemory + 'static>(memory: M) -> Result<Self, AllocError> {
        unsafe fn release<M>(inner: NonNull<Inner>) {
            // SAFETY: made from a box of this type below, and the last reference is gone.
            drop(unsafe { alloc::boxed::Box::from_raw(inner.cast::<ArenaStorage<M>>().as_ptr()) });
        }
        let words = Self::bookkeeping_words(memory.len());
        let used = Store::boxed(words, |_| AtomicUsize::new(0));
        let inner = Inner::new(&memory, used, release::<M>)?;
        let storage = alloc::boxed::Box::new(ArenaStorage(inner, memory));
        Ok(Self(NonNull::from(alloc::boxed::Box::leak(storage)).cast()))
    }

    /// Takes memory over, with its bookkeeping in donated storage: `used` must have at least
    /// [`bookkeeping_words`](Self::bookkeeping_words) elements. The storage is never given back.
    pub fn new_in<M: DmaMemory + 'static>(
        storage: &'static mut MaybeUninit<ArenaStorage<M>>,
        used: Store<AtomicUsize>,
        memory: M,
    ) -> Result<Self, AllocError> {
        unsafe fn release<M>(inner: NonNull<Inner>) {
            // SAFETY: initialised below, and the last reference is gone.
            unsafe { inner.cast::<ArenaStorage<M>>().drop_in_place() }
        }
        let inner = Inner::new(&memory, used, release::<M>)?;
        Ok(Self(NonNull::from(storage.write(ArenaStorage(inner, memory))).cast()))
    }

    /// How many words of bookkeeping an arena of `len` bytes needs.
    pub const fn bookkeeping_words(len: usize) -> usize {
        (len / GRANULE).div_ceil(BITS)
    }

    #[inline(always)]
    fn inner(&self) -> &Inner {
        // SAFETY: a handle is a reference, so the arena is live.
        unsafe { self.0.as_ref() }
    }

    /// Allocates a buffer of `len` bytes, with a capacity of the next power of two (at least 64), aligned
    /// to its capacity or to 4096, whichever is less, both here and for the device. Its contents are whatever
    /// was there before.
    pub fn alloc(&self, len: usize) -> Result<DmaBuf, AllocError> {
        let inner = self.inner();
        if len == 0 {
            return Err(AllocError::Empty);
        }
        if inner.retired.load(Ordering::Relaxed) {
            return Err(AllocError::Retired);
        }
        let granules = len.div_ceil(GRANULE).checked_next_power_of_two().ok_or(AllocError::TooLarge)?;
        if len > DmaBuf::MAX_LEN || granules as u64 > inner.len / GRANULE as u64 {
            return Err(AllocError::TooLarge);
        }
        let first = inner.claim(granules).ok_or(AllocError::Full)?;
        inner.retain();
        Ok(DmaBuf::new(self.0, (first * GRANULE) as u32, granules.trailing_zeros(), len as u32))
    }

    /// [`alloc`](Self::alloc), filled with zeros.
    pub fn alloc_zeroed(&self, len: usize) -> Result<DmaBuf, AllocError> {
        let mut buffer = self.alloc(len)?;
        buffer.fill(0);
        Ok(buffer)
    }

    /// Stops all further allocation, for good.
    ///
    /// For when a device may still write although nothing will come of its answers: what it was given must
    /// not be handed to another user.
    pub fn retire(&self) {
        self.inner().retired.store(true, Ordering::Relaxed);
        // One reference that is never dropped: the memory stays where it is.
        self.inner().retain();
    }

    /// Whether [`retire`](Self::retire) was called.
    pub fn is_retired(&self) -> bool {
        self.inner().retired.load(Ordering::Relaxed)
    }

    /// The domain whose devices can reach the arena.
    pub fn domain(&self) -> Domain {
        self.inner().domain
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> u64 {
        self.inner().len
    }

    /// Address of the first byte as the domain's devices see it.
    pub fn device_base(&self) -> DeviceAddr {
        DeviceAddr(self.inner().device_base)
    }

    /// Bytes not allocated now, in one piece or many.
    pub fn free_bytes(&self) -> u64 {
        let taken: u32 = self.inner().used.iter().map(|w| w.load(Ordering::Relaxed).count_ones()).sum();
        (self.inner().used.len() as u64 * BITS as u64 - u64::from(taken)) * GRANULE as u64
    }

    /// First byte of the memory.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.inner().base
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        self.inner().retain();
        Self(self.0)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this handle's own reference, not used after this.
        unsafe { Inner::let_go(self.0) }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("len", &self.len())
            .field("device_base", &self.device_base())
            .field("domain", &self.domain())
            .finish()
    }
}

impl Inner {
    fn new(
        memory: &impl DmaMemory,
        used: Store<AtomicUsize>,
        release: unsafe fn(NonNull<Self>),
    ) -> Result<Self, AllocError> {
        let (base, len, device_base) = (memory.base(), memory.len() as u64, memory.device_base());
        let misaligned = !(base.as_ptr() as usize).is_multiple_of(4096) || !device_base.is_multiple_of(4096);
        if misaligned || len < GRANULE as u64 {
            return Err(AllocError::BadMemory);
        }
        if len > Arena::MAX_LEN || device_base.checked_add(len).is_none() {
            return Err(AllocError::TooLarge);
        }
        let granules = memory.len() / GRANULE;
        if used.len() < Arena::bookkeeping_words(memory.len()) {
            return Err(AllocError::BadMemory);
        }
        // What lies beyond the end counts as taken, so that a search needs no other bound.
        for (i, word) in used.iter().enumerate() {
            let free = granules.saturating_sub(i * BITS).min(BITS);
            word.store(if free == BITS { 0 } else { usize::MAX << free }, Ordering::Relaxed);
        }
        let domain = memory.domain();
        Ok(Self {
            base,
            device_base,
            domain,
            len: (granules * GRANULE) as u64,
            used,
            hint: AtomicUsize::new(0),
            references: AtomicU32::new(1),
            retired: AtomicBool::new(false),
            release,
        })
    }

    /// Finds and takes an aligned run of `granules` (a power of two); the first granule's number.
    fn claim(&self, granules: usize) -> Option<usize> {
        let words = self.used.len();
        if granules < BITS {
            let start = self.hint.load(Ordering::Relaxed);
            for i in 0..words {
                let at = if start + i < words { start + i } else { start + i - words };
                if let Some(bit) = self.claim_in_word(at, granules) {
                    self.hint.store(at, Ordering::Relaxed);
                    return Some(at * BITS + bit);
                }
            }
            return None;
        }
        let span = granules / BITS;
        (0..words / span).map(|i| i * span).find(|&at| self.claim_words(at, span)).map(|at| at * BITS)
    }

    fn claim_in_word(&self, at: usize, granules: usize) -> Option<usize> {
        let word = &self.used[at];
        let run = (1usize << granules) - 1;
        let mut now = word.load(Ordering::Relaxed);
        'again: loop {
            for bit in (0..BITS).step_by(granules) {
                if now & run << bit == 0 {
                    match word.compare_exchange(now, now | run << bit, Ordering::Acquire, Ordering::Relaxed) {
                        Ok(_) => return Some(bit),
                        Err(other) => {
                            now = other;
                            continue 'again;
                        }
                    }
                }
            }
            return None;
        }
    }

    fn claim_words(&self, at: usize, span: usize) -> bool {
        for i in 0..span {
            let word = &self.used[at + i];
            if word.compare_exchange(0, usize::MAX, Ordering::Acquire, Ordering::Relaxed).is_err() {
                self.used[at..at + i].iter().for_each(|w| w.store(0, Ordering::Release));
                return false;
            }
        }
        true
    }

    /// Gives a run back that `claim` took.
    pub(super) fn unclaim(&self, first: usize, granules: usize) {
        if granules < BITS {
            let run = ((1usize << granules) - 1) << (first % BITS);
            self.used[first / BITS].fetch_and(!run, Ordering::Release);
        } else {
            let at = first / BITS;
            self.used[at..at + granules / BITS].iter().for_each(|w| w.store(0, Ordering::Release));
        }
    }

    /// One more reference. Saturates: an arena with 2^31 of them is never released.
    fn retain(&self) {
        let pinned = |n: u32| if n >= 1 << 31 { n } else { n + 1 };
        let _ = self.references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(pinned(n)));
    }

    /// Drops one reference, and the arena with the last.
    ///
    /// # Safety
    ///
    /// `inner` must be a live arena's, and the caller must own a reference and not use it again.
    pub(super) unsafe fn let_go(inner: NonNull<Self>) {
        // SAFETY: live, since the caller owns a reference.
        let this = unsafe { inner.as_ref() };
        let unpinned = |n: u32| if n >= 1 << 31 { n } else { n - 1 };
        let before =
            this.references.fetch_update(Ordering::Release, Ordering::Relaxed, |n| Some(unpinned(n)));
        if before == Ok(1) {
            // Everything that other holders did happens before the release.
            this.references.load(Ordering::Acquire);
            let release = this.release;
            // SAFETY: the last reference is gone.
            unsafe { release(inner) }
        }
    }

    pub(super) fn zero_check(&self, start: u64, len: u64) -> bool {
        start.checked_add(len).is_some_and(|end| end <= self.len)
    }

    pub(super) fn fill(&self, start: u32, len: u32, value: u8) {
        debug_assert!(self.zero_check(start.into(), len.into()));
        // SAFETY: inside the arena, whose memory is valid while it is live.
        unsafe { copy::fill(self.base.add(start as usize), len as usize, value) }
    }
}

/// Why an arena could not be made, or gave no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// A buffer of no bytes was asked for.
    Empty,
    /// More was asked for than the arena, or any arena, can hold.
    TooLarge,
    /// No free run is long enough now.
    Full,
    /// The arena was retired, because a device may still write to it.
    Retired,
    /// The memory is not aligned to 4096 bytes, too short, or its bookkeeping is.
    BadMemory,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a buffer of no bytes was asked for",
            Self::TooLarge => "larger than the arena can ever hold",
            Self::Full => "no free run in the arena is long enough",
            Self::Retired => "the arena is retired: its device may still write to it",
            Self::BadMemory => "memory is not aligned to 4096 bytes, or too short",
        })
    }
}

impl core::error::Error for AllocError {}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    extern crate std;

    fn arena(len: usize) -> Arena {
        Arena::new(HeapMemory::new(len).unwrap()).unwrap()
    }

    #[test]
    fn buffers_are_disjoint_aligned_and_all_memory_comes_back() {
        let arena = arena(1 << 20);
        let whole = arena.free_bytes();
        assert_eq!(whole, 1 << 20);
        let mut held: Vec<DmaBuf> = Vec::new();
        let mut seed = 7u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = (seed >> 33) as usize;
            if draw.is_multiple_of(3) && !held.is_empty() {
                held.swap_remove(draw % held.len());
                continue;
            }
            if let Ok(buffer) = arena.alloc(1 + draw % 20_000) {
                let capacity = buffer.capacity() as u64;
                assert_eq!(buffer.device_addr().get() % capacity, 0);
                held.push(buffer);
            } else {
                held.truncate(held.len() / 2);
            }
        }
        let mut ranges: Vec<(u64, u64)> =
            held.iter().map(|b| (b.device_addr().get(), b.capacity() as u64)).collect();
        ranges.sort();
        assert!(ranges.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
        drop(held);
        assert_eq!(arena.free_bytes(), whole);
    }

    #[test]
    fn sizes_that_cannot_be_had_are_typed_errors() {
        let arena = arena(8192);
        assert_eq!(arena.alloc(0).unwrap_err(), AllocError::Empty);
        assert_eq!(arena.alloc(8193).unwrap_err(), AllocError::TooLarge);
        assert_eq!(arena.alloc(usize::MAX).unwrap_err(), AllocError::TooLarge);
        let _all = arena.alloc(8192).unwrap();
        assert_eq!(arena.alloc(1).unwrap_err(), AllocError::Full);
    }

    #[test]
    fn memory_is_released_with_the_last_buffer_and_never_before() {
        use std::sync::atomic::AtomicBool;
        static DROPPED: AtomicBool = AtomicBool::new(false);
        struct Watched(HeapMemory);
        impl Drop for Watched {
            fn drop(&mut self) {
                DROPPED.store(true, Ordering::SeqCst);
            }
        }
        // SAFETY: forwards to a type that keeps the contract.
        unsafe impl DmaMemory for Watched {
            fn base(&self) -> NonNull<u8> {
                self.0.base()
            }
            fn len(&self) -> usize {
                self.0.len()
            }
            fn device_base(&self) -> u64 {
                self.0.device_base()
            }
            fn domain(&self) -> Domain {
                self.0.domain()
            }
        }
        let arena = Arena::new(Watched(HeapMemory::new(4096).unwrap())).unwrap();
        let buffer = arena.alloc(10).unwrap();
        drop(arena.clone());
        drop(arena);
        assert!(!DROPPED.load(Ordering::SeqCst));
        drop(buffer);
        assert!(DROPPED.load(Ordering::SeqCst));
    }

    #[test]
    fn threads_allocating_at_once_never_get_the_same_granule() {
        let arena = arena(1 << 16);
        std::thread::scope(|scope| {
            for seed in 0..2u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for turn in 0..20_000usize {
                        let len = 1 + turn * 37 % 700;
                        let Ok(mut buffer) = arena.alloc(len) else { continue };
                        let mark = seed ^ turn as u8;
                        buffer.fill(mark);
                        let mut back = std::vec![0; len];
                        buffer.read(0, &mut back).unwrap();
                        assert!(back.iter().all(|&b| b == mark));
                    }
                });
            }
        });
        assert_eq!(arena.free_bytes(), 1 << 16);
    }

    #[test]
    fn a_retired_arena_gives_nothing_more() {
        let arena = arena(4096);
        arena.retire();
        assert_eq!(arena.alloc(1).unwrap_err(), AllocError::Retired);
    }
}
