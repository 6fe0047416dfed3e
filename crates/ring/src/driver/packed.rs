//! Packed rings (2.8), driver's side.

use super::error::Broken;
use super::queue::Position;
use super::ring::{Cursor, Found, Meta, Ring, UsedSlot};
use crate::notify::{Barriers, need_event, publish_then_look};
use crate::store::Store;
use crate::words::{Area, fields, rare, word};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use virtio_kit_spec::packed as wire;

/// Both lap bits, in a descriptor's second word; a lap around the ring flips them.
const LAPS: u64 = AVAIL | USED;
const AVAIL: u64 = (wire::DESC_AVAIL as u64) << 48;
const USED: u64 = (wire::DESC_USED as u64) << 48;

/// The shared areas and the two positions: what any order of use needs.
pub(super) struct Shared {
    desc: Area,
    driver: Area,
    device: Area,
    size: u16,
    event_idx: bool,
    barriers: Barriers,
    free: u16,
    /// Where the next chain goes, and the bits that make a descriptor available there.
    next: u16,
    lap: u64,
    /// Descriptors in flight that the device was shown.
    shown: u16,
    /// Descriptors added since the last publish.
    pending: u16,
    /// The first of these and its second word, which alone holds all of them back.
    held_at: u16,
    held: u64,
    /// Where the next used descriptor will be, and the bits that mark it used.
    taken: u16,
    used_lap: u64,
}

impl Shared {
    /// # Safety
    ///
    /// The areas must be those of a packed ring of `size` descriptors, and stay valid for as long as the
    /// value is used.
    unsafe fn new([desc, driver, device]: [Area; 3], size: u16, event_idx: bool, barriers: Barriers) -> Self {
        Self {
            desc,
            driver,
            device,
            size,
            event_idx,
            barriers,
            free: size,
            next: 0,
            lap: AVAIL,
            shown: 0,
            pending: 0,
            held_at: 0,
            held: 0,
            taken: 0,
            used_lap: LAPS,
        }
    }

    /// `at` must be below the ring's size, as all positions kept here are.
    #[inline(always)]
    fn store_second(&self, at: u16, second: u64) {
        debug_assert!(at < self.size);
        // SAFETY: inside the ring.
        unsafe { self.desc.store64(wire::desc(at) + wire::DESC_LEN_OFFSET, second, Relaxed) };
    }

    #[inline(always)]
    fn start(&self, slot: u16) -> PackedCursor {
        let bits = word(0, slot, 0) | self.lap;
        debug_assert!(self.next < self.size);
        // SAFETY: a position of the ring.
        let start = unsafe { self.desc.from(wire::desc(self.next)) };
        PackedCursor { desc: self.desc, start, size: self.size, slot, at: self.next, bits, first: 0 }
    }

    /// The position `by` descriptors after `at`, and the lap bits there.
    #[inline(always)]
    fn after(&self, at: u16, by: u16, lap: u64) -> (u16, u64) {
        let (sum, size) = (u32::from(at) + u32::from(by), u32::from(self.size));
        if sum >= size {
            rare();
            return ((sum - size) as u16, lap ^ LAPS);
        }
        (sum as u16, lap)
    }

    /// Makes what `put` wrote unavailable again, so that a shorter chain in its place does not expose it.
    fn abandon(&mut self, cursor: PackedCursor) {
        let (mut at, mut lap) = (self.next, self.lap);
        // The lap tells a chain that filled the whole ring from none.
        while (at, lap) != (cursor.at, cursor.lap()) {
            self.store_second(at, lap ^ LAPS);
            (at, lap) = self.after(at, 1, lap);
        }
    }

