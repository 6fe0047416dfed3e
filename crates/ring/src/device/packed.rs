//! Packed rings (2.8), device's side.

use super::chain::Slot;
use super::error::BadChain;
use super::queue::{Config, Position};
use super::resume::{Again, Raw};
use super::ring::{Quick, Ring, Taken, UsedEntry};
use super::walk::{FEW, Pass, WORD, Walk};
use crate::mem::Translation;
use crate::notify::{Barriers, need_event, publish_then_look};
use crate::words::{Area, fields, rare, word};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use virtio_kit_spec::packed as wire;

/// Both lap bits, in a descriptor's second word; a lap around the ring flips them.
const LAPS: u64 = AVAIL | USED;
const AVAIL: u64 = (wire::DESC_AVAIL as u64) << 48;
const USED: u64 = (wire::DESC_USED as u64) << 48;
const WRITE: u64 = (wire::DESC_WRITE as u64) << 48;

/// The same in its upper half, the word that a pass looks at.
const WORD_LAPS: u32 = (LAPS >> 32) as u32;

pub(super) struct Packed {
    desc: Area,
    driver: Area,
    device: Area,
    size: u16,
    /// The last position from which a few descriptors do not go round the end.
    few_from_end: u16,
    event_idx: bool,
    indirect: bool,
    barriers: Barriers,
    /// Descriptors that the driver can have made available: those that are not taken.
    free: u16,
    /// Descriptors that were taken before this ring's life, and may be taken again.
    again: u16,
    /// Where the next chain will be, and the bits that make a descriptor available there.
    next: u16,
    lap: u64,
    /// Where the next used descriptor goes, and the bits that mark it used and written to.
    used_next: u16,
    used_lap: u64,
    /// Ring descriptors that were marked used since the last publish.
    pending: u16,
    /// There are some. The first used descriptor of these alone holds all of them back.
    holds: bool,
    held_at: u16,
    held: u64,
}

impl Packed {
    /// # Safety
    ///
    /// The areas must be those of a packed ring of the configured size, and stay valid for as long as the
    /// value is used. Both positions must be inside the ring.
    pub(super) unsafe fn new(
        [desc, driver, device]: [Area; 3],
        &Config { size, event_idx, indirect, barriers, .. }: &Config,
        position: Position,
    ) -> Self {
        let Position { next, next_wrap, used, used_wrap } = position;
        let ahead = if next_wrap == used_wrap { next.wrapping_sub(used) } else { next + (size - used) };
        Self {
            desc,
            driver,
            device,
            size,
            few_from_end: size.saturating_sub(FEW),
            event_idx,
            indirect,
            barriers,
            free: size - ahead,
            again: ahead,
            next,
            lap: if next_wrap { AVAIL } else { USED },
            used_next: used,
            used_lap: if used_wrap { LAPS | WRITE } else { WRITE },
            pending: 0,
            holds: false,
            held_at: 0,
            held: 0,
        }
    }

    #[inline(always)]
    fn second(&self, at: u16) -> u64 {
        debug_assert!(at < self.size);
        // SAFETY: positions kept here are inside the ring.
        unsafe { self.desc.load64(wire::desc(at) + wire::DESC_LEN_OFFSET, Acquire) }
    }

    #[inline(always)]
    fn addr(&self, at: u16) -> u64 {
        debug_assert!(at < self.size);
        // SAFETY: positions kept here are inside the ring.
        unsafe { self.desc.load64(wire::desc(at), Relaxed) }
    }

    /// The wrap counter of used descriptors.
    fn used_wrap(&self) -> bool {
        self.used_lap & LAPS != 0
    }

    /// The position `by` after `at`, and the lap bits there.
    #[inline(always)]
    fn after(&self, at: u16, by: u16, lap: u64) -> (u16, u64) {
        let (sum, size) = (u32::from(at) + u32::from(by), u32::from(self.size));
        if sum >= size {
            rare();
            return ((sum - size) as u16, lap ^ LAPS);
        }
        (sum as u16, lap)
    }
}

