//! The record of what is in flight (`INFLIGHT_SHMFD`): shared memory that outlives this process at the front-end.
//!
//! A chain is recorded before its work begins. A batch of used ones goes through three steps, and whoever is killed
//! between any two of them leaves a record from which the successor can tell what the driver has been shown: links
//! and new indices are written, the ring is published, the chains are struck off.
//!
//! A successor takes the recorded chains again, in the order in which they were taken, and goes on behind them. What
//! was taken and not recorded it finds in the ring. Nothing of the record is trusted: it may have been written by
//! anybody.

mod packed;
mod split;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use virtio_kit::device::{BadChain, Chain, Position, Queue};

use crate::mapping::{MapError, Mapping};
use crate::vhost_user::codec::Inflight;
use crate::vhost_user::codec::inflight::{Layout, region_offset};

pub(super) use packed::PackedRecord;
pub(super) use split::SplitRecord;

/// The memory of a record, as a front-end gave it.
pub(super) struct RecordMemory {
    description: Inflight,
    mapping: Mapping,
}

/// Why a record cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// It has no space for a queue of this size.
    TooSmall,
    /// It is of another version, or of a queue of another size.
    Version {
        /// Version.
        version: u16,
        /// Entries.
        entries: u16,
    },
    /// It does not belong to this ring: the ring has used more than fit since.
    OtherRing,
    /// An index, a link or a length that cannot be.
    Entry(u16),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record of what is in flight ")?;
        match self {
            Self::TooSmall => f.write_str("has no space for this queue"),
            Self::Version { version, entries } => {
                write!(f, "has version {version} and {entries} entries, which are not this queue's")
            }
            Self::OtherRing => f.write_str("is of another ring"),
            Self::Entry(index) => write!(f, "makes no sense at entry {index}"),
        }
    }
}

impl std::error::Error for BadRecord {}

/// What begins a note.
const NOTE: u64 = u64::from_le_bytes(*b"vk-note1");
/// Bytes of a note: the mark, a length, an offset, and what was written there.
const NOTE_SIZE: u64 = 64;
const NOTE_LEN: usize = 8;
const NOTE_OFFSET: usize = 10;
const NOTE_DATA: usize = 12;
const NOTE_ROOM: usize = NOTE_SIZE as usize - NOTE_DATA;

