//! Split rings (2.7), driver's side.

use super::error::Broken;
use super::queue::Position;
use super::ring::{Cursor, Found, Meta, Ring, UsedSlot};
use crate::notify::{Barriers, need_event, publish_then_look};
use crate::store::Store;
use crate::words::{Area, word};
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use virtio_kit_spec::split as wire;

/// The shared areas and the free-running indices: what any order of use needs.
pub(super) struct Shared {
    desc: Area,
    avail: Area,
    used: Area,
    mask: u16,
    event_idx: bool,
    barriers: Barriers,
    /// Next entry of the available ring.
    next: u16,
    /// What the device has been shown of `next`.
    published: u16,
    /// Next entry of the used ring.
    taken: u16,
    /// What the device has shown, as last read.
    seen: u16,
}

impl Shared {
    /// # Safety
    ///
    /// The areas must be those of a split ring of `size` descriptors, a power of two, and stay valid for as
    /// long as the value is used.
    unsafe fn new([desc, avail, used]: [Area; 3], size: u16, event_idx: bool, barriers: Barriers) -> Self {
        debug_assert!(size.is_power_of_two());
        let mask = size - 1;
        Self { desc, avail, used, mask, event_idx, barriers, next: 0, published: 0, taken: 0, seen: 0 }
    }

    /// Puts a head into the available ring, unpublished.
    #[inline(always)]
    fn offer(&mut self, head: u16) {
        let offset = wire::avail_entry(self.next & self.mask);
        // SAFETY: masked to the ring.
        unsafe { self.avail.store16(offset, head, Relaxed) };
        self.next = self.next.wrapping_add(1);
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next);
        if old == new {
            return false;
        }
        self.published = new;
        self.barriers.before_publish();
        publish_then_look(
            &self.barriers,
            // SAFETY: a header word.
            || unsafe { self.avail.store16(wire::AVAIL_IDX, new, Release) },
            || {
                if self.event_idx {
                    // SAFETY: the word after the used ring.
                    let event = unsafe { self.used.load16(wire::avail_event(self.mask + 1), Relaxed) };
                    need_event(event, new, old)
                } else {
                    // SAFETY: a header word.
                    let flags = unsafe { self.used.load16(wire::USED_FLAGS, Relaxed) };
                    flags & wire::USED_NO_NOTIFY == 0
                }
            },
        )
    }

    /// How many entries of the used ring wait, looking at the device's index only when none is known.
    #[inline(always)]
    fn waiting(&mut self, used: &mut UsedSlot) -> Found {
        if self.taken == self.seen {
            // SAFETY: a header word.
            let index = unsafe { self.used.load16(wire::USED_IDX, Acquire) };
            if index == self.seen {
                return Found::Nothing;
            }
            // Of the chains in flight only those can be used that the device was shown.
            let by = index.wrapping_sub(self.taken);
            let shown = self.published.wrapping_sub(self.taken);
            if by > shown {
                return used.broken(Broken::IndexJump { by, in_flight: shown });
            }
            self.barriers.after_observe();
            self.seen = index;
        }
        Found::One
    }

    /// The entry of the used ring at `taken`: id and length.
    #[inline(always)]
    fn used_entry(&self) -> (u32, u32) {
        let offset = wire::used_entry(self.taken & self.mask);
        // SAFETY: masked to the ring.
        unsafe { (self.used.load32(offset, Relaxed), self.used.load32(offset + 4, Relaxed)) }
    }

    fn has_used(&self) -> bool {
        // SAFETY: a header word.
        self.taken != self.seen || unsafe { self.used.load16(wire::USED_IDX, Acquire) } != self.seen
    }

    fn disable_callbacks(&self) {
        if self.event_idx {
            // An index that the device has passed: it comes round again only after 65535 more.
            let event = self.taken.wrapping_sub(1);
            // SAFETY: the word after the available ring.
            unsafe { self.avail.store16(wire::used_event(self.mask + 1), event, Relaxed) };
        } else {
            // SAFETY: a header word.
            unsafe { self.avail.store16(wire::AVAIL_FLAGS, wire::AVAIL_NO_INTERRUPT, Relaxed) };
        }
    }

    fn enable_callbacks(&self) -> bool {
        publish_then_look(
            &self.barriers,
            || {
                if self.event_idx {
                    let offset = wire::used_event(self.mask + 1);
                    // SAFETY: the word after the available ring.
                    unsafe { self.avail.store16(offset, self.taken, Relaxed) };
                } else {
                    // SAFETY: a header word.
                    unsafe { self.avail.store16(wire::AVAIL_FLAGS, 0, Relaxed) };
                }
            },
            || self.has_used(),
        )
    }

    fn position(&self) -> Position {
        Position { next: self.next, next_wrap: false, used: self.taken, used_wrap: false }
    }

    fn reset(&mut self) {
        (self.next, self.published, self.taken, self.seen) = (0, 0, 0, 0);
    }
}

