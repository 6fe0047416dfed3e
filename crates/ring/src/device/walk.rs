//! Going through a chain's descriptors: every rule that they must keep, checked once, on private copies.

use super::chain::{Segment, Slot};
use super::error::BadChain;
use crate::mem::{Memory, Translation, copy_out};
use crate::words::{Area, fields};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use virtio_kit_spec::split::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc};

/// One pass over a chain in which nothing rare comes up: a few direct descriptors, readable before writable, all
/// in the region that was hit last. It keeps to registers; whatever it does not know how to judge is read and
/// judged anew by [`Walk`].
///
/// `FLAGS` is where the flags are in a descriptor's last word, and `ZERO` what else must be 0 there.
pub(super) struct Pass<'q, const FLAGS: u32, const ZERO: u32> {
    recent: &'q Translation,
    segments: NonNull<MaybeUninit<Segment>>,
    total: u64,
}

/// Longest chain of a [`Pass`].
pub(super) const FEW: u16 = 4;

/// The number of a step of a pass, as a type: each step knows where it stands, and nothing counts them.
trait Step {
    const INDEX: u16;
    type Next: Step;
}

struct At<const INDEX: u16>;

macro_rules! steps {
    ($($at:literal $next:literal),*) => {
        $(impl Step for At<$at> { const INDEX: u16 = $at; type Next = At<$next>; })*
    };
}
// The last, which is never taken, is its own next.
steps!(0 1, 1 2, 2 3, 3 4, 4 4);

/// A descriptor in the ring, and its last word, read once: what flags stand in beside an id or an index.
pub(super) type Found = (Area, u32);

/// Where a descriptor has its length, and its last word, in a ring of either layout.
const LEN: usize = 8;
pub(super) const WORD: usize = 12;

/// Gives the descriptor of a chain that has a number, from the last word of the one before it, if it is in the ring.
pub(super) trait Fetch: FnMut(u16, u32) -> Option<Found> {}
impl<F: FnMut(u16, u32) -> Option<Found>> Fetch for F {}

impl<'q, const FLAGS: u32, const ZERO: u32> Pass<'q, FLAGS, ZERO> {
    /// The flags by which a pass goes on. A descriptor with others is rare.
    const KIND: u32 = (DESC_NEXT as u32 | DESC_WRITE as u32 | DESC_INDIRECT as u32) << FLAGS | ZERO;
    const READ_MORE: u32 = (DESC_NEXT as u32) << FLAGS;
    const READ_LAST: u32 = 0;
    const WRITE_MORE: u32 = Self::READ_MORE | Self::WRITE_LAST;
    const WRITE_LAST: u32 = (DESC_WRITE as u32) << FLAGS;

    /// Takes the chain that begins with `first`, whose other descriptors `fetch` gives, and the last of which has the id,
    /// into the slot, and settles that. `None` if there is something about the chain.
    ///
    /// # Safety
    ///
    /// The slot must have space for [`FEW`] segments, and what `fetch` gives be valid descriptors.
    #[inline(always)]
    pub(super) unsafe fn chain(
        recent: &'q Translation,
        slot: &mut Slot,
        first: Found,
        fetch: impl Fetch,
        id: impl Fn(u32) -> u16,
    ) -> Option<()> {
        let pass = Self { recent, segments: slot.segments, total: 0 };
        // SAFETY: the caller's promise.
        unsafe { pass.read::<At<0>>(slot, first, fetch, id) }
    }

    /// Goes on while buffers are for reading. All so far are.
    ///
    /// # Safety
    ///
    /// As for [`chain`](Self::chain), and the step must be one of a few.
    #[inline(always)]
    unsafe fn read<S: Step>(
        mut self,
        slot: &mut Slot,
        (at, word): Found,
        mut fetch: impl Fetch,
        id: impl Fn(u32) -> u16,
    ) -> Option<()> {
        // SAFETY: the caller's promise, and no step after the last of a few.
        unsafe {
            if word & Self::KIND == Self::READ_MORE && S::INDEX + 1 < FEW {
                self.buffer(S::INDEX, at)?;
                let next = fetch(S::INDEX + 1, word)?;
                return self.read::<S::Next>(slot, next, fetch, id);
            }
            let readable = (S::INDEX, self.total);
            if word & Self::WRITE_LAST != 0 {
                return self.write::<S>(slot, (at, word), fetch, id, readable);
            }
            if word & Self::KIND != Self::READ_LAST {
                return None;
            }
            slot.count(S::INDEX + 1, S::INDEX + 1);
            self.buffer(S::INDEX, at)?;
            self.finish(slot, self.total, id(word))
        }
    }

