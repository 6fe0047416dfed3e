//! Going on with chains that another queue took and never used.

use super::super::chain::{Chain, SlotCell};
use super::super::error::BadChain;
use super::super::resume::{Again, Raw};
use super::super::ring::Ring;
use super::super::slots::Slots;
use super::super::walk::Walk;
use super::{Layout, Order, Position, Queue, State};

impl Queue {
    /// Takes a chain that a former queue of this ring took and never used, as its record says. The position that
    /// this queue was made with has to count it as taken.
    ///
    /// For all such chains in the order in which they were taken, before the first [`take`](Self::take). A bad one
    /// latches the queue.
    pub fn take_again(&mut self, again: &Again<'_>) -> Result<Chain, BadChain> {
        match self.state {
            State::Running => {}
            State::Broken(broken) => return Err(broken),
            State::Stopped => return Err(BadChain::Overrun),
        }
        let Some(cell) = with_slots!(&self.order, slots => slots.next()) else {
            return Err(self.latched(BadChain::Overrun));
        };
        // SAFETY: a free slot, so no chain points to it.
        let slot = unsafe { &mut *cell.as_ptr() };
        let table_limit = self.limit.max(self.config.size);
        let mut walk =
            Walk::new(&self.memory, &mut self.recent, &mut self.tables, slot, self.limit, table_limit);
        let taken = with_ring!(&mut self.ring, ring => ring.take_again(again, &mut walk));
        match taken.and_then(|taken| walk.finish().map(|()| taken)) {
            Ok(taken) => {
                (slot.id, slot.descs) = (taken.id, taken.descs);
                Ok(self.begin(cell))
            }
            Err(broken) => Err(self.latched(broken)),
        }
    }

    fn latched(&mut self, broken: BadChain) -> BadChain {
        let _ = self.latch(broken);
        broken
    }

    /// Takes back used entries that a former queue wrote into a packed ring and never published, before it died.
    /// They lie among the descriptors that are taken. The driver has not looked at them yet; once this queue uses
    /// an entry before them, it would.
    pub fn forget_unpublished(&mut self) {
        with_ring!(&mut self.ring, ring => ring.forget_unpublished());
    }

    /// Writes all used entries that the next [`publish`](Self::publish) will show: where the ring will stand.
    pub fn settle(&mut self) -> Position {
        with_ring!(&mut self.ring, ring => with_slots!(&mut self.order, slots => slots.flush(ring)));
        self.position()
    }

    /// A number of a chain in flight that no other chain in flight has, below the queue's size; `None` if it is not
    /// of this queue. A driver may use an id twice, but not this.
    pub fn slot_of(&self, chain: &Chain) -> Option<u16> {
        let offset = chain.0.addr().get().wrapping_sub(self.slots.as_ptr().addr());
        self.owns(chain).then_some((offset / size_of::<SlotCell>()) as u16)
    }

    /// A descriptor as it stands in the ring: at a position of a packed one, at an index of a split one's table.
    pub fn raw(&self, at: u16) -> Option<Raw> {
        with_ring!(&self.ring, ring => ring.raw(at))
    }
}