    #[inline(always)]
    fn finish(&mut self, cursor: &PackedCursor, descs: u16) {
        if self.pending == 0 {
            (self.held_at, self.held) = (self.next, cursor.first);
        } else {
            // SAFETY: the chain's first descriptor.
            unsafe { cursor.start.store64(wire::DESC_LEN_OFFSET, cursor.first, Relaxed) };
        }
        self.pending += descs;
        self.free -= descs;
        (self.next, self.lap) = (cursor.at, cursor.lap());
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let pending = core::mem::take(&mut self.pending);
        if pending == 0 {
            return false;
        }
        self.shown += pending;
        self.barriers.before_publish();
        publish_then_look(
            &self.barriers,
            || {
                // SAFETY: inside the ring.
                unsafe {
                    self.desc.store64(wire::desc(self.held_at) + wire::DESC_LEN_OFFSET, self.held, Release)
                }
            },
            || {
                // SAFETY: the one word of the device area.
                let suppress = unsafe { self.device.load32(0, Relaxed) };
                let (event, flags) = (suppress as u16, (suppress >> 16) as u16);
                match flags & wire::EVENT_FLAGS_MASK {
                    wire::EVENT_DISABLE => false,
                    wire::EVENT_DESC if self.event_idx => self.passes(event, pending),
                    _ => true,
                }
            },
        )
    }

    /// Whether the device's event position lies among the `pending` descriptors just published.
    #[inline(always)]
    fn passes(&self, event: u16, pending: u16) -> bool {
        let (position, wrap) = wire::event_pos(event);
        // On another lap than `next` the position lies one ring length before this lap's.
        let lap_differs = wrap != (self.lap == AVAIL);
        let event = if lap_differs { position.wrapping_sub(self.size) } else { position };
        need_event(event, self.next, self.next.wrapping_sub(pending))
    }

    /// The second word of the descriptor at `taken`, if that is a used one.
    #[inline(always)]
    fn used_word(&self) -> Option<u64> {
        // SAFETY: inside the ring.
        let second = unsafe { self.desc.load64(wire::desc(self.taken) + wire::DESC_LEN_OFFSET, Acquire) };
        if (second ^ self.used_lap) & LAPS != 0 {
            return None;
        }
        self.barriers.after_observe();
        Some(second)
    }

    /// Whether a chain of `descs` descriptors may be used: it is in flight, and the device was shown so many.
    #[inline(always)]
    fn shows(&self, descs: u16) -> bool {
        descs.wrapping_sub(1) < self.shown
    }

    #[inline(always)]
    fn release(&mut self, descs: u16) {
        self.free += descs;
        self.shown -= descs;
        self.taken += descs;
        if self.taken >= self.size {
            rare();
            self.taken -= self.size;
            self.used_lap ^= LAPS;
        }
    }

    fn disable_callbacks(&self) {
        // SAFETY: the one word of the driver area.
        unsafe { self.driver.store32(0, u32::from(wire::EVENT_DISABLE) << 16, Relaxed) };
    }

    fn enable_callbacks(&self, look: impl FnOnce() -> bool) -> bool {
        let position = u32::from(wire::event_word(self.taken, self.used_lap == LAPS));
        let flags = if self.event_idx { wire::EVENT_DESC } else { wire::EVENT_ENABLE };
        publish_then_look(
            &self.barriers,
            // SAFETY: the one word of the driver area.
            || unsafe { self.driver.store32(0, position | u32::from(flags) << 16, Relaxed) },
            look,
        )
    }

    fn position(&self) -> Position {
        Position {
            next: self.next,
            next_wrap: self.lap == AVAIL,
            used: self.taken,
            used_wrap: self.used_lap == LAPS,
        }
    }

    fn reset(&mut self) {
        (self.free, self.next, self.lap, self.shown, self.pending) = (self.size, 0, AVAIL, 0, 0);
        (self.taken, self.used_lap) = (0, LAPS);
    }
}

/// Goes round the ring.
pub(super) struct PackedCursor {
    desc: Area,
    /// The same from the chain's first descriptor on.
    start: Area,
    size: u16,
    slot: u16,
    at: u16,
    /// Buffer id and lap bits, where they are in a descriptor's second word.
    bits: u64,
    /// Second word of the chain's first descriptor, which is written last.
    first: u64,
}

impl PackedCursor {
    #[inline(always)]
    fn lap(&self) -> u64 {
        self.bits & LAPS
    }
}

impl Cursor for PackedCursor {
    const WRITE: u64 = (wire::DESC_WRITE as u64) << 48;
    const INDIRECT: u64 = (wire::DESC_INDIRECT as u64) << 48;