/// Stores a descriptor, and which one follows it, if one does. Field by field: no field has to be moved to its place.
///
/// # Safety
///
/// `at` must be inside the table.
#[inline(always)]
unsafe fn store_desc(desc: Area, at: u16, addr: u64, len: u32, flags: u16, next: Option<u16>) {
    let offset = wire::desc(at);
    // SAFETY: the caller's promise.
    unsafe {
        desc.store64(offset, addr, Relaxed);
        desc.store32(offset + offset_of!(wire::Desc, len), len, Relaxed);
        let more = if next.is_some() { wire::DESC_NEXT } else { 0 };
        desc.store16(offset + offset_of!(wire::Desc, flags), flags | more, Relaxed);
        if let Some(next) = next {
            desc.store16(offset + offset_of!(wire::Desc, next), next, Relaxed);
        }
    }
}

fn table_word(len: u32, write: bool, index: u16, more: bool) -> u64 {
    let flags = if write { wire::DESC_WRITE } else { 0 };
    if more { word(len, flags | wire::DESC_NEXT, index.wrapping_add(1)) } else { word(len, flags, 0) }
}

/// Follows the free list.
pub(super) struct AnyOrderCursor {
    desc: Area,
    links: NonNull<u16>,
    slot: u16,
    at: u16,
    last: u16,
}

impl Cursor for AnyOrderCursor {
    #[inline(always)]
    fn slot(&self) -> u16 {
        self.slot
    }

    #[inline(always)]
    fn link(&self) -> u16 {
        self.last
    }

    #[inline(always)]
    fn put(&mut self, addr: u64, len: u32, flags: u16, _: bool, more: bool) {
        let at = self.at;
        // SAFETY: the free list and its links stay inside the ring, which has as many links as descriptors.
        let next = unsafe { self.links.add(at.into()).read() };
        // SAFETY: as above.
        unsafe { store_desc(self.desc, at, addr, len, flags, more.then_some(next)) };
        (self.last, self.at) = (at, next);
    }
}

/// Goes round the ring.
pub(super) struct InOrderCursor {
    desc: Area,
    /// The same from the chain's first descriptor on.
    start: Area,
    mask: u16,
    slot: u16,
    at: u16,
}

impl Cursor for InOrderCursor {
    #[inline(always)]
    fn slot(&self) -> u16 {
        self.slot
    }

    #[inline(always)]
    fn link(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn put(&mut self, addr: u64, len: u32, flags: u16, _: bool, more: bool) {
        let next = (self.at + 1) & self.mask;
        // SAFETY: masked to the table, as is every position that the ring keeps.
        unsafe { store_desc(self.desc, self.at, addr, len, flags, more.then_some(next)) };
        self.at = next;
    }

    #[inline(always)]
    fn put_straight(&mut self, index: u16, addr: u64, len: u32, flags: u16, more: bool) {
        let at = self.at + index;
        debug_assert!(at <= self.mask);
        // SAFETY: the chain does not reach beyond the table.
        unsafe { store_desc(self.start, index, addr, len, flags, more.then_some(at + 1)) };
    }
}

/// A split ring whose chains come back in any order: free descriptors are a private list.
pub(super) struct AnyOrder {
    shared: Shared,
    /// The descriptor after each one, in its chain or in the free list.
    links: Store<u16>,
    free_head: u16,
    free: u16,
}

impl AnyOrder {
    /// # Safety
    ///
    /// As for [`Shared::new`]; `links` must have `size` elements.
    pub(super) unsafe fn new(
        areas: [Area; 3],
        size: u16,
        links: Store<u16>,
        event_idx: bool,
        barriers: Barriers,
    ) -> Self {
        // SAFETY: the caller's promise.
        let shared = unsafe { Shared::new(areas, size, event_idx, barriers) };
        Self { shared, links, free_head: 0, free: size }
    }
}

impl Ring for AnyOrder {
    type Cursor = AnyOrderCursor;

