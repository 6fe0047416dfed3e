//! A packed ring's record: copies of all descriptors in flight, since others may take their place in the ring.

use std::collections::VecDeque;

use virtio_kit::device::{Again, BadChain, Chain, Position, Queue, Raw};
use virtio_kit_spec::packed::{DESC_AVAIL, DESC_USED};

use super::{BadRecord, Part};
use crate::vhost_user::codec::inflight::VERSION;

// Where fields are. The two free heads are written as one word, and so are the two positions, so that nobody ever
// finds half of a step.
const RECORD_VERSION: usize = 8;
const DESC_NUM: usize = 10;
const FREE_HEADS: usize = 12;
const POSITIONS: usize = 16;
const ENTRIES: usize = 32;
const ENTRY: usize = 32;
const INFLIGHT: usize = 0;
const NEXT: usize = 2;
const LAST: usize = 4;
const NUM: usize = 6;
const COUNTER: usize = 8;
const ID: usize = 16;
const FLAGS: usize = 18;
const LEN: usize = 20;
const ADDR: usize = 24;

fn entry(index: u16) -> usize {
    ENTRIES + ENTRY * usize::from(index)
}

/// Where a device uses next: position and wrap counter.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Used {
    at: u16,
    wrap: bool,
}

impl Used {
    fn of(position: Position) -> Self {
        Self { at: position.used, wrap: position.used_wrap }
    }
}

/// What is known of a chain in flight, by its first entry.
#[derive(Clone, Copy, Default)]
struct Held {
    last: u16,
    num: u16,
}

/// A chain that a former queue left behind.
struct Left {
    counter: u64,
    first: u16,
    list: Vec<Raw>,
}

pub(in super::super) struct PackedRecord {
    part: Part,
    size: u16,
    in_order: bool,
    counter: u64,
    /// First free entry; the size if there is none.
    free: u16,
    /// The next free entry of each.
    links: Vec<u16>,
    held: Vec<Held>,
    /// First entries of chains in flight, by slot.
    of_slot: Vec<Option<u16>>,
    /// First entries of chains that are complete. With IN_ORDER: of all in flight, in order.
    firsts: VecDeque<u16>,
    used: Used,
    used_next: Used,
    /// First entries of chains that are being published.
    batch: Vec<u16>,
    again: VecDeque<Left>,
    is_resumed: bool,
}

impl PackedRecord {
    /// Opens the record of a ring of `size`; where to go on. A new one begins at `base`. `flags` reads the flags of a
    /// descriptor of the ring.
    pub(in super::super) fn open(
        part: Part,
        size: u16,
        in_order: bool,
        base: Position,
        flags: impl Fn(u16) -> Option<u16>,
    ) -> Result<(Self, Position), BadRecord> {
        let (version, entries) = (part.load16(RECORD_VERSION), part.load16(DESC_NUM));
        let count = usize::from(size);
        let mut record = Self {
            part,
            size,
            in_order,
            counter: 0,
            free: 0,
            links: (1..=size).collect(),
            held: vec![Held::default(); count],
            of_slot: vec![None; count],
            firsts: VecDeque::with_capacity(count),
            used: Used::of(base),
            used_next: Used::of(base),
            batch: Vec::with_capacity(count),
            again: VecDeque::new(),
            is_resumed: false,
        };
        if version == 0 {
            record.begin();
            return Ok((record, base));
        }
        if version != VERSION || entries != size {
            return Err(BadRecord::Version { version, entries });
        }
        record.settle(flags)?;
        let free = record.find_free()?;
        record.find_left(free)?;
        let Used { at, wrap } = record.used;
        let ahead: usize = record.again.iter().map(|left| left.list.len()).sum();
        let next = usize::from(at) + ahead;
        let (next, next_wrap) = if next >= count { (next - count, !wrap) } else { (next, wrap) };
        Ok((record, Position { next: next as u16, next_wrap, used: at, used_wrap: wrap }))
    }

    fn begin(&mut self) {
        for index in 0..self.size {
            self.part.store8(entry(index) + INFLIGHT, 0);
            self.part.store16(entry(index) + NEXT, index + 1);
        }
        self.store_free(0, 0);
        self.store_used(self.used, self.used);
        self.part.store16(DESC_NUM, self.size);
        self.part.store16(RECORD_VERSION, VERSION);
    }

