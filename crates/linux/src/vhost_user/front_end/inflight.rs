//! Where queues go on with a back-end that was started again.
//!
//! The record of what is in flight (`INFLIGHT_SHMFD`) is shared memory that the back-end made and writes, and
//! that outlives it here. It is read with pread(2), so that a back-end that cuts its file short cannot hurt.

use std::os::fd::OwnedFd;

use rustix::io::{pread, pwrite};
use virtio_kit_spec::split;
use zerocopy::{FromZeros, IntoBytes};

use crate::vhost_user::codec::inflight::{Layout, PackedHeader, VERSION, region_offset};
use crate::vhost_user::codec::{Inflight, PackedBase};

/// What a new ring's base is: index 0, and with a packed ring both wrap counters 1.
pub(super) fn fresh_base(packed: bool) -> u32 {
    let packed_base = PackedBase { avail: 0, avail_wrap: true, used: 0, used_wrap: true };
    if packed { packed_base.to_num() } else { 0 }
}

/// The base of a split ring that another back-end has worked on: the used index, since what lies between it
/// and the available index is either in the record or was never taken. `used` is where the device area is in
/// the memory file.
pub(super) fn split_base(memory: &OwnedFd, used: u64) -> Option<u32> {
    let mut index = [0; 2];
    let read = pread(memory, &mut index, used + split::USED_IDX as u64).ok()?;
    (read == index.len()).then(|| u16::from_le_bytes(index).into())
}

/// The back-end's record, held while it may be needed by the next.
pub(super) struct Record {
    pub(super) description: Inflight,
    pub(super) fd: OwnedFd,
}

impl Record {
    fn region(&self, packed: bool, queue: u16) -> Option<u64> {
        let layout = if packed { Layout::Packed } else { Layout::Split };
        self.description.mmap_offset.checked_add(region_offset(&self.description, layout, queue)?)
    }

    /// The base of a packed ring that another back-end has worked on: both halves are the position up to which
    /// the record says that everything is used. Nothing in the ring tells where the device stands, so the
    /// back-end goes on from its record anyway; what lies beyond it finds there as well.
    pub(super) fn packed_base(&self, queue: u16, size: u16) -> Option<u32> {
        let mut header = PackedHeader::new_zeroed();
        let read = pread(&self.fd, header.as_mut_bytes(), self.region(true, queue)?).ok()?;
        if read != size_of_val(&header) {
            return None;
        }
        if header.version == 0 {
            // The old back-end never came to this queue.
            return Some(fresh_base(true));
        }
        if header.version != VERSION || header.old_used_idx >= size || header.old_used_wrap_counter > 1 {
            return None;
        }
        let (at, wrap) = (header.old_used_idx, header.old_used_wrap_counter == 1);
        Some(PackedBase { avail: at, avail_wrap: wrap, used: at, used_wrap: wrap }.to_num())
    }

    /// Forgets a queue that the back-end has let go of: its next life begins at 0.
    pub(super) fn forget(&self, packed: bool, queue: u16) -> Option<()> {
        let layout = if packed { Layout::Packed } else { Layout::Split };
        let start = self.region(packed, queue)?;
        let length = layout.region_size(self.description.queue_size);
        // Features and version; the number of entries after them stays.
        let kept = 12;
        let mut zeros = vec![0; usize::try_from(length).ok()?];
        pwrite(&self.fd, &zeros[..10], start).ok()?;
        zeros.truncate(zeros.len() - kept);
        pwrite(&self.fd, &zeros, start + kept as u64).ok().map(|_| ())
    }
}
