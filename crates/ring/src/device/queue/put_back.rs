//! Undoing the take of a chain whose work has not begun.

use super::super::chain::{Chain, SlotCell};
use super::super::ring::Ring;
use super::{Kind, Order, Queue, State};

impl Queue {
    /// Undoes the take of the chain that was taken last: the ring stands where it stood before, and the next
    /// [`take`](Self::take) finds the chain again. After that the one taken before it is the last, so a device
    /// that stops can put back all that it has not worked on, newest first. What was written to the chain stays
    /// in its buffers; the driver is told nothing of it.
    ///
    /// The chain comes back if it is of another queue, if one taken after it was not put back, or if the queue
    /// was stopped or is broken.
    pub fn put_back(&mut self, chain: Chain) -> Result<(), Chain> {
        let offset = (chain.0.as_ptr() as usize).wrapping_sub(self.slots.as_ptr() as usize);
        let index = offset / size_of::<SlotCell>();
        if self.state != State::Running || index >= self.slots.len() {
            return Err(chain);
        }
        let (id, descs, epoch) = (chain.slot().id, chain.slot().descs, chain.slot().epoch);
        match &mut self.order {
            // A driver that uses an id twice, or rewrites its ring, can pass an older chain off as the last. It
            // gets the same number of descriptors back, so only what it wrote itself is confused.
            Order::Any(free) => {
                if with_ring!(&self.ring, r => r.last_id()) != id {
                    return Err(chain);
                }
                self.marks[usize::from(*free)] = index as u16;
                *free += 1;
            }
            // Slots follow the ring, so the number tells.
            Order::Ring { next, occupied, .. } => {
                let last = next.checked_sub(1).unwrap_or(self.config.size - 1);
                if index != usize::from(last) {
                    return Err(chain);
                }
                *next = last;
                *occupied -= 1;
            }
        }
        with_ring!(&mut self.ring, r => r.step_back(descs));
        self.in_flight -= 1;
        if epoch != self.epoch {
            self.unpin();
        }
        Ok(())
    }
}