    #[inline(always)]
    fn slot(&self) -> u16 {
        self.slot
    }

    #[inline(always)]
    fn last(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn put(&mut self, addr: u64, len: u32, flags: u64, first: bool, more: bool) {
        let at = wire::desc(self.at);
        let next = if more { word(0, 0, wire::DESC_NEXT) } else { 0 };
        let second = u64::from(len) | flags | next | self.bits;
        debug_assert!(self.at < self.size);
        // SAFETY: positions stay inside the ring.
        unsafe {
            self.desc.store64(at, addr, Relaxed);
            if first {
                self.first = second;
            } else {
                self.desc.store64(at + wire::DESC_LEN_OFFSET, second, Relaxed);
            }
        }
        self.stay(1);
    }

    #[inline(always)]
    fn put_straight(&mut self, index: u16, addr: u64, len: u32, flags: u64, more: bool) {
        debug_assert!(self.at + index < self.size);
        let next = if more { word(0, 0, wire::DESC_NEXT) } else { 0 };
        let second = u64::from(len) | flags | next | self.bits;
        // SAFETY: the chain does not reach beyond the ring.
        unsafe {
            self.start.store64(wire::desc(index), addr, Relaxed);
            if index == 0 {
                self.first = second;
            } else {
                self.start.store64(wire::desc(index) + wire::DESC_LEN_OFFSET, second, Relaxed);
            }
        }
    }

    #[inline(always)]
    fn stay(&mut self, count: u16) {
        self.at += count;
        if self.at == self.size {
            rare();
            self.at = 0;
            self.bits ^= LAPS;
        }
    }
}

/// The length in a used descriptor's second word.
///
/// Without WRITE it is to be ignored (2.8.4). But QEMU never sets WRITE there and gives the length all the same,
/// and every other driver takes it: so it is taken if it can be true, and ignored, not an error, if it cannot.
#[inline(always)]
fn used_len(second: u64, meta: Meta) -> u32 {
    let (len, _, flags) = fields(second);
    if len > meta.writable {
        rare();
        return if flags & wire::DESC_WRITE == 0 { 0 } else { len };
    }
    len
}

fn table_word(len: u32, write: bool) -> u64 {
    word(len, 0, if write { wire::DESC_WRITE } else { 0 })
}

/// A packed ring whose chains come back in any order: free buffer ids are a private list.
pub(super) struct AnyOrder {
    shared: Shared,
    /// The id after each free one.
    links: Store<u16>,
    free_id: u16,
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
        let mut ring = Self { shared, links, free_id: 0 };
        ring.reset();
        ring
    }
}

impl Ring for AnyOrder {
    type Cursor = PackedCursor;

    #[inline(always)]
    fn room(&self) -> u16 {
        self.shared.free
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.shared.size - self.shared.next
    }

    #[inline(always)]
    fn start(&self) -> PackedCursor {
        self.shared.start(self.free_id)
    }

    fn abandon(&mut self, cursor: PackedCursor) {
        self.shared.abandon(cursor);
    }

    #[inline(always)]
    fn finish(&mut self, cursor: PackedCursor, descs: u16) {
        let id = usize::from(cursor.slot);
        debug_assert!(id < self.links.len());
        // SAFETY: ids, and so the links between them, stay below the size; there are as many links.
        self.free_id = unsafe { *self.links.get_unchecked(id) };
        self.shared.finish(&cursor, descs);
    }

    #[inline(always)]
    fn table_word(len: u32, write: bool, _: u16, _: bool) -> u64 {
        table_word(len, write)
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        self.shared.publish()
    }

    #[inline(always)]
    fn next_used(&mut self, metas: &[Meta], used: &mut UsedSlot) -> Found {
        let Some(second) = self.shared.used_word() else { return Found::Nothing };
        let slot = fields(second).1;
        let id = u32::from(slot);
        let Some(&meta) = metas.get(usize::from(slot)) else { return used.broken(Broken::UnknownId { id }) };
        if !self.shared.shows(meta.descs) {
            return used.broken(Broken::NotInFlight { id });
        }
        used.found(slot, used_len(second, meta), meta)
    }

