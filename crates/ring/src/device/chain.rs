//! A chain that a device has taken.

use crate::mem::{OutOfBounds, copy_in, copy_out, fill};
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use zerocopy::{FromBytes, IntoBytes};

/// A run of the driver's memory, mapped here.
#[derive(Clone, Copy)]
pub struct Segment {
    pub(super) host: NonNull<u8>,
    pub(super) len: u32,
}

impl Segment {
    /// First byte. Valid until the chain is completed; the driver may read and write it meanwhile.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.host
    }

    /// Length in bytes, not 0.
    #[allow(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.len)
    }
}

/// What is known of a chain in flight: private to the device.
pub(super) struct Slot {
    pub(super) segments: NonNull<MaybeUninit<Segment>>,
    pub(super) read_len: u32,
    pub(super) write_len: u32,
    /// Split: head index. Packed: buffer id.
    pub(super) id: u16,
    /// Ring descriptors taken.
    pub(super) descs: u16,
    pub(super) readable: u16,
    pub(super) writable: u16,
    progress: Progress,
    /// Of which queue the slot is, and in which of its memories the chain. A free slot has the queue's present stamp.
    pub(super) stamp: usize,
    /// Free: the free slot after this one.
    pub(super) next_free: Option<NonNull<Self>>,
}

/// How far a chain's reader and writer have come. Begins at nothing with every chain.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct Progress {
    /// Bytes read.
    read: u32,
    /// Bytes of the segment that reading goes on in.
    read_within: u32,
    /// The same for writing.
    write: u32,
    write_within: u32,
    /// Bytes written without a gap from the first writable one.
    written: u32,
    read_segment: u16,
    write_segment: u16,
}

/// Where in a list of segments to go on.
#[derive(Clone, Copy)]
struct Place {
    segment: u16,
    within: u32,
}

/// A cell of the slot table: the queue touches it while the slot is free, the chain while it is in flight.
/// A cache line each, since chains may be worked on by several threads.
#[repr(align(64))]
pub(super) struct SlotCell(pub(super) UnsafeCell<Slot>);

const _: () = assert!(size_of::<SlotCell>() == 64);

// SAFETY: at any time one owner accesses the slot, the queue or the one chain that names it.
unsafe impl Sync for SlotCell {}
// SAFETY: segments point to mapped memory, wherever they are looked at from.
unsafe impl Send for SlotCell {}

impl SlotCell {
    /// The slot.
    #[inline(always)]
    pub(super) fn get(&self) -> NonNull<Slot> {
        // SAFETY: the content of a cell is not null.
        unsafe { NonNull::new_unchecked(self.0.get()) }
    }

    pub(super) fn new(segments: NonNull<MaybeUninit<Segment>>) -> Self {
        Self(UnsafeCell::new(Slot {
            segments,
            read_len: 0,
            write_len: 0,
            id: 0,
            descs: 0,
            readable: 0,
            writable: 0,
            progress: Progress::default(),
            stamp: 0,
            next_free: None,
        }))
    }
}

impl Slot {
    /// Begins a new chain in this slot.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        self.progress = Progress::default();
    }

    /// Bytes written without a gap from the first writable one.
    #[inline(always)]
    pub(super) fn written(&self) -> u32 {
        self.progress.written
    }
}

/// A chain taken from a queue, to be completed there.
///
/// Reading and writing copy, since the driver may change its memory at any time. The used length is what was
/// written without a gap from the first writable byte. A chain that is dropped is never completed: its slot
/// and its memory stay taken.
#[must_use = "a chain that is not completed is lost to its driver"]
pub struct Chain(pub(super) NonNull<Slot>);

// SAFETY: a chain is the sole owner of its slot.
unsafe impl Send for Chain {}
// SAFETY: shared access only reads the slot, and the driver's memory by copying.
unsafe impl Sync for Chain {}

impl Chain {
    #[inline(always)]
    pub(super) fn slot(&self) -> &Slot {
        // SAFETY: the slot is this chain's alone until it is completed, and its table lives at least until
        // then: a queue dropped before leaks it.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    pub(super) fn slot_mut(&mut self) -> &mut Slot {
        // SAFETY: as for `slot`.
        unsafe { self.0.as_mut() }
    }

