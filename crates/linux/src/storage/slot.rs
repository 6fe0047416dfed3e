//! The memory that operations need besides the driver's: one slot for each, made with the queue.

use super::job::Job;
use core::ptr::NonNull;

/// Most segments that one operation names. A longer chain takes several operations, one after the other.
pub(super) const SEGMENTS: usize = 128;

/// Bytes of a bounce buffer. A longer transfer takes several operations.
pub(super) const BOUNCE: usize = 64 << 10;

/// A request in progress, with what the kernel is shown of it.
pub(super) struct Slot {
    pub(super) job: Option<Job>,
    /// Read by the kernel when the operation is handed over. Boxed, so that nothing but the slot's own job
    /// touches it.
    pub(super) iovecs: Box<[Iovec; SEGMENTS]>,
    /// Made when a job first needs it, and kept.
    pub(super) bounce: Option<Bounce>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { job: None, iovecs: Box::new([Iovec::EMPTY; SEGMENTS]), bounce: None }
    }
}

/// `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Iovec {
    pub(super) base: *mut u8,
    pub(super) len: usize,
}

// SAFETY: only a number here; whoever makes one says why the kernel may use it.
unsafe impl Send for Iovec {}

impl Iovec {
    pub(super) const EMPTY: Self = Self { base: core::ptr::null_mut(), len: 0 };
}

/// Memory aligned for direct I/O, where the kernel may write while it is owned.
pub(super) struct Bounce(NonNull<Block>);

#[repr(C, align(4096))]
struct Block([u8; BOUNCE]);

// SAFETY: the sole owner of its memory.
unsafe impl Send for Bounce {}

impl Bounce {
    pub(super) fn new() -> Self {
        // SAFETY: bytes may be 0.
        let block = unsafe { Box::<Block>::new_zeroed().assume_init() };
        Self(NonNull::from(Box::leak(block)))
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr().cast()
    }

    /// The bytes.
    ///
    /// # Safety
    ///
    /// While the slice lives, no operation may be in progress on them.
    pub(super) unsafe fn bytes(&mut self) -> &mut [u8; BOUNCE] {
        // SAFETY: owned here, initialised, and not written by the kernel, as the caller vouches.
        unsafe { &mut self.0.as_mut().0 }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: from a box, and owned. A storage leaks its slots if the kernel still uses them.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Zeros to write where the file system cannot make a range read as zeros by itself.
#[repr(C, align(4096))]
pub(super) struct Zeros(pub(super) [u8; 16 << 10]);

pub(super) static ZEROS: Zeros = Zeros([0; 16 << 10]);
