//! A split ring's record: a mark for each head, and a list through those that were used last.

use std::collections::VecDeque;

use virtio_kit::device::{Again, BadChain, Chain, Position, Queue};

use super::{BadRecord, Part};
use crate::vhost_user::codec::inflight::VERSION;

// Where fields are.
const RECORD_VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
const ENTRIES: usize = 16;
const ENTRY: usize = 16;
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

fn entry(head: u16) -> usize {
    ENTRIES + ENTRY * usize::from(head)
}

pub(in super::super) struct SplitRecord {
    part: Part,
    /// Of the next chain that is taken.
    counter: u64,
    last_batch_head: u16,
    /// What the driver has been shown.
    used: u16,
    /// What it is about to be shown.
    used_next: u16,
    /// Heads that are complete. With IN_ORDER: all heads in flight, in order.
    heads: VecDeque<u16>,
    in_order: bool,
    /// Heads that are being published.
    batch: Vec<u16>,
    /// Heads that a former queue left behind, in order.
    again: VecDeque<u16>,
}

impl SplitRecord {
    /// Opens the record of a ring of `size` whose used index is `used`; where to go on. A new one begins at `base`.
    pub(in super::super) fn open(
        part: Part,
        size: u16,
        in_order: bool,
        used: u16,
        base: Position,
    ) -> Result<(Self, Position), BadRecord> {
        let (version, entries) = (part.load16(RECORD_VERSION), part.load16(DESC_NUM));
        let since = used.wrapping_sub(part.load16(USED_IDX));
        // A driver that starts over with the record of its life before.
        let is_new = version == 0 || (since > size && used == 0 && base.next == 0);
        let mut record = Self {
            part,
            counter: 0,
            last_batch_head: 0,
            used,
            used_next: used,
            heads: VecDeque::with_capacity(size.into()),
            in_order,
            batch: Vec::with_capacity(size.into()),
            again: VecDeque::new(),
        };
        if is_new {
            record.begin(size, base.used);
            return Ok((record, base));
        }
        if version != VERSION || entries != size {
            return Err(BadRecord::Version { version, entries });
        }
        if since > size {
            return Err(BadRecord::OtherRing);
        }
        record.recover(size, since)?;
        let next = used.wrapping_add(record.again.len() as u16);
        Ok((record, Position { next, used, ..Position::fresh(false) }))
    }

    fn begin(&mut self, size: u16, used: u16) {
        for head in 0..size {
            self.part.store8(entry(head) + INFLIGHT, 0);
        }
        (self.used, self.used_next) = (used, used);
        self.part.store16(LAST_BATCH_HEAD, 0);
        self.part.store16(USED_IDX, used);
        self.part.store16(DESC_NUM, size);
        self.part.store16(RECORD_VERSION, VERSION);
    }

    /// Finds out what is in flight. `since` chains were published and perhaps not struck off.
    fn recover(&mut self, size: u16, since: u16) -> Result<(), BadRecord> {
        let mut head = self.part.load16(LAST_BATCH_HEAD);
        for _ in 0..since {
            if head >= size {
                return Err(BadRecord::Entry(head));
            }
            self.part.store8(entry(head) + INFLIGHT, 0);
            head = self.part.load16(entry(head) + NEXT);
        }
        self.part.store16(USED_IDX, self.used);
        self.last_batch_head = self.part.load16(LAST_BATCH_HEAD);
        let is_in_flight = |head: &u16| self.part.load8(entry(*head) + INFLIGHT) != 0;
        let mut left: Vec<(u64, u16)> = (0..size)
            .filter(is_in_flight)
            .map(|head| (self.part.load64(entry(head) + COUNTER), head))
            .collect();
        left.sort_unstable();
        self.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.again = left.into_iter().map(|(_, head)| head).collect();
        Ok(())
    }

    pub(super) fn again(&mut self, queue: &mut Queue) -> Result<Option<Chain>, BadChain> {
        let Some(head) = self.again.pop_front() else { return Ok(None) };
        let chain = queue.take_again(&Again::Head(head))?;
        if self.in_order {
            self.heads.push_back(head);
        }
        Ok(Some(chain))
    }

    pub(super) fn taken(&mut self, _: &Queue, chain: &Chain, _: Position) {
        let head = chain.id();
        self.part.store64(entry(head) + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.part.store8(entry(head) + INFLIGHT, 1);
        if self.in_order {
            self.heads.push_back(head);
        }
    }

    pub(super) fn put_back(&mut self, _: &Queue, chain: &Chain) {
        self.part.store8(entry(chain.id()) + INFLIGHT, 0);
        if self.in_order {
            self.heads.pop_back();
        }
    }

    pub(super) fn completed(&mut self, _: &Queue, chain: &Chain) {
        if !self.in_order {
            self.heads.push_back(chain.id());
        }
    }

    pub(super) fn publishing(&mut self, position: Position) {
        let count = usize::from(position.used.wrapping_sub(self.used)).min(self.heads.len());
        self.batch.extend(self.heads.drain(..count));
        for &head in &self.batch {
            self.part.store16(entry(head) + NEXT, self.last_batch_head);
            self.last_batch_head = head;
            self.part.store16(LAST_BATCH_HEAD, head);
        }
        self.used_next = position.used;
    }

    pub(super) fn published(&mut self) {
        for head in self.batch.drain(..) {
            self.part.store8(entry(head) + INFLIGHT, 0);
        }
        if self.used != self.used_next {
            self.used = self.used_next;
            self.part.store16(USED_IDX, self.used);
        }
    }
}