    /// Bytes for the device to read.
    #[inline(always)]
    pub fn readable_len(&self) -> usize {
        self.slot().read_len as usize
    }

    /// Bytes for the device to write.
    #[inline(always)]
    pub fn writable_len(&self) -> usize {
        self.slot().write_len as usize
    }

    /// Bytes written so far without a gap from the first writable one: the used length.
    #[inline(always)]
    pub fn written(&self) -> usize {
        self.slot().written() as usize
    }

    /// The id that the driver knows the chain by.
    #[inline(always)]
    pub fn id(&self) -> u16 {
        self.slot().id
    }

    /// All readable segments.
    #[inline(always)]
    pub fn readable(&self) -> &[Segment] {
        let slot = self.slot();
        // SAFETY: the first `readable + writable` segments are initialised.
        unsafe { NonNull::slice_from_raw_parts(slot.segments.cast(), slot.readable.into()).as_ref() }
    }

    /// All writable segments.
    #[inline(always)]
    pub fn writable(&self) -> &[Segment] {
        let slot = self.slot();
        // SAFETY: the first `readable + writable` segments are initialised.
        unsafe {
            let first = slot.segments.cast().add(slot.readable.into());
            NonNull::slice_from_raw_parts(first, slot.writable.into()).as_ref()
        }
    }

    /// The segments of `len` readable bytes from `offset` on.
    pub fn readable_range(&self, offset: usize, len: usize) -> Result<Segments<'_>, OutOfBounds> {
        Segments::new(self.readable(), self.readable_len(), offset, len)
    }

    /// The segments of `len` writable bytes from `offset` on.
    pub fn writable_range(&self, offset: usize, len: usize) -> Result<Segments<'_>, OutOfBounds> {
        Segments::new(self.writable(), self.writable_len(), offset, len)
    }

    /// Reads on, filling `to`.
    #[inline]
    pub fn read(&mut self, to: &mut [u8]) -> Result<(), OutOfBounds> {
        if to.len() > self.readable_left() {
            return Err(OutOfBounds);
        }
        let Progress { read_segment: segment, read_within: within, .. } = self.slot().progress;
        let mut place = Place { segment, within };
        let mut done = 0;
        place.advance(self.readable(), to.len(), |host, len| {
            // SAFETY: `advance` gives runs inside segments, which are mapped; together they fill `to`.
            unsafe { copy_out(host, to.get_unchecked_mut(done..done + len)) };
            done += len;
        });
        let progress = &mut self.slot_mut().progress;
        (progress.read_segment, progress.read_within) = (place.segment, place.within);
        progress.read += to.len() as u32;
        Ok(())
    }

    /// Reads a value on from where the last read ended.
    #[inline]
    pub fn read_value<V: FromBytes + IntoBytes>(&mut self) -> Result<V, OutOfBounds> {
        let mut value = V::new_zeroed();
        self.read(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Readable bytes that have not been read yet.
    #[inline]
    pub fn readable_left(&self) -> usize {
        self.readable_len() - self.slot().progress.read as usize
    }

    /// Writes on, all of `from`.
    #[inline]
    pub fn write(&mut self, from: &[u8]) -> Result<(), OutOfBounds> {
        let mut done = 0;
        self.write_runs(from.len(), |host, len| {
            // SAFETY: a run inside a segment, as in `read`; together they are as long as `from`.
            unsafe { copy_in(from.get_unchecked(done..done + len), host) };
            done += len;
        })
    }

    /// Writes on, `len` bytes of the same value.
    #[inline]
    pub fn write_fill(&mut self, len: usize, value: u8) -> Result<(), OutOfBounds> {
        // SAFETY: a run inside a segment, as in `read`.
        self.write_runs(len, |host, len| unsafe { fill(host, len, value) })
    }

    /// Shows the runs that writing on goes to, and moves on behind them.
    #[inline(always)]
    fn write_runs(&mut self, len: usize, each: impl FnMut(NonNull<u8>, usize)) -> Result<(), OutOfBounds> {
        if len > self.writable_left() {
            return Err(OutOfBounds);
        }
        let Progress { write_segment: segment, write_within: within, write: start, .. } =
            self.slot().progress;
        let mut place = Place { segment, within };
        place.advance(self.writable(), len, each);
        let slot = self.slot_mut();
        let progress = &mut slot.progress;
        (progress.write_segment, progress.write_within) = (place.segment, place.within);
        progress.write += len as u32;
        slot.wrote(start, start + len as u32);
        Ok(())
    }

    /// Writable bytes after where the last write ended.
    #[inline]
    pub fn writable_left(&self) -> usize {
        self.writable_len() - self.slot().progress.write as usize
    }

    /// Copies readable bytes from `offset` on, filling `to`, wherever `read` stands.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let mut done = 0;
        for segment in self.readable_range(offset, to.len())? {
            // SAFETY: a run inside a segment; the range has exactly as many bytes as `to`.
            unsafe { copy_out(segment.host, &mut to[done..done + segment.len()]) };
            done += segment.len();
        }
        Ok(())
    }

    /// Copies all of `from` to the writable bytes from `offset` on, wherever `write` stands.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let mut done = 0;
        for segment in self.writable_range(offset, from.len())? {
            // SAFETY: as in `read_at`.
            unsafe { copy_in(&from[done..done + segment.len()], segment.host) };
            done += segment.len();
        }
        self.slot_mut().wrote(offset as u32, (offset + from.len()) as u32);
        Ok(())
    }

    /// Writes the very last writable byte, where many device types have their status.
    #[inline]
    pub fn write_last(&mut self, value: u8) -> Result<(), OutOfBounds> {
        let last = *self.writable().last().ok_or(OutOfBounds)?;
        // SAFETY: the last byte of a segment, which is not empty.
        unsafe { copy_in(&[value], last.host.add(last.len() - 1)) };
        let end = self.slot().write_len;
        self.slot_mut().wrote(end - 1, end);
        Ok(())
    }

    /// Counts `len` writable bytes from `offset` on as written, by somebody who was given their segments: a
    /// kernel that read a file into them.
    pub fn mark_written(&mut self, offset: usize, len: usize) -> Result<(), OutOfBounds> {
        if offset > self.writable_len() || len > self.writable_len() - offset {
            return Err(OutOfBounds);
        }
        self.slot_mut().wrote(offset as u32, (offset + len) as u32);
        Ok(())
    }
}