    #[inline(always)]
    fn room(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn start(&self) -> AnyOrderCursor {
        let links = NonNull::from(&*self.links).cast();
        AnyOrderCursor { desc: self.shared.desc, links, slot: self.free_head, at: self.free_head, last: 0 }
    }

    fn abandon(&mut self, _: AnyOrderCursor, _: u16) {}

    #[inline(always)]
    fn finish(&mut self, cursor: AnyOrderCursor, descs: u16, _: u16) {
        self.free_head = cursor.at;
        self.free -= descs;
        self.shared.offer(cursor.slot);
    }

    #[inline(always)]
    fn table_word(len: u32, write: bool, index: u16, more: bool) -> u64 {
        table_word(len, write, index, more)
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        self.shared.publish()
    }

    #[inline(always)]
    fn next_used(&mut self, metas: &[Meta], used: &mut UsedSlot) -> Found {
        let waiting = self.shared.waiting(used);
        if waiting != Found::One {
            return waiting;
        }
        let (id, len) = self.shared.used_entry();
        let Some(&meta) = metas.get(id as usize) else { return used.broken(Broken::UnknownId { id }) };
        if meta.descs == 0 {
            return used.broken(Broken::NotInFlight { id });
        }
        self.shared.taken = self.shared.taken.wrapping_add(1);
        used.found(id as u16, len, meta)
    }

    #[inline(always)]
    fn release(&mut self, slot: u16, meta: Meta, _: &mut u16) {
        let last = usize::from(meta.link);
        debug_assert!(last < self.links.len());
        // SAFETY: the link comes from a cursor, which stays inside the ring; there are as many links.
        unsafe { *self.links.get_unchecked_mut(last) = self.free_head };
        self.free_head = slot;
        self.free += meta.descs;
    }

    fn has_used(&self) -> bool {
        self.shared.has_used()
    }

    fn disable_callbacks(&mut self) {
        self.shared.disable_callbacks();
    }

    fn enable_callbacks(&mut self) -> bool {
        self.shared.enable_callbacks()
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn reset(&mut self, _: &mut [Meta]) {
        self.shared.reset();
        let mask = self.shared.mask;
        self.links.iter_mut().zip(1u16..).for_each(|(link, next)| *link = next & mask);
        (self.free_head, self.free) = (0, mask + 1);
    }
}

/// A split ring used in order (2.7.9): descriptors are taken in ring order and come back so.
pub(super) struct InOrder {
    shared: Shared,
    /// Descriptor with which the next chain begins.
    head: u16,
    /// First descriptor of the oldest chain in flight.
    tail: u16,
    free: u16,
    /// Those of them before the ring goes round, or fewer.
    straight: u16,
    /// The used entry that is being handed out, which may stand for several chains.
    batch: Option<(u32, u32)>,
}

impl InOrder {
    /// # Safety
    ///
    /// As for [`Shared::new`].
    pub(super) unsafe fn new(areas: [Area; 3], size: u16, event_idx: bool, barriers: Barriers) -> Self {
        // SAFETY: the caller's promise.
        let shared = unsafe { Shared::new(areas, size, event_idx, barriers) };
        Self { shared, head: 0, tail: 0, free: size, straight: size, batch: None }
    }
}

impl Ring for InOrder {
    type Cursor = InOrderCursor;

    #[inline(always)]
    fn room(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.straight
    }

    fn stretch(&mut self) {
        self.straight = self.free.min(self.shared.mask + 1 - self.head);
    }

    #[inline(always)]
    fn start(&self) -> InOrderCursor {
        let Shared { desc, mask, .. } = self.shared;
        // SAFETY: a position of the table.
        let start = unsafe { desc.from(wire::desc(self.head)) };
        InOrderCursor { desc, start, mask, slot: self.head, at: self.head }
    }

    fn abandon(&mut self, _: InOrderCursor, _: u16) {}

    #[inline(always)]
    fn finish(&mut self, cursor: InOrderCursor, descs: u16, _: u16) {
        self.head = (self.head + descs) & self.shared.mask;
        self.free -= descs;
        // A chain that did not go straight is followed by `stretch`.
        self.straight = self.straight.wrapping_sub(descs);
        self.shared.offer(cursor.slot);
    }

    #[inline(always)]
    fn table_word(len: u32, write: bool, index: u16, more: bool) -> u64 {
        table_word(len, write, index, more)
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        self.shared.publish()
    }

    /// One entry of the used ring may end a batch: the chains before the one it names count as used to the
    /// full. It stands where the first of the batch would (2.7.9), and `seen` has moved past all of them.
    #[inline(always)]
    fn next_used(&mut self, metas: &[Meta], used: &mut UsedSlot) -> Found {
        let waiting = self.shared.waiting(used);
        if waiting != Found::One {
            return waiting;
        }
        let slot = self.tail;
        let (id, len) = match self.batch {
            Some(batch) => batch,
            None => {
                let (id, len) = self.shared.used_entry();
                if id != u32::from(slot) {
                    if id > u32::from(self.shared.mask) {
                        return used.broken(Broken::UnknownId { id });
                    }
                    self.batch = Some((id, len));
                }
                (id, len)
            }
        };
        let Some(&meta) = metas.get(usize::from(slot)) else { return used.broken(Broken::UnknownId { id }) };
        self.shared.taken = self.shared.taken.wrapping_add(1);
        if id == u32::from(slot) {
            self.batch = None;
            return used.found(slot, len, meta);
        }
        if self.shared.taken == self.shared.seen {
            // The batch is over, and the chain that should end it was not in it.
            return used.broken(Broken::NotInFlight { id });
        }
        used.found(slot, meta.writable, meta)
    }

    #[inline(always)]
    fn release(&mut self, slot: u16, meta: Meta, _: &mut u16) {
        self.tail = (slot + meta.descs) & self.shared.mask;
        self.free += meta.descs;
    }

    fn has_used(&self) -> bool {
        self.shared.has_used()
    }

    fn disable_callbacks(&mut self) {
        self.shared.disable_callbacks();
    }

    fn enable_callbacks(&mut self) -> bool {
        self.shared.enable_callbacks()
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn reset(&mut self, _: &mut [Meta]) {
        self.shared.reset();
        let size = self.shared.mask + 1;
        (self.head, self.tail, self.free, self.straight, self.batch) = (0, 0, size, size, None);
    }
}