    /// Goes on where buffers are for writing, after those that were `readable`, of which there are so many with so many
    /// bytes.
    ///
    /// # Safety
    ///
    /// As for [`read`](Self::read).
    #[inline(always)]
    unsafe fn write<S: Step>(
        mut self,
        slot: &mut Slot,
        (at, word): Found,
        mut fetch: impl Fetch,
        id: impl Fn(u32) -> u16,
        (readable, read_len): (u16, u64),
    ) -> Option<()> {
        // SAFETY: the caller's promise, and no step after the last of a few.
        unsafe {
            if word & Self::KIND == Self::WRITE_MORE && S::INDEX + 1 < FEW {
                self.buffer(S::INDEX, at)?;
                let next = fetch(S::INDEX + 1, word)?;
                return self.write::<S::Next>(slot, next, fetch, id, (readable, read_len));
            }
            if word & Self::KIND != Self::WRITE_LAST {
                return None;
            }
            // First, so that what both ways have in common is not done before they part.
            slot.count(readable, S::INDEX + 1);
            self.buffer(S::INDEX, at)?;
        }
        self.finish(slot, read_len, id(word))
    }

    /// # Safety
    ///
    /// The slot must have space for a segment `index`, and the descriptor be valid.
    #[inline(always)]
    unsafe fn buffer(&mut self, index: u16, at: Area) -> Option<()> {
        // SAFETY: the caller's promise.
        let (addr, len) = unsafe { (at.load64(0, Relaxed), at.load32(LEN, Relaxed)) };
        let host = self.recent.at_some(addr, len)?;
        // SAFETY: the caller's promise.
        unsafe { self.segments.add(index.into()).as_mut() }.write(Segment { host, len });
        self.total += u64::from(len);
        Some(())
    }

    #[inline(always)]
    fn finish(&self, slot: &mut Slot, read_len: u64, id: u16) -> Option<()> {
        slot.id = id;
        (slot.read_len, slot.write_len) = (read_len as u32, (self.total - read_len) as u32);
        (self.total <= u64::from(u32::MAX)).then_some(())
    }
}

impl Slot {
    /// Notes how many descriptors there are, and how many of their buffers are readable.
    #[inline(always)]
    fn count(&mut self, readable: u16, descs: u16) {
        (self.readable, self.writable, self.descs) = (readable, descs - readable, descs);
    }
}

/// Length of a descriptor in bytes, in a table of either layout.
const DESC_LEN: u32 = size_of::<Desc>() as u32;

/// Collects the segments of one chain into a slot.
pub(super) struct Walk<'q> {
    memory: &'q Memory,
    /// The region that was hit last.
    recent: &'q mut Translation,
    /// The region in which the last indirect table was.
    tables: &'q mut Translation,
    slot: &'q mut Slot,
    /// Most segments that the slot holds.
    limit: u16,
    /// Most entries of an indirect table.
    table_limit: u32,
    count: u16,
    readable: u16,
    read_len: u64,
    total: u64,
}

impl<'q> Walk<'q> {
    #[inline(always)]
    pub(super) fn new(
        memory: &'q Memory,
        recent: &'q mut Translation,
        tables: &'q mut Translation,
        slot: &'q mut Slot,
        limit: u16,
        table_limit: u16,
    ) -> Self {
        let table_limit = table_limit.into();
        Self {
            memory,
            recent,
            tables,
            slot,
            limit,
            table_limit,
            count: 0,
            readable: 0,
            read_len: 0,
            total: 0,
        }
    }

    /// Takes one buffer into the chain.
    #[inline(always)]
    pub(super) fn buffer(&mut self, addr: u64, len: u32, flags: u16) -> Result<(), BadChain> {
        if len == 0 {
            return Err(BadChain::ZeroLength);
        }
        let host = self.recent.at(addr, len.into());
        if host.is_none() || self.count == self.limit {
            self.elsewhere(addr, len)?;
        } else if let Some(host) = host {
            self.push(Segment { host, len });
        }
        self.total += u64::from(len);
        if flags & DESC_WRITE == 0 {
            // All segments so far must be readable.
            if self.read_len + u64::from(len) != self.total {
                return Err(BadChain::ReadableAfterWritable);
            }
            (self.readable, self.read_len) = (self.count, self.total);
        }
        Ok(())
    }

