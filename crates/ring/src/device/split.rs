//! Split rings (2.7), device's side.

use super::chain::Slot;
use super::error::BadChain;
use super::queue::{Config, Position};
use super::resume::{Again, Raw};
use super::ring::{Quick, Ring, Taken, UsedEntry};
use super::walk::{Pass, WORD, Walk};
use crate::mem::Translation;
use crate::notify::{Barriers, need_event, publish_then_look};
use crate::words::{Area, fields};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use virtio_kit_spec::split as wire;

pub(super) struct Split {
    desc: Area,
    avail: Area,
    used: Area,
    mask: u16,
    event_idx: bool,
    indirect: bool,
    barriers: Barriers,
    /// Next entry of the available ring.
    next: u16,
    /// What the driver has shown, as last read.
    seen: u16,
    /// Next entry of the used ring.
    used_next: u16,
    /// What the driver has been shown of `used_next`.
    published: u16,
}

impl Split {
    /// # Safety
    ///
    /// The areas must be those of a split ring of the configured size, a power of two, and stay valid for as
    /// long as the value is used.
    pub(super) unsafe fn new(
        [desc, avail, used]: [Area; 3],
        &Config { size, event_idx, indirect, barriers, .. }: &Config,
        position: Position,
    ) -> Self {
        let (next, used_next) = (position.next, position.used);
        Self {
            desc,
            avail,
            used,
            mask: size - 1,
            event_idx,
            indirect,
            barriers,
            next,
            seen: next,
            used_next,
            published: used_next,
        }
    }

    #[inline(always)]
    fn index(&self) -> u16 {
        // SAFETY: a header word.
        unsafe { self.avail.load16(wire::AVAIL_IDX, Acquire) }
    }

    /// Whether the driver has shown more than was known.
    #[inline]
    fn look(&mut self) -> Result<bool, BadChain> {
        let index = self.index();
        if index == self.seen {
            return Ok(false);
        }
        // Every chain takes a descriptor, so those in flight and those available fit the queue. The sum would
        // not do: it hides an index that went back among those in flight.
        let by = index.wrapping_sub(self.next);
        let in_flight = self.next.wrapping_sub(self.used_next);
        if by > self.mask + 1 - in_flight {
            return Err(BadChain::IndexJump { by });
        }
        self.barriers.after_observe();
        self.seen = index;
        Ok(true)
    }

    /// Address and second word of a descriptor.
    ///
    /// # Safety
    ///
    /// `at` must be inside the table.
    #[inline(always)]
    unsafe fn descriptor(desc: Area, at: usize) -> (u64, u64) {
        let offset = at * size_of::<wire::Desc>();
        // SAFETY: the caller's promise.
        unsafe { (desc.load64(offset, Relaxed), desc.load64(offset + 8, Relaxed)) }
    }
}

impl Split {
    /// Walks the chain that begins at `head`.
    #[inline(always)]
    fn walk(&self, head: u16, walk: &mut Walk<'_>) -> Result<Taken, BadChain> {
        let mut at = head;
        let mut descs = 0;
        loop {
            if at > self.mask {
                return Err(BadChain::BadIndex { index: at });
            }
            if descs > self.mask {
                return Err(BadChain::Loop);
            }
            descs += 1;
            // SAFETY: inside the table.
            let (addr, second) = unsafe { Self::descriptor(self.desc, at.into()) };
            let (len, flags, next) = fields(second);
            if flags & wire::DESC_INDIRECT != 0 {
                if !self.indirect || flags & wire::DESC_NEXT != 0 {
                    return Err(BadChain::BadIndirect);
                }
                walk.table(addr, len, false)?;
                break;
            }
            walk.buffer(addr, len, flags)?;
            if flags & wire::DESC_NEXT == 0 {
                break;
            }
            at = next;
        }
        Ok(Taken { id: head, descs })
    }
}

impl Ring for Split {
    #[inline(always)]
    unsafe fn take_quickly(&mut self, recent: &Translation, slot: &mut Slot) -> Quick {
        if self.next == self.seen {
            match self.look() {
                Ok(true) => {}
                Ok(false) => return Quick::Nothing,
                Err(_) => return Quick::Rare,
            }
        }
        // SAFETY: masked to the ring.
        let head = unsafe { self.avail.load16(wire::avail_entry(self.next & self.mask), Relaxed) };
        let (desc, mask) = (self.desc, self.mask);
        let find = |index: u16| {
            if index > mask {
                return None;
            }
            // SAFETY: inside the table.
            unsafe {
                let at = desc.from(usize::from(index) * size_of::<wire::Desc>());
                Some((at, at.load32(WORD, Relaxed)))
            }
        };
        let Some(first) = find(head) else { return Quick::Rare };
        let fetch = |_, before: u32| find((before >> 16) as u16);
        // SAFETY: the caller's promise, and descriptors of the table.
        if unsafe { Pass::<0, 0>::chain(recent, slot, first, fetch, |_| head) }.is_none() {
            return Quick::Rare;
        }
        self.next = self.next.wrapping_add(1);
        Quick::Taken
    }

