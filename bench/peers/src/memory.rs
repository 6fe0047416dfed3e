//! Memory whose addresses are, for a device too, those of this process: what the peers have.

use std::alloc::Layout;
use std::ptr::NonNull;
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::{DmaMemory, RegionMemory};

/// Zeroed pages, never given back.
#[derive(Clone, Copy)]
pub struct Flat {
    base: NonNull<u8>,
    len: usize,
    domain: Domain,
}

// SAFETY: the memory belongs to whoever the value was given to, and lives for ever.
unsafe impl Send for Flat {}
// SAFETY: as above.
unsafe impl Sync for Flat {}

impl Flat {
    /// Allocates `len` bytes, rounded up to pages, which are present from the start.
    pub fn new(len: usize) -> Self {
        let len = len.next_multiple_of(4096);
        let layout = Layout::from_size_align(len, 4096).expect("a size that fits");
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        for at in (0..len).step_by(4096) {
            // SAFETY: inside the allocation, which nobody else has yet.
            unsafe { base.add(at).write_volatile(0) };
        }
        Self { base, len, domain: Domain::new() }
    }

    /// Its first address.
    pub fn start(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// A part of it.
    pub fn part(&self, at: usize, len: usize) -> Self {
        assert!(at + len <= self.len);
        // SAFETY: inside by the line above.
        Self { base: unsafe { self.base.add(at) }, len, domain: self.domain }
    }
}

// SAFETY: an allocation of its own that is never given back, in a domain of its own; given to one arena only.
unsafe impl DmaMemory for Flat {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
    fn device_base(&self) -> u64 {
        self.start()
    }
    fn domain(&self) -> Domain {
        self.domain
    }
}

// SAFETY: as above; nobody makes references into it.
unsafe impl RegionMemory for Flat {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
}
