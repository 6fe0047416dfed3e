//! Which slot a chain goes into, and when its used entry goes out: any order, or one after the other.

use super::chain::{Slot, SlotCell};
use super::ring::{Ring, UsedEntry};
use crate::store::Store;
use crate::words::rare;
use core::ptr::NonNull;

/// The order in which slots are used.
pub(super) trait Slots {
    /// The slot that the next chain goes into, if one is free.
    fn next(&self) -> Option<NonNull<Slot>>;
    /// What [`taken`](Self::taken) needs to know of the slot, while that is still the queue's.
    type After: Copy;
    /// What comes after the slot that [`next`](Self::next) gave.
    fn after(&self, slot: &Slot) -> Self::After;
    /// That slot is taken.
    fn taken(&mut self, after: Self::After);
    /// The slot was taken, and its chain is complete: the same as one after the other.
    fn complete_at_once(&mut self, slot: NonNull<Slot>, after: Self::After, ring: &mut impl Ring);
    /// The chain of a slot is complete: its used entry goes out, or waits for its turn.
    fn complete(&mut self, slot: NonNull<Slot>, ring: &mut impl Ring);
    /// The chain of a slot is gone, and nobody is told.
    fn release(&mut self, slot: NonNull<Slot>);
    /// Undoes the last `taken`; `false` if it was not of this slot, as far as can be known.
    fn put_back(&mut self, slot: NonNull<Slot>, ring: &impl Ring) -> bool;
    /// Lets used entries go out that were held back to go together.
    fn flush(&mut self, ring: &mut impl Ring);
    /// Every slot that no chain in flight is in. Nothing may be held back.
    fn each_idle(&self, each: impl FnMut(NonNull<Slot>));
}

impl Slot {
    #[inline(always)]
    fn entry(&self) -> UsedEntry {
        UsedEntry { id: self.id, written: self.written() }
    }
}

/// Any free slot: the last that became free, and from there on as a list.
pub(super) struct Any(Option<NonNull<Slot>>);

impl Any {
    /// All of `table` is free.
    pub(super) fn new(table: &[SlotCell]) -> Self {
        let mut all = Self(None);
        table.iter().rev().for_each(|cell| all.push(cell.get()));
        all
    }

    #[inline(always)]
    fn push(&mut self, slot: NonNull<Slot>) {
        // SAFETY: the slot is in the table, and no chain has it.
        unsafe { (*slot.as_ptr()).next_free = self.0.replace(slot) };
    }
}

impl Slots for Any {
    #[inline(always)]
    fn next(&self) -> Option<NonNull<Slot>> {
        self.0
    }

    type After = Option<NonNull<Slot>>;

    #[inline(always)]
    fn after(&self, slot: &Slot) -> Self::After {
        slot.next_free
    }

    #[inline(always)]
    fn taken(&mut self, after: Self::After) {
        self.0 = after;
    }

    // The slot is still where it was in the list.
    #[inline(always)]
    fn complete_at_once(&mut self, slot: NonNull<Slot>, _: Self::After, ring: &mut impl Ring) {
        // SAFETY: the slot is in the table, and no chain has it.
        let slot = unsafe { slot.as_ref() };
        ring.put_used(slot.entry(), 1, slot.descs);
    }

    #[inline(always)]
    fn complete(&mut self, slot: NonNull<Slot>, ring: &mut impl Ring) {
        self.push(slot);
        // SAFETY: the slot is in the table, and no chain has it.
        let slot = unsafe { slot.as_ref() };
        ring.put_used(slot.entry(), 1, slot.descs);
    }

    fn release(&mut self, slot: NonNull<Slot>) {
        self.push(slot);
    }

    // A driver that uses an id twice, or rewrites its ring, can pass an older chain off as the last. It gets the same
    // number of descriptors back, so only what it wrote itself is confused.
    fn put_back(&mut self, slot: NonNull<Slot>, ring: &impl Ring) -> bool {
        // SAFETY: the slot is in the table, and no chain has it.
        let last = ring.last_id() == unsafe { slot.as_ref() }.id;
        if last {
            self.push(slot);
        }
        last
    }

    #[inline(always)]
    fn flush(&mut self, _: &mut impl Ring) {}

    fn each_idle(&self, mut each: impl FnMut(NonNull<Slot>)) {
        let mut at = self.0;
        while let Some(slot) = at {
            each(slot);
            // SAFETY: the slot is in the table, and no chain has it.
            at = unsafe { slot.as_ref() }.next_free;
        }
    }
}

/// One slot after the other, round the table; used entries go out in the same order (2.7.9, 2.8.8).
pub(super) struct Line {
    /// To be taken next.
    next: NonNull<SlotCell>,
    /// To be used next.
    oldest: NonNull<SlotCell>,
    /// Slots that no chain is in. Those of the batch, which are not to be taken yet, are among them.
    free: u16,
    /// How many are complete and wait for those before them.
    waiting: u16,
    batch: Batch,
    /// The table.
    first: NonNull<SlotCell>,
    end: NonNull<SlotCell>,
    /// Which ones wait. Not in the slots, which belong to chains in flight.
    waits: Store<u16>,
}