    fn store_free(&self, new: u16, old: u16) {
        let ([a, b], [c, d]) = (new.to_ne_bytes(), old.to_ne_bytes());
        self.part.store32(FREE_HEADS, u32::from_ne_bytes([a, b, c, d]));
    }

    fn load_free(&self) -> [u16; 2] {
        let [a, b, c, d] = self.part.load32(FREE_HEADS).to_ne_bytes();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }

    fn store_used(&self, new: Used, old: Used) {
        let ([a, b], [c, d]) = (new.at.to_ne_bytes(), old.at.to_ne_bytes());
        let word = [a, b, c, d, new.wrap.into(), old.wrap.into(), 0, 0];
        self.part.store64(POSITIONS, u64::from_ne_bytes(word));
    }

    fn load_used(&self) -> Result<[Used; 2], BadRecord> {
        let [a, b, c, d, new, old, ..] = self.part.load64(POSITIONS).to_ne_bytes();
        let used = |at: [u8; 2], wrap: u8| Used { at: u16::from_ne_bytes(at), wrap: wrap == 1 };
        let both = [used([a, b], new), used([c, d], old)];
        match both.iter().find(|used| used.at >= self.size) {
            Some(used) => Err(BadRecord::Entry(used.at)),
            None => Ok(both),
        }
    }

    /// Ends the last step: it happened if the ring shows the first descriptor of its batch as used.
    fn settle(&mut self, flags: impl Fn(u16) -> Option<u16>) -> Result<(), BadRecord> {
        let ([new, old], [new_free, old_free]) = (self.load_used()?, self.load_free());
        let unused = if old.wrap { DESC_AVAIL } else { DESC_USED };
        let happened =
            new != old && flags(old.at).ok_or(BadRecord::OtherRing)? & (DESC_AVAIL | DESC_USED) != unused;
        (self.used, self.free) = if happened { (new, new_free) } else { (old, old_free) };
        self.used_next = self.used;
        self.store_free(self.free, self.free);
        self.store_used(self.used, self.used);
        Ok(())
    }

    /// Walks the list of free entries: which are.
    fn find_free(&mut self) -> Result<Vec<bool>, BadRecord> {
        let mut free = vec![false; usize::from(self.size)];
        let mut at = self.free;
        while at < self.size {
            let seen = &mut free[usize::from(at)];
            if std::mem::replace(seen, true) {
                return Err(BadRecord::Entry(at));
            }
            self.part.store8(entry(at) + INFLIGHT, 0);
            let next = self.part.load16(entry(at) + NEXT);
            self.links[usize::from(at)] = next;
            at = next;
        }
        Ok(free)
    }

    /// Collects the chains in flight, in the order in which they were taken. An entry is free or of one chain.
    fn find_left(&mut self, mut taken: Vec<bool>) -> Result<(), BadRecord> {
        let mut all = Vec::new();
        for first in 0..self.size {
            if taken[usize::from(first)] || self.part.load8(entry(first) + INFLIGHT) == 0 {
                continue;
            }
            let bad = BadRecord::Entry(first);
            let num = self.part.load16(entry(first) + NUM);
            if num == 0 || num > self.size {
                return Err(bad);
            }
            let mut list = Vec::with_capacity(num.into());
            let (mut at, mut last) = (first, first);
            for _ in 0..num {
                let seen = taken.get_mut(usize::from(at)).ok_or(bad)?;
                if std::mem::replace(seen, true) {
                    return Err(bad);
                }
                let base = entry(at);
                list.push(Raw {
                    addr: self.part.load64(base + ADDR),
                    len: self.part.load32(base + LEN),
                    id: self.part.load16(base + ID),
                    flags: self.part.load16(base + FLAGS),
                });
                last = at;
                at = self.part.load16(base + NEXT);
                self.links[usize::from(last)] = at;
            }
            self.held[usize::from(first)] = Held { last, num };
            all.push(Left { counter: self.part.load64(entry(first) + COUNTER), first, list });
        }
        all.sort_unstable_by_key(|left| left.counter);
        self.counter = all.last().map_or(0, |left| left.counter.wrapping_add(1));
        self.again = all.into();
        Ok(())
    }

    pub(super) fn again(&mut self, queue: &mut Queue) -> Result<Option<Chain>, BadChain> {
        if !std::mem::replace(&mut self.is_resumed, true) {
            queue.forget_unpublished();
        }
        let Some(Left { first, list, .. }) = self.again.pop_front() else { return Ok(None) };
        let id = list.last().map_or(0, |raw| raw.id);
        let chain = queue.take_again(&Again::Descriptors { id, list: &list })?;
        self.own(queue, &chain, first);
        Ok(Some(chain))
    }

