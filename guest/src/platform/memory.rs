//! Memory that devices can reach.

use core::ops::Range;
use core::ptr::NonNull;
use virtio_kit::ring::mem::{AllocError, RawMemory};
use virtio_kit::{Arena, Domain};

/// Gives a range of physical memory away, to be reached by drivers and devices for the rest of time.
///
/// # Safety
///
/// The range must be nobody's, mapped to its own addresses, and cached as memory is.
pub unsafe fn donate(memory: Range<usize>) -> Result<Arena, AllocError> {
    let base = NonNull::new(memory.start as *mut u8).ok_or(AllocError::BadMemory)?;
    // SAFETY: nobody's, by the caller's promise. Devices see physical addresses, which are our own here; there is no
    // IOMMU, so all of them are one domain.
    let memory = unsafe { RawMemory::new(base, memory.len(), memory.start as u64, Domain::new()) };
    Arena::new(memory)
}