    /// A buffer in another region than the last, or across several, or one too many.
    #[cold]
    fn elsewhere(&mut self, addr: u64, len: u32) -> Result<(), BadChain> {
        let outside = BadChain::OutsideMemory { addr, len };
        let (mut at, mut left) = (addr, u64::from(len));
        while left > 0 {
            let run = left.min(self.recent.move_to(self.memory, at).ok_or(outside)?);
            let host = self.recent.at(at, run).ok_or(outside)?;
            if self.count == self.limit {
                return Err(BadChain::TooLong);
            }
            self.push(Segment { host, len: run as u32 });
            left -= run;
            if left > 0 {
                at = at.checked_add(run).ok_or(outside)?;
            }
        }
        Ok(())
    }

    /// There must be space.
    #[inline(always)]
    fn push(&mut self, segment: Segment) {
        debug_assert!(self.count < self.limit);
        // SAFETY: the slot has space for `limit` segments.
        unsafe { self.slot.segments.add(self.count.into()).as_mut() }.write(segment);
        self.count += 1;
    }

    /// Goes through an indirect table (2.7.5.3, 2.8.7), whose entries follow each other by position in a
    /// packed ring and by link in a split one.
    pub(super) fn table(&mut self, addr: u64, len: u32, positional: bool) -> Result<(), BadChain> {
        let entries = len / DESC_LEN;
        if len == 0 || !len.is_multiple_of(DESC_LEN) || entries > self.table_limit {
            return Err(BadChain::BadTableLength { len });
        }
        let mut index = 0;
        for _ in 0..entries {
            let (addr, second) = self.entry(addr, index)?;
            let (len, low, high) = fields(second);
            let flags = if positional { high } else { low };
            if flags & DESC_INDIRECT != 0 {
                return Err(BadChain::BadIndirect);
            }
            self.buffer(addr, len, flags)?;
            if positional {
                index += 1;
                continue;
            }
            if flags & DESC_NEXT == 0 {
                return Ok(());
            }
            if u32::from(high) >= entries {
                return Err(BadChain::BadIndex { index: high });
            }
            index = high.into();
        }
        if positional { Ok(()) } else { Err(BadChain::Loop) }
    }

    /// Entry `index` of the table at `table`, read once.
    #[inline(always)]
    fn entry(&mut self, table: u64, index: u32) -> Result<(u64, u64), BadChain> {
        let outside = BadChain::OutsideMemory { addr: table, len: DESC_LEN };
        let addr = table.checked_add(u64::from(index * DESC_LEN)).ok_or(outside)?;
        let host = match self.tables.at(addr, DESC_LEN.into()) {
            Some(host) => host,
            None => {
                self.tables.move_to(self.memory, addr).ok_or(outside)?;
                self.tables.at(addr, DESC_LEN.into()).ok_or(outside)?
            }
        };
        if (host.as_ptr() as usize).is_multiple_of(8) {
            // SAFETY: 16 mapped bytes, aligned.
            return Ok(unsafe {
                let area = Area::new(host);
                (area.load64(0, Relaxed), area.load64(8, Relaxed))
            });
        }
        let mut bytes = [0u8; DESC_LEN as usize];
        // SAFETY: 16 mapped bytes.
        unsafe { copy_out(host, &mut bytes) };
        let all = u128::from_le_bytes(bytes);
        Ok((all as u64, (all >> 64) as u64))
    }

    /// Settles the slot once all buffers are in it.
    #[inline(always)]
    pub(super) fn finish(self) -> Result<(), BadChain> {
        if self.total > u64::from(u32::MAX) {
            return Err(BadChain::TooLong);
        }
        let slot = self.slot;
        (slot.readable, slot.writable) = (self.readable, self.count - self.readable);
        (slot.read_len, slot.write_len) = (self.read_len as u32, (self.total - self.read_len) as u32);
        Ok(())
    }
}