    fn own(&mut self, queue: &Queue, chain: &Chain, first: u16) {
        if let Some(slot) = queue.slot_of(chain) {
            self.of_slot[usize::from(slot)] = Some(first);
        }
        if self.in_order {
            self.firsts.push_back(first);
        }
    }

    pub(super) fn taken(&mut self, queue: &Queue, chain: &Chain, before: Position) {
        let after = queue.position();
        let wrapped = before.next_wrap != after.next_wrap;
        let num = (after.next + if wrapped { self.size } else { 0 }).wrapping_sub(before.next);
        let first = self.free;
        let (mut at, mut last, mut position) = (first, first, before.next);
        for _ in 0..num {
            // Only a driver that makes available what it was not shown as used can have more in flight than there
            // are entries. Its chain goes unrecorded.
            let Some(&next) = self.links.get(usize::from(at)) else { return };
            let raw = queue.raw(position).unwrap_or_default();
            let base = entry(at);
            self.part.store64(base + ADDR, raw.addr);
            self.part.store32(base + LEN, raw.len);
            self.part.store16(base + ID, raw.id);
            self.part.store16(base + FLAGS, raw.flags);
            (last, at) = (at, next);
            position = if position + 1 == self.size { 0 } else { position + 1 };
        }
        // With indirect tables the last descriptor is the first, and otherwise it has the id; what the driver
        // changed since the chain was taken is not what is worked on.
        self.part.store16(entry(last) + ID, chain.id());
        let base = entry(first);
        self.part.store16(base + LAST, last);
        self.part.store16(base + NUM, num);
        self.part.store64(base + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.part.store8(base + INFLIGHT, 1);
        // From here on it is recorded: until then it is among the free ones.
        self.store_free(at, at);
        self.free = at;
        self.held[usize::from(first)] = Held { last, num };
        self.own(queue, chain, first);
    }

    fn entry_of(&mut self, queue: &Queue, chain: &Chain) -> Option<u16> {
        self.of_slot[usize::from(queue.slot_of(chain)?)].take()
    }

    /// Puts a chain's entries in front of the free ones, unrecorded.
    fn release(&mut self, first: u16) {
        let Held { last, .. } = self.held[usize::from(first)];
        self.part.store16(entry(last) + NEXT, self.free);
        self.links[usize::from(last)] = self.free;
        self.free = first;
    }

    pub(super) fn put_back(&mut self, queue: &Queue, chain: &Chain) {
        let Some(first) = self.entry_of(queue, chain) else { return };
        if self.in_order {
            self.firsts.pop_back();
        }
        self.release(first);
        self.store_free(self.free, self.free);
        self.part.store8(entry(first) + INFLIGHT, 0);
    }

    pub(super) fn completed(&mut self, queue: &Queue, chain: &Chain) {
        if let Some(first) = self.entry_of(queue, chain)
            && !self.in_order
        {
            self.firsts.push_back(first);
        }
    }

    pub(super) fn publishing(&mut self, position: Position) {
        self.used_next = Used::of(position);
        if self.used_next == self.used && self.firsts.is_empty() {
            return;
        }
        let wrapped = self.used.wrap != self.used_next.wrap;
        let moved = usize::from(self.used_next.at) + if wrapped { usize::from(self.size) } else { 0 };
        let moved = moved.saturating_sub(self.used.at.into());
        let mut descs = 0;
        while let Some(&first) = self.firsts.front()
            && (!self.in_order || descs < moved)
        {
            descs += usize::from(self.held[usize::from(first)].num);
            self.firsts.pop_front();
            self.batch.push(first);
        }
        let old = self.free;
        for at in 0..self.batch.len() {
            self.release(self.batch[at]);
        }
        self.store_free(self.free, old);
        self.store_used(self.used_next, self.used);
    }

    pub(super) fn published(&mut self) {
        if self.used_next == self.used && self.batch.is_empty() {
            return;
        }
        for first in self.batch.drain(..) {
            self.part.store8(entry(first) + INFLIGHT, 0);
        }
        self.used = self.used_next;
        self.store_free(self.free, self.free);
        self.store_used(self.used, self.used);
    }
}