// SAFETY: the pointers are of the table, which the queue owns.
unsafe impl Send for Line {}

/// What comes after a slot in line needs no saying.
#[derive(Clone, Copy)]
pub(super) struct Straight;

/// Used chains that go into the ring as one entry: all but the last were filled completely.
#[derive(Clone, Copy, Default)]
struct Batch {
    /// The last of them, if there is any. Its slot is not free before the entry is out.
    last: Option<NonNull<Slot>>,
    chains: u16,
    /// Of another width, or both sums would be made in one vector, which takes longer.
    descs: u32,
    /// The last one was not filled.
    closed: bool,
}

impl Line {
    /// All of `table` is free; `waits` has an element for each.
    pub(super) fn new(table: &[SlotCell], mut waits: Store<u16>) -> Self {
        waits.fill(0);
        let all = NonNull::from(table);
        let first = all.cast();
        // SAFETY: one past the table.
        let end = unsafe { first.add(table.len()) };
        let (free, batch) = (table.len() as u16, Batch::default());
        Self { next: first, oldest: first, free, waiting: 0, batch, first, end, waits }
    }

    /// The slot after this one.
    #[inline(always)]
    fn following(&self, cell: NonNull<SlotCell>) -> NonNull<SlotCell> {
        // SAFETY: in the table, or one past it.
        let after = unsafe { cell.add(1) };
        if after == self.end {
            rare();
            return self.first;
        }
        after
    }

    /// The number of a slot of the table.
    fn index(&self, slot: NonNull<Slot>) -> usize {
        (slot.addr().get() - self.first.addr().get()) / size_of::<SlotCell>()
    }

    /// What waited for the chain that went out just now.
    #[cold]
    #[inline(never)]
    fn go_on(&mut self, ring: &mut impl Ring) {
        loop {
            let slot = self.oldest.cast();
            let index = self.index(slot);
            if core::mem::take(&mut self.waits[index]) == 0 {
                return;
            }
            self.waiting -= 1;
            self.leave();
            self.go(slot, ring);
        }
    }

    /// The oldest chain leaves its slot.
    #[inline(always)]
    fn leave(&mut self) {
        self.oldest = self.following(self.oldest);
        self.free += 1;
    }

    /// A chain that none is older than goes out.
    #[inline(always)]
    fn go(&mut self, slot: NonNull<Slot>, ring: &mut impl Ring) {
        if self.batch.closed {
            self.flush(ring);
        }
        // SAFETY: in the table, and complete, so no chain has it.
        let done = unsafe { slot.as_ref() };
        self.batch.last = Some(slot);
        self.batch.closed = done.written() != done.write_len;
        self.batch.chains += 1;
        self.batch.descs += u32::from(done.descs);
    }
}

impl Slots for Line {
    #[inline(always)]
    fn next(&self) -> Option<NonNull<Slot>> {
        (self.free != self.batch.chains).then_some(self.next.cast())
    }

    type After = Straight;

    #[inline(always)]
    fn after(&self, _: &Slot) -> Straight {
        Straight
    }

    #[inline(always)]
    fn taken(&mut self, _: Straight) {
        self.next = self.following(self.next);
        self.free -= 1;
    }

    #[inline(always)]
    fn complete_at_once(&mut self, slot: NonNull<Slot>, after: Straight, ring: &mut impl Ring) {
        if slot != self.oldest.cast() {
            self.taken(after);
            self.release(slot);
            return;
        }
        // Nothing else is in flight.
        self.next = self.following(self.next);
        self.oldest = self.next;
        self.go(slot, ring);
    }

    #[inline(always)]
    fn complete(&mut self, slot: NonNull<Slot>, ring: &mut impl Ring) {
        if slot != self.oldest.cast() {
            self.release(slot);
            return;
        }
        self.leave();
        self.go(slot, ring);
        if self.waiting != 0 {
            self.go_on(ring);
        }
    }

    fn release(&mut self, slot: NonNull<Slot>) {
        let index = self.index(slot);
        self.waits[index] = 1;
        self.waiting += 1;
    }

    // Slots follow the ring, so the number tells.
    fn put_back(&mut self, slot: NonNull<Slot>, _: &impl Ring) -> bool {
        let at = if self.next == self.first { self.end } else { self.next };
        // SAFETY: not the first of the table.
        let last = unsafe { at.sub(1) };
        if slot != last.cast() {
            return false;
        }
        self.next = last;
        self.free += 1;
        true
    }

    #[inline(always)]
    fn flush(&mut self, ring: &mut impl Ring) {
        if let Some(last) = self.batch.last {
            // SAFETY: in the table, and not free, so nobody has it.
            ring.put_used(unsafe { last.as_ref() }.entry(), self.batch.chains, self.batch.descs as u16);
            self.batch = Batch::default();
        }
    }

    fn each_idle(&self, mut each: impl FnMut(NonNull<Slot>)) {
        debug_assert!(self.batch.last.is_none());
        let mut at = self.next;
        for past in 0..self.index(self.end.cast()) {
            let slot = at.cast();
            // The free ones come first; those complete among the others wait.
            if past < self.free.into() || self.waits[self.index(slot)] != 0 {
                each(slot);
            }
            at = self.following(at);
        }
    }
}
