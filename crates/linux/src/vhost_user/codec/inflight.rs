//! The layout of the in-flight buffer (protocol section "Inflight I/O tracking").
//!
//! The buffer holds one region per queue: a header and as many entries as the queue has. It outlives
//! the back-end, so its contents are as untrusted as a peer's.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Inflight;

/// The version of a region that was set up; zero means that it was not.
pub const VERSION: u16 = 1;

/// What the regions are aligned to. The protocol leaves it open; this is what back-ends do.
pub const ALIGNMENT: u64 = 64;

/// Start of a split queue's region (`QueueRegionSplit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SplitHeader {
    /// No feature is defined: zero.
    pub features: u64,
    /// [`VERSION`].
    pub version: u16,
    /// Number of entries: the queue's size.
    pub desc_num: u16,
    /// Head of the list of the last batch of used descriptors.
    pub last_batch_head: u16,
    /// The used ring's index when the last batch was done.
    pub used_idx: u16,
}

/// A split queue's entry (`DescStateSplit`), by descriptor index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SplitEntry {
    /// 1 while the chain with this head is in flight.
    pub inflight: u8,
    /// Not used.
    pub padding: [u8; 5],
    /// Next of the last batch.
    pub next: u16,
    /// Order in which heads were taken.
    pub counter: u64,
}

/// Start of a packed queue's region (`QueueRegionPacked`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PackedHeader {
    /// No feature is defined: zero.
    pub features: u64,
    /// [`VERSION`].
    pub version: u16,
    /// Number of entries: the queue's size.
    pub desc_num: u16,
    /// Head of the list of free entries.
    pub free_head: u16,
    /// The same before the last batch.
    pub old_free_head: u16,
    /// Where the device uses next.
    pub used_idx: u16,
    /// The same before the last batch.
    pub old_used_idx: u16,
    /// The device's wrap counter.
    pub used_wrap_counter: u8,
    /// The same before the last batch.
    pub old_used_wrap_counter: u8,
    /// Seven bytes of the protocol, and three that align the entries.
    pub padding: [u8; 10],
}

/// A packed queue's entry (`DescStatePacked`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PackedEntry {
    /// 1 while the chain with this head is in flight.
    pub inflight: u8,
    /// Not used.
    pub padding: u8,
    /// Next free entry.
    pub next: u16,
    /// Last entry of the chain.
    pub last: u16,
    /// Entries of the chain.
    pub num: u16,
    /// Order in which heads were taken.
    pub counter: u64,
    /// The descriptor's buffer id.
    pub id: u16,
    /// The descriptor's flags.
    pub flags: u16,
    /// The descriptor's length.
    pub len: u32,
    /// The descriptor's address.
    pub addr: u64,
}

const _: () = {
    assert!(size_of::<SplitHeader>() == 16 && size_of::<SplitEntry>() == 16);
    assert!(size_of::<PackedHeader>() == 32 && size_of::<PackedEntry>() == 32);
};

/// Which rings a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Split virtqueues.
    Split,
    /// Packed virtqueues.
    Packed,
}

impl Layout {
    /// Bytes before a region's first entry.
    pub const fn header_size(self) -> u64 {
        match self {
            Self::Split => size_of::<SplitHeader>() as u64,
            Self::Packed => size_of::<PackedHeader>() as u64,
        }
    }

    /// Bytes of an entry.
    pub const fn entry_size(self) -> u64 {
        match self {
            Self::Split => size_of::<SplitEntry>() as u64,
            Self::Packed => size_of::<PackedEntry>() as u64,
        }
    }

    /// Bytes of a queue's region.
    pub const fn region_size(self, queue_size: u16) -> u64 {
        self.header_size() + self.entry_size() * queue_size as u64
    }

    /// Bytes from one region to the next.
    pub const fn region_stride(self, queue_size: u16) -> u64 {
        self.region_size(queue_size).next_multiple_of(ALIGNMENT)
    }

    /// Bytes of a buffer.
    pub const fn buffer_size(self, num_queues: u16, queue_size: u16) -> u64 {
        self.region_stride(queue_size) * num_queues as u64
    }

    /// Offset of an entry in its region, in bytes; none beyond the queue's size.
    pub const fn entry_offset(self, index: u16, queue_size: u16) -> Option<u64> {
        if index < queue_size { Some(self.header_size() + self.entry_size() * index as u64) } else { None }
    }
}

/// Offset of a queue's region in a described buffer, in bytes from its `mmap_offset`. None if there
/// is no such queue, or if the buffer is too small for all of its regions.
pub const fn region_offset(inflight: &Inflight, layout: Layout, queue: u16) -> Option<u64> {
    let needed = layout.buffer_size(inflight.num_queues, inflight.queue_size);
    if queue >= inflight.num_queues || needed > inflight.mmap_size {
        return None;
    }
    Some(layout.region_stride(inflight.queue_size) * queue as u64)
}