impl Ring for Packed {
    #[inline(always)]
    unsafe fn take_quickly(&mut self, recent: &Translation, slot: &mut Slot) -> Quick {
        // Flags are looked at with the bits that make a descriptor available as 0.
        let (next, lap) = (self.next, (self.lap >> 32) as u32);
        // SAFETY: a position of the ring.
        let desc = unsafe { self.desc.from(wire::desc(next)) };
        let find = |index: u16| {
            debug_assert!(next + index < self.size);
            // SAFETY: inside the ring.
            unsafe {
                let at = desc.from(wire::desc(index));
                (at, at.load32(WORD, Acquire) ^ lap)
            }
        };
        if next > self.few_from_end {
            // The chain may go round the end.
            rare();
            return Quick::Rare;
        }
        let first = find(0);
        let fetch = |index, _| Some(find(index));
        let id = |word| word as u16;
        // SAFETY: the caller's promise, and a few from there on are in the ring.
        if unsafe { Pass::<16, WORD_LAPS>::chain(recent, slot, first, fetch, id) }.is_none() {
            return if first.1 & WORD_LAPS == 0 { Quick::Rare } else { Quick::Nothing };
        }
        let (free, over) = self.free.overflowing_sub(slot.descs);
        if over {
            rare();
            return Quick::Rare;
        }
        self.free = free;
        self.next = next + slot.descs;
        if self.next == self.size {
            rare();
            (self.next, self.lap) = (0, self.lap ^ LAPS);
        }
        Quick::Taken
    }

    #[inline]
    fn take(&mut self, walk: &mut Walk<'_>) -> Result<Option<Taken>, BadChain> {
        let mut second = self.second(self.next);
        let (mut at, mut lap) = (self.next, self.lap);
        let mut descs = 0;
        let (mut len, mut id, mut flags) = fields(second);
        if second & LAPS != lap {
            return Ok(None);
        }
        self.barriers.after_observe();
        let free = self.free;
        loop {
            if descs == free {
                return Err(BadChain::Overrun);
            }
            descs += 1;
            let addr = self.addr(at);
            (at, lap) = self.after(at, 1, lap);
            if flags & wire::DESC_INDIRECT != 0 {
                // Direct and indirect descriptors do not mix in one list (2.8.7).
                if !self.indirect || descs != 1 || flags & wire::DESC_NEXT != 0 {
                    return Err(BadChain::BadIndirect);
                }
                walk.table(addr, len, true)?;
                break;
            }
            walk.buffer(addr, len, flags)?;
            if flags & wire::DESC_NEXT == 0 {
                break;
            }
            second = self.second(at);
            (len, id, flags) = fields(second);
            if second & LAPS != lap {
                // The head was available, so all of its chain had to be.
                return Err(BadChain::Overrun);
            }
        }
        self.free -= descs;
        (self.next, self.lap) = (at, lap);
        Ok(Some(Taken { id, descs }))
    }

    fn take_again(&mut self, again: &Again<'_>, walk: &mut Walk<'_>) -> Result<Taken, BadChain> {
        let Again::Descriptors { id, list } = *again else { return Err(BadChain::Loop) };
        for raw in list {
            if raw.flags & wire::DESC_INDIRECT != 0 {
                if !self.indirect || list.len() != 1 {
                    return Err(BadChain::BadIndirect);
                }
                walk.table(raw.addr, raw.len, true)?;
            } else {
                walk.buffer(raw.addr, raw.len, raw.flags)?;
            }
        }
        // Not more together than the position has counted as taken, or used ones would not add up.
        let descs = u16::try_from(list.len()).ok().filter(|descs| *descs <= self.again);
        let descs = descs.ok_or(BadChain::Overrun)?;
        self.again -= descs;
        Ok(Taken { id, descs })
    }

    fn raw(&self, at: u16) -> Option<Raw> {
        if at >= self.size {
            return None;
        }
        let (len, id, flags) = fields(self.second(at));
        Some(Raw { addr: self.addr(at), len, id, flags })
    }