impl Slot {
    #[inline(always)]
    fn wrote(&mut self, start: u32, end: u32) {
        let written = &mut self.progress.written;
        if start <= *written && end > *written {
            *written = end;
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("id", &self.id())
            .field("readable", &self.readable_len())
            .field("writable", &self.writable_len())
            .field("written", &self.written())
            .finish()
    }
}

impl Place {
    /// Moves `len` bytes on, which must be there, and shows the runs passed.
    #[inline(always)]
    fn advance(&mut self, segments: &[Segment], len: usize, mut each: impl FnMut(NonNull<u8>, usize)) {
        let mut left = len;
        while left > 0 {
            let Some(segment) = segments.get(usize::from(self.segment)) else { return };
            let run = left.min((segment.len - self.within) as usize);
            // SAFETY: `within` is inside the segment.
            each(unsafe { segment.host.add(self.within as usize) }, run);
            left -= run;
            self.within += run as u32;
            if self.within == segment.len {
                (self.segment, self.within) = (self.segment + 1, 0);
            }
        }
    }
}

/// Part of a chain, as an iterator over segments.
#[derive(Clone, Debug)]
pub struct Segments<'c> {
    rest: &'c [Segment],
    skip: usize,
    left: usize,
}

impl<'c> Segments<'c> {
    fn new(all: &'c [Segment], total: usize, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
        if offset > total || len > total - offset {
            return Err(OutOfBounds);
        }
        Ok(Self { rest: all, skip: offset, left: len })
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        while self.left > 0 {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            if self.skip >= first.len() {
                self.skip -= first.len();
                continue;
            }
            let len = (first.len() - self.skip).min(self.left);
            // SAFETY: inside the segment.
            let host = unsafe { first.host.add(core::mem::take(&mut self.skip)) };
            self.left -= len;
            return Some(Segment { host, len: len as u32 });
        }
        None
    }
}
