//! Going through a chain's descriptors: every rule that they must keep, checked once, on private copies.

use super::chain::{Segment, Slot};
use super::error::BadChain;
use crate::mem::{Memory, Translation, copy_out};
use crate::words::{Area, fields};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use virtio_kit_spec::split::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc};

/// One pass over a chain in which nothing rare comes up: direct descriptors, readable before writable, all in
/// the region that was hit last. It keeps to registers; whatever it does not know how to judge is read and
/// judged anew by [`Walk`].
pub(super) struct Pass {
    recent: Translation,
    segments: NonNull<MaybeUninit<Segment>>,
    limit: u16,
    count: u16,
    readable: u16,
    read_len: u64,
    total: u64,
}

impl Pass {
    #[inline(always)]
    pub(super) fn new(recent: Translation, slot: &Slot, limit: u16) -> Self {
        Self { recent, segments: slot.segments, limit, count: 0, readable: 0, read_len: 0, total: 0 }
    }

    /// Takes one buffer into the chain, unless there is something about it.
    #[inline(always)]
    pub(super) fn buffer(&mut self, addr: u64, len: u32, flags: u16) -> bool {
        let Some(host) = self.recent.at_some(addr, len) else { return false };
        if self.count == self.limit || flags & DESC_INDIRECT != 0 {
            return false;
        }
        // SAFETY: the slot has space for `limit` segments.
        unsafe { self.segments.add(self.count.into()).as_mut() }.write(Segment { host, len });
        self.total += u64::from(len);
        if flags & DESC_WRITE == 0 {
            if self.readable != self.count {
                return false;
            }
            self.readable += 1;
            self.read_len = self.total;
        }
        self.count += 1;
        true
    }

    /// Buffers taken: direct descriptors.
    #[inline(always)]
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Settles the slot, unless the chain is too long.
    #[inline(always)]
    pub(super) fn finish(&self, slot: &mut Slot) -> bool {
        (slot.readable, slot.writable) = (self.readable, self.count - self.readable);
        (slot.read_len, slot.write_len) = (self.read_len as u32, (self.total - self.read_len) as u32);
        self.total <= u64::from(u32::MAX)
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
