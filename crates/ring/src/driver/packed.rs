//! Packed rings (2.8), driver's side.

use super::error::Broken;
use super::queue::Position;
use super::ring::{Cursor, Found, Meta, Ring, UsedSlot};
use crate::notify::{Barriers, need_event, publish_then_look};
use crate::words::{Area, rare, word};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use virtio_kit_spec::packed as wire;

/// Where a descriptor has its id and its flags.
const WORD: usize = wire::DESC_LEN_OFFSET + 4;

/// Both lap bits, in that word; a lap around the ring flips them.
const LAPS: u32 = AVAIL | USED;
const AVAIL: u32 = (wire::DESC_AVAIL as u32) << 16;
const USED: u32 = (wire::DESC_USED as u32) << 16;

/// The shared areas and the two positions: what any order of use needs.
pub(super) struct Shared {
    desc: Area,
    driver: Area,
    device: Area,
    size: u16,
    event_idx: bool,
    barriers: Barriers,
    /// Free descriptors before the ring goes round, or fewer.
    straight: u16,
    /// Where the next chain goes, and the bits that make a descriptor available there.
    next: u16,
    lap: u32,
    /// Descriptors in flight that the device was shown.
    shown: u16,
    /// Descriptors added since the last publish.
    pending: u16,
    /// There are some. The last word of the first of them alone holds all of them back.
    holds: bool,
    held_at: u16,
    held: u32,
    /// Where the next used descriptor will be, and the bits that mark it used.
    taken: u16,
    used_lap: u32,
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
            straight: size,
            next: 0,
            lap: AVAIL,
            shown: 0,
            pending: 0,
            holds: false,
            held_at: 0,
            held: 0,
            taken: 0,
            used_lap: LAPS,
        }
    }

    /// Free descriptors.
    #[inline(always)]
    fn room(&self) -> u16 {
        self.size - self.shown - self.pending
    }

    fn stretch(&mut self) {
        self.straight = self.room().min(self.size - self.next);
    }

    #[inline(always)]
    fn start(&self, slot: u16) -> PackedCursor {
        let bits = u32::from(slot) | self.lap;
        debug_assert!(self.next < self.size);
        // SAFETY: a position of the ring.
        let start = unsafe { self.desc.from(wire::desc(self.next)) };
        PackedCursor { desc: self.desc, start, size: self.size, slot, at: self.next, bits, first: 0 }
    }

    /// Makes what `put` wrote unavailable again, so that a shorter chain in its place does not expose it.
    fn abandon(&mut self, descs: u16) {
        for at in self.next..self.next + descs {
            debug_assert!(at < self.size);
            // SAFETY: the chain did not reach beyond the ring.
            unsafe { self.desc.store32(wire::desc(at) + WORD, self.lap ^ LAPS, Relaxed) };
        }
    }

    #[inline(always)]
    fn finish(&mut self, cursor: &PackedCursor, descs: u16) {
        let at = self.next;
        if self.holds {
            // SAFETY: the chain's first descriptor.
            unsafe { cursor.start.store32(WORD, cursor.first, Relaxed) };
        } else {
            // Once for a batch.
            rare();
            (self.holds, self.held_at, self.held) = (true, at, cursor.first);
        }
        self.pending += descs;
        // A chain that did not go straight is followed by `stretch`.
        self.straight = self.straight.wrapping_sub(descs);
        self.next = at + descs;
        if self.next >= self.size {
            rare();
            self.next -= self.size;
            self.lap ^= LAPS;
        }
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        if !core::mem::take(&mut self.holds) {
            return false;
        }
        let pending = core::mem::take(&mut self.pending);
        self.shown += pending;
        self.barriers.before_publish();
        publish_then_look(
            &self.barriers,
            || {
                // SAFETY: inside the ring.
                unsafe { self.desc.store32(wire::desc(self.held_at) + WORD, self.held, Release) }
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

    /// Length, and the word of id and flags, of the descriptor at `taken`, if that is a used one.
    #[inline(always)]
    fn used_entry(&self) -> Option<(u32, u32)> {
        let at = wire::desc(self.taken);
        // SAFETY: inside the ring.
        unsafe {
            let word = self.desc.load32(at + WORD, Acquire);
            if (word ^ self.used_lap) & LAPS != 0 {
                return None;
            }
            self.barriers.after_observe();
            Some((self.desc.load32(at + wire::DESC_LEN_OFFSET, Relaxed), word))
        }
    }

    /// Whether a chain of `descs` descriptors may be used: it is in flight, and the device was shown so many.
    #[inline(always)]
    fn shows(&self, descs: u16) -> bool {
        descs.wrapping_sub(1) < self.shown
    }

    #[inline(always)]
    fn release(&mut self, descs: u16) {
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
        (self.straight, self.next, self.lap, self.shown, self.pending) = (self.size, 0, AVAIL, 0, 0);
        self.holds = false;
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
    /// Buffer id and lap bits, where they are in a descriptor's last word.
    bits: u32,
    /// Last word of the chain's first descriptor, which is written after all others.
    first: u32,
}

impl PackedCursor {
    /// Writes a descriptor, all but the last word if it is the chain's first.
    ///
    /// # Safety
    ///
    /// `desc` must be a descriptor of the ring.
    #[inline(always)]
    unsafe fn store(&mut self, desc: Area, addr: u64, len: u32, flags: u16, first: bool, more: bool) {
        let next = if more { wire::DESC_NEXT } else { 0 };
        let word = self.bits | u32::from(flags | next) << 16;
        // SAFETY: the caller's promise.
        unsafe {
            desc.store64(0, addr, Relaxed);
            desc.store32(wire::DESC_LEN_OFFSET, len, Relaxed);
            if first {
                self.first = word;
            } else {
                desc.store32(WORD, word, Relaxed);
            }
        }
    }
}

impl Cursor for PackedCursor {
    #[inline(always)]
    fn slot(&self) -> u16 {
        self.slot
    }

    #[inline(always)]
    fn link(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn put(&mut self, addr: u64, len: u32, flags: u16, first: bool, more: bool) {
        debug_assert!(self.at < self.size);
        // SAFETY: positions stay inside the ring.
        let desc = unsafe { self.desc.from(wire::desc(self.at)) };
        // SAFETY: a descriptor of the ring.
        unsafe { self.store(desc, addr, len, flags, first, more) };
        self.at += 1;
        if self.at == self.size {
            self.at = 0;
            self.bits ^= LAPS;
        }
    }

    #[inline(always)]
    fn put_straight(&mut self, index: u16, addr: u64, len: u32, flags: u16, more: bool) {
        debug_assert!(self.at + index < self.size);
        // SAFETY: the chain does not reach beyond the ring.
        unsafe {
            let desc = self.start.from(wire::desc(index));
            self.store(desc, addr, len, flags, index == 0, more);
        }
    }
}

/// Whether a used descriptor leaves the length out: without WRITE it is to be ignored (2.8.4). But QEMU never sets
/// WRITE there and gives the length all the same, and every other driver takes it: so it is taken if it can be true,
/// and ignored, not an error, if it cannot.
#[inline(always)]
fn no_len(word: u32) -> bool {
    word & u32::from(wire::DESC_WRITE) << 16 == 0
}

fn table_word(len: u32, write: bool) -> u64 {
    word(len, 0, if write { wire::DESC_WRITE } else { 0 })
}

/// A packed ring whose chains come back in any order: free buffer ids are a private list.
pub(super) struct AnyOrder {
    shared: Shared,
    free_id: u16,
}

impl AnyOrder {
    /// # Safety
    ///
    /// As for [`Shared::new`].
    pub(super) unsafe fn new(areas: [Area; 3], size: u16, event_idx: bool, barriers: Barriers) -> Self {
        // SAFETY: the caller's promise.
        Self { shared: unsafe { Shared::new(areas, size, event_idx, barriers) }, free_id: 0 }
    }
}

impl Ring for AnyOrder {
    type Cursor = PackedCursor;

    #[inline(always)]
    fn room(&self) -> u16 {
        self.shared.room()
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.shared.straight
    }

    fn stretch(&mut self) {
        self.shared.stretch();
    }

    #[inline(always)]
    fn start(&self) -> PackedCursor {
        self.shared.start(self.free_id)
    }

    fn abandon(&mut self, _: PackedCursor, descs: u16) {
        self.shared.abandon(descs);
    }

    #[inline(always)]
    fn finish(&mut self, cursor: PackedCursor, descs: u16, link: u16) {
        self.free_id = link;
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
        let Some((len, word)) = self.shared.used_entry() else { return Found::Nothing };
        let slot = word as u16;
        let id = u32::from(slot);
        let Some(&meta) = metas.get(usize::from(slot)) else { return used.broken(Broken::UnknownId { id }) };
        if !self.shared.shows(meta.descs) {
            return used.broken(Broken::NotInFlight { id });
        }
        used.no_len = no_len(word);
        used.found(slot, len, meta)
    }

    #[inline(always)]
    fn release(&mut self, slot: u16, meta: Meta, link: &mut u16) {
        self.shared.release(meta.descs);
        *link = core::mem::replace(&mut self.free_id, slot);
    }

    fn has_used(&self) -> bool {
        self.shared.used_entry().is_some()
    }

    fn disable_callbacks(&mut self) {
        self.shared.disable_callbacks();
    }

    fn enable_callbacks(&mut self) -> bool {
        self.shared.enable_callbacks(|| self.shared.used_entry().is_some())
    }

    fn position(&self) -> Position {
        self.shared.position()
    }

    fn reset(&mut self, metas: &mut [Meta]) {
        self.shared.reset();
        let size = self.shared.size;
        metas.iter_mut().zip(1..).for_each(|(meta, next)| meta.link = if next < size { next } else { 0 });
        self.free_id = 0;
    }
}

/// A packed ring used in order (2.8.8): a chain's id is the position of its first descriptor.
pub(super) struct InOrder {
    shared: Shared,
    /// Length and last word of the used descriptor that is being handed out, which may stand for several chains.
    batch: Option<(u32, u32)>,
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
        self.shared.room()
    }

    #[inline(always)]
    fn straight(&self) -> u16 {
        self.shared.straight
    }

    fn stretch(&mut self) {
        self.shared.stretch();
    }

    #[inline(always)]
    fn start(&self) -> PackedCursor {
        self.shared.start(self.shared.next)
    }

    fn abandon(&mut self, _: PackedCursor, descs: u16) {
        self.shared.abandon(descs);
    }

    #[inline(always)]
    fn finish(&mut self, cursor: PackedCursor, descs: u16, _: u16) {
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
        let (len, word) = match self.batch {
            Some(batch) => batch,
            None => match self.shared.used_entry() {
                Some(entry) => entry,
                None => return Found::Nothing,
            },
        };
        let id = word as u16;
        let slot = self.shared.taken;
        let Some(&meta) = metas.get(usize::from(slot)) else {
            return used.broken(Broken::UnknownId { id: id.into() });
        };
        if !self.shared.shows(meta.descs) {
            return used.broken(Broken::NotInFlight { id: id.into() });
        }
        if id == slot {
            self.batch = None;
            used.no_len = no_len(word);
            return used.found(slot, len, meta);
        }
        if self.batch.is_none() {
            // Once per batch: the chain that ends it must be in flight, or the walk would take all of them.
            let Some(last) = metas.get(usize::from(id)) else {
                return used.broken(Broken::UnknownId { id: id.into() });
            };
            if last.descs == 0 {
                return used.broken(Broken::NotInFlight { id: id.into() });
            }
            self.batch = Some((len, word));
        }
        used.found(slot, meta.writable, meta)
    }

    #[inline(always)]
    fn release(&mut self, _: u16, meta: Meta, _: &mut u16) {
        self.shared.release(meta.descs);
    }

    fn has_used(&self) -> bool {
        self.batch.is_some() || self.shared.used_entry().is_some()
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

    fn reset(&mut self, _: &mut [Meta]) {
        self.shared.reset();
        self.batch = None;
    }
}