    fn forget_unpublished(&mut self) {
        let (mut at, mut lap) = (self.used_next, self.used_lap & LAPS);
        for _ in 0..self.size - self.free {
            // As the driver makes one available in this lap, which is not used.
            let available = if lap == LAPS { AVAIL } else { USED };
            let second = self.second(at) & !LAPS | available;
            // SAFETY: positions kept here are inside the ring.
            unsafe { self.desc.store64(wire::desc(at) + wire::DESC_LEN_OFFSET, second, Relaxed) };
            (at, lap) = self.after(at, 1, lap);
        }
    }

    fn last_id(&self) -> u16 {
        // The last descriptor of a chain has the id (2.8.6).
        fields(self.second(self.next.checked_sub(1).unwrap_or(self.size - 1))).1
    }

    fn step_back(&mut self, descs: u16) {
        if self.next < descs {
            self.next += self.size;
            self.lap ^= LAPS;
        }
        self.next -= descs;
        self.free += descs;
    }

    #[inline(always)]
    fn put_used(&mut self, entry: UsedEntry, _: u16, descs: u16) {
        let mut second = word(entry.written, entry.id, 0) | self.used_lap;
        if entry.written == 0 {
            // Nothing was written, so the length is none (2.8.4).
            rare();
            second ^= WRITE;
        }
        let at = self.used_next;
        if self.holds {
            // SAFETY: positions kept here are inside the ring.
            unsafe { self.desc.store64(wire::desc(at) + wire::DESC_LEN_OFFSET, second, Relaxed) };
        } else {
            // Once for a batch.
            rare();
            (self.holds, self.held_at, self.held) = (true, at, second);
        }
        // As many as are not free, at most.
        self.pending += descs;
        self.used_next = at + descs;
        if self.used_next >= self.size {
            rare();
            self.used_next -= self.size;
            self.used_lap ^= LAPS;
        }
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        if !core::mem::take(&mut self.holds) {
            return false;
        }
        let pending = core::mem::take(&mut self.pending);
        self.free += pending;
        self.barriers.before_publish();
        publish_then_look(
            &self.barriers,
            || {
                // SAFETY: positions kept here are inside the ring.
                unsafe {
                    self.desc.store64(wire::desc(self.held_at) + wire::DESC_LEN_OFFSET, self.held, Release)
                }
            },
            || {
                // SAFETY: the one word of the driver area.
                let suppress = unsafe { self.driver.load32(0, Relaxed) };
                let (event, flags) = (suppress as u16, (suppress >> 16) as u16);
                match flags & wire::EVENT_FLAGS_MASK {
                    wire::EVENT_DISABLE => false,
                    wire::EVENT_DESC if self.event_idx => {
                        let (position, wrap) = wire::event_pos(event);
                        let lap_differs = wrap != self.used_wrap();
                        let event = if lap_differs { position.wrapping_sub(self.size) } else { position };
                        need_event(event, self.used_next, self.used_next.wrapping_sub(pending))
                    }
                    _ => true,
                }
            },
        )
    }

    fn has_available(&self) -> bool {
        self.second(self.next) & LAPS == self.lap
    }

    fn disable_notifications(&mut self) {
        // SAFETY: the one word of the device area.
        unsafe { self.device.store32(0, u32::from(wire::EVENT_DISABLE) << 16, Relaxed) };
    }

    fn enable_notifications(&mut self) -> bool {
        let position = u32::from(wire::event_word(self.next, self.lap == AVAIL));
        let flags = if self.event_idx { wire::EVENT_DESC } else { wire::EVENT_ENABLE };
        publish_then_look(
            &self.barriers,
            // SAFETY: the one word of the device area.
            || unsafe { self.device.store32(0, position | u32::from(flags) << 16, Relaxed) },
            || self.has_available(),
        )
    }

    fn position(&self) -> Position {
        Position {
            next: self.next,
            next_wrap: self.lap == AVAIL,
            used: self.used_next,
            used_wrap: self.used_wrap(),
        }
    }
}