/// Makes memory for a record. Behind what the protocol knows is room for a note.
pub(super) fn make(wish: &Inflight, packed: bool) -> Result<(Inflight, OwnedFd), Errno> {
    let queues = layout(packed).buffer_size(wish.num_queues, wish.queue_size).next_multiple_of(8);
    let size = queues + NOTE_SIZE;
    let fd = memfd_create(c"vhost-user-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, size)?;
    rustix::io::pwrite(&fd, &NOTE.to_ne_bytes(), queues)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok((Inflight { mmap_size: size, mmap_offset: 0, ..*wish }, fd))
}

fn layout(packed: bool) -> Layout {
    if packed { Layout::Packed } else { Layout::Split }
}

impl RecordMemory {
    pub(super) fn new(description: Inflight, fd: OwnedFd) -> Result<Self, MapError> {
        let mapping = Mapping::new(fd, description.mmap_offset, description.mmap_size)?;
        Ok(Self { description, mapping })
    }

    pub(super) fn is_cut_short(&self) -> bool {
        self.mapping.is_cut_short()
    }

    /// Where the note is, if there is one.
    fn note(&self) -> Option<Part> {
        let start = self.description.mmap_size.checked_sub(NOTE_SIZE)?;
        let part = Part { mapping: self.mapping.clone(), start: usize::try_from(start).ok()? };
        (part.start.is_multiple_of(8) && part.load64(0) == NOTE).then_some(part)
    }

    /// Notes what the driver has written to the configuration: no front-end tells a successor of it. Only the last
    /// write is kept, and no long one.
    pub(super) fn note_config(&self, offset: usize, data: &[u8]) {
        let (Some(note), Ok(offset)) = (self.note(), u16::try_from(offset)) else { return };
        if data.len() > NOTE_ROOM {
            return;
        }
        note.store8(NOTE_LEN, 0);
        data.iter().enumerate().for_each(|(at, byte)| note.store8(NOTE_DATA + at, *byte));
        note.store16(NOTE_OFFSET, offset);
        note.store8(NOTE_LEN, data.len() as u8);
    }

    /// What was noted.
    pub(super) fn noted_config(&self) -> Option<(usize, Vec<u8>)> {
        let note = self.note()?;
        let len = usize::from(note.load8(NOTE_LEN)).min(NOTE_ROOM);
        let data = (0..len).map(|at| note.load8(NOTE_DATA + at)).collect();
        (len > 0).then_some((note.load16(NOTE_OFFSET).into(), data))
    }

    /// The part of one queue; `None` if the record is not for this queue.
    pub(super) fn queue(&self, index: u16, size: u16, packed: bool) -> Result<Option<Part>, BadRecord> {
        if index >= self.description.num_queues {
            return Ok(None);
        }
        let start = region_offset(&self.description, layout(packed), index).ok_or(BadRecord::TooSmall)?;
        if size > self.description.queue_size {
            return Err(BadRecord::TooSmall);
        }
        let start = usize::try_from(start).map_err(|_| BadRecord::TooSmall)?;
        let part = Part { mapping: self.mapping.clone(), start };
        // All words after it are inside and aligned too.
        part.mapping.load64(start).ok_or(BadRecord::TooSmall)?;
        Ok(Some(part))
    }
}

/// The part of a record that is one queue's. Accesses are inside, as was checked when it was made.
pub(super) struct Part {
    mapping: Mapping,
    start: usize,
}

impl Part {
    fn load8(&self, at: usize) -> u8 {
        self.mapping.load8(self.start + at).unwrap_or(0)
    }

    fn load16(&self, at: usize) -> u16 {
        self.mapping.load16(self.start + at).unwrap_or(0)
    }

    fn load32(&self, at: usize) -> u32 {
        self.mapping.load32(self.start + at).unwrap_or(0)
    }

    fn load64(&self, at: usize) -> u64 {
        self.mapping.load64(self.start + at).unwrap_or(0)
    }

    fn store8(&self, at: usize, value: u8) {
        #[cfg(test)]
        tests::about_to_store();
        self.mapping.store8(self.start + at, value);
    }

    fn store16(&self, at: usize, value: u16) {
        #[cfg(test)]
        tests::about_to_store();
        self.mapping.store16(self.start + at, value);
    }

    fn store32(&self, at: usize, value: u32) {
        #[cfg(test)]
        tests::about_to_store();
        self.mapping.store32(self.start + at, value);
    }

    fn store64(&self, at: usize, value: u64) {
        #[cfg(test)]
        tests::about_to_store();
        self.mapping.store64(self.start + at, value);
    }
}

/// The record of one queue, of either layout.
pub(super) enum Record {
    Split(SplitRecord),
    Packed(Box<PackedRecord>),
}

macro_rules! with_record {
    ($record:expr, $inner:ident => $body:expr) => {
        match $record {
            Record::Split($inner) => $body,
            Record::Packed($inner) => $body,
        }
    };
}

impl Record {
    pub(super) fn again(&mut self, queue: &mut Queue) -> Result<Option<Chain>, BadChain> {
        with_record!(self, record => record.again(queue))
    }

    pub(super) fn taken(&mut self, queue: &Queue, chain: &Chain, before: Position) {
        with_record!(self, record => record.taken(queue, chain, before));
    }

    pub(super) fn put_back(&mut self, queue: &Queue, chain: &Chain) {
        with_record!(self, record => record.put_back(queue, chain));
    }

    pub(super) fn completed(&mut self, queue: &Queue, chain: &Chain) {
        with_record!(self, record => record.completed(queue, chain));
    }

    pub(super) fn publishing(&mut self, position: Position) {
        with_record!(self, record => record.publishing(position));
    }

    pub(super) fn published(&mut self) {
        with_record!(self, record => record.published());
    }
}