    #[inline(always)]
    fn release(&mut self, slot: u16, meta: Meta) {
        debug_assert!(usize::from(slot) < self.links.len());
        // SAFETY: the slot is one of this queue's; there are as many links.
        unsafe { *self.links.get_unchecked_mut(usize::from(slot)) = self.free_id };
        self.free_id = slot;
        self.shared.release(meta.descs);
    }

    fn has_used(&self) -> bool {
        self.shared.used_word().is_some()
    }

    fn disable_callbacks(&mut self) {
        self.shared.disable_callbacks();
    }

    fn enable_callbacks(&mut self) -> bool {
        self.shared.enable_callbacks(|| self.shared.used_word().is_some())
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn reset(&mut self) {
        self.shared.reset();
        let size = self.shared.size;
        self.links.iter_mut().zip(1..).for_each(|(link, next)| *link = if next < size { next } else { 0 });
        self.free_id = 0;
    }
}

/// A packed ring used in order (2.8.8): a chain's id is the position of its first descriptor.
pub(super) struct InOrder {
    shared: Shared,
    /// Second word of the used descriptor that is being handed out, which may stand for several chains.
    batch: Option<u64>,
}

impl InOrder {
    /// # Safety
    ///
    /// As for [`Shared::new`].
    pub(super) unsafe fn new(areas: [Area; 3], size: u16, event_idx: bool, barriers: Barriers) -> Self {
        // SAFETY: the caller's promise.
        Self { shared: unsafe { Shared::new(areas, size, event_idx, barriers) }, batch: None }
    }
}

impl Ring for InOrder {
    type Cursor = PackedCursor;

    #[inline(always)]
    fn room(&self) -> u16 {
        self.shared.free
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.shared.size - self.shared.next
    }

    #[inline(always)]
    fn start(&self) -> PackedCursor {
        self.shared.start(self.shared.next)
    }

    fn abandon(&mut self, cursor: PackedCursor) {
        self.shared.abandon(cursor);
    }

    #[inline(always)]
    fn finish(&mut self, cursor: PackedCursor, descs: u16) {
        self.shared.finish(&cursor, descs);
    }

    #[inline(always)]
    fn table_word(len: u32, write: bool, _: u16, _: bool) -> u64 {
        table_word(len, write)
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        self.shared.publish()
    }

    /// One used descriptor may end a batch: the chains before the one it names count as used to the full.
    /// It stands where the first chain of the batch was (2.8.8).
    #[inline(always)]
    fn next_used(&mut self, metas: &[Meta], used: &mut UsedSlot) -> Found {
        let second = match self.batch {
            Some(batch) => batch,
            None => match self.shared.used_word() {
                Some(second) => second,
                None => return Found::Nothing,
            },
        };
        let id = fields(second).1;
        let slot = self.shared.taken;
        let Some(&meta) = metas.get(usize::from(slot)) else {
            return used.broken(Broken::UnknownId { id: id.into() });
        };
        if !self.shared.shows(meta.descs) {
            return used.broken(Broken::NotInFlight { id: id.into() });
        }
        if id == slot {
            self.batch = None;
            return used.found(slot, used_len(second, meta), meta);
        }
        if self.batch.is_none() {
            // Once per batch: the chain that ends it must be in flight, or the walk would take all of them.
            let Some(last) = metas.get(usize::from(id)) else {
                return used.broken(Broken::UnknownId { id: id.into() });
            };
            if last.descs == 0 {
                return used.broken(Broken::NotInFlight { id: id.into() });
            }
            self.batch = Some(second);
        }
        used.found(slot, meta.writable, meta)
    }

    #[inline(always)]
    fn release(&mut self, _: u16, meta: Meta) {
        self.shared.release(meta.descs);
    }

    fn has_used(&self) -> bool {
        self.batch.is_some() || self.shared.used_word().is_some()
    }

    fn disable_callbacks(&mut self) {
        self.shared.disable_callbacks();
    }

    fn enable_callbacks(&mut self) -> bool {
        self.shared.enable_callbacks(|| self.has_used())
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn reset(&mut self) {
        self.shared.reset();
        self.batch = None;
    }
}
