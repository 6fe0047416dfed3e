//! Memory that both ends can reach.
//!
//! On the driver's side memory is an [`Arena`], donated once, out of which [`DmaBuf`]s are handed; on the
//! device's side it is [`Memory`], the regions that the driver's addresses fall into. Both are looked into
//! only by copying: the other end may write at any time, so no reference to such memory is ever made.

mod arena;
mod buf;
mod copy;
mod region;

#[cfg(feature = "alloc")]
pub use arena::HeapMemory;
pub use arena::{AllocError, Arena, ArenaStorage, DmaMemory, RawMemory};
pub use buf::{DmaBuf, OutOfBounds};
pub(crate) use copy::{copy_in, copy_out, fill};
pub(crate) use region::Translation;
pub use region::{Memory, MemoryError, Region, RegionMemory};

use core::sync::atomic::{AtomicU32, Ordering};

/// An address as a device sees it: physical, an IOMMU's, or an offset into shared memory.
///
/// Only a domain's mapping makes one (through [`DmaMemory`]); safe code can read the number, to write it
/// into a register, but cannot invent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceAddr(pub(crate) u64);

impl DeviceAddr {
    /// The number to put into a descriptor or a register.
    #[inline(always)]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Which device addresses mean the same memory: an IOMMU domain, a shared file, the physical address space.
///
/// Several devices may share a domain. A queue accepts only buffers of its own, since another domain's
/// address would point the device somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain(u32);

impl Domain {
    /// A domain that no other value names.
    ///
    /// # Panics
    ///
    /// After 2^32 - 1 domains.
    #[allow(clippy::new_without_default, reason = "each call makes another domain")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(id != 0, "out of domains");
        Self(id)
    }
}