    #[inline]
    fn take(&mut self, walk: &mut Walk<'_>) -> Result<Option<Taken>, BadChain> {
        if self.next == self.seen && !self.look()? {
            return Ok(None);
        }
        // SAFETY: masked to the ring.
        let head = unsafe { self.avail.load16(wire::avail_entry(self.next & self.mask), Relaxed) };
        let taken = self.walk(head, walk)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(taken))
    }

    fn take_again(&mut self, again: &Again<'_>, walk: &mut Walk<'_>) -> Result<Taken, BadChain> {
        match *again {
            Again::Head(head) => self.walk(head, walk),
            Again::Descriptors { id, .. } => Err(BadChain::BadIndex { index: id }),
        }
    }

    fn raw(&self, at: u16) -> Option<Raw> {
        if at > self.mask {
            return None;
        }
        // SAFETY: inside the table.
        let (addr, second) = unsafe { Self::descriptor(self.desc, at.into()) };
        let (len, flags, id) = fields(second);
        Some(Raw { addr, len, id, flags })
    }

    fn forget_unpublished(&mut self) {
        // Nobody looks at what lies beyond the used index.
    }

    fn last_id(&self) -> u16 {
        let entry = wire::avail_entry(self.next.wrapping_sub(1) & self.mask);
        // SAFETY: masked to the ring.
        unsafe { self.avail.load16(entry, Relaxed) }
    }

    fn step_back(&mut self, _: u16) {
        self.next = self.next.wrapping_sub(1);
    }

    #[inline(always)]
    fn put_used(&mut self, entry: UsedEntry, chains: u16, _: u16) {
        let offset = wire::used_entry(self.used_next & self.mask);
        // SAFETY: masked to the ring.
        unsafe {
            self.used.store32(offset, entry.id.into(), Relaxed);
            self.used.store32(offset + 4, entry.written, Relaxed);
        }
        self.used_next = self.used_next.wrapping_add(chains);
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.used_next);
        if old == new {
            return false;
        }
        self.published = new;
        self.barriers.before_publish();
        publish_then_look(
            &self.barriers,
            // SAFETY: a header word.
            || unsafe { self.used.store16(wire::USED_IDX, new, Release) },
            || {
                if self.event_idx {
                    // SAFETY: the word after the available ring.
                    let event = unsafe { self.avail.load16(wire::used_event(self.mask + 1), Relaxed) };
                    need_event(event, new, old)
                } else {
                    // SAFETY: a header word.
                    let flags = unsafe { self.avail.load16(wire::AVAIL_FLAGS, Relaxed) };
                    flags & wire::AVAIL_NO_INTERRUPT == 0
                }
            },
        )
    }

    fn has_available(&self) -> bool {
        self.next != self.seen || self.index() != self.seen
    }

    fn disable_notifications(&mut self) {
        if self.event_idx {
            // An index that the driver has passed: it comes round again only after 65535 more.
            let event = self.next.wrapping_sub(1);
            // SAFETY: the word after the used ring.
            unsafe { self.used.store16(wire::avail_event(self.mask + 1), event, Relaxed) };
        } else {
            // SAFETY: a header word.
            unsafe { self.used.store16(wire::USED_FLAGS, wire::USED_NO_NOTIFY, Relaxed) };
        }
    }

    fn enable_notifications(&mut self) -> bool {
        publish_then_look(
            &self.barriers,
            || {
                if self.event_idx {
                    let offset = wire::avail_event(self.mask + 1);
                    // SAFETY: the word after the used ring.
                    unsafe { self.used.store16(offset, self.next, Relaxed) };
                } else {
                    // SAFETY: a header word.
                    unsafe { self.used.store16(wire::USED_FLAGS, 0, Relaxed) };
                }
            },
            || self.has_available(),
        )
    }

    fn position(&self) -> Position {
        Position { next: self.next, next_wrap: false, used: self.used_next, used_wrap: false }
    }
}
