//! Undoing the take of a chain whose work has not begun.

use super::super::chain::Chain;
use super::super::ring::Ring;
use super::super::slots::Slots;
use super::{Layout, Order, Queue, State};

impl Queue {
    /// Undoes the take of the chain that was taken last: the ring stands where it stood before, and the next
    /// [`take`](Self::take) finds the chain again. After that the one taken before it is the last, so a device
    /// that stops can put back all that it has not worked on, newest first. What was written to the chain stays
    /// in its buffers; the driver is told nothing of it.
    ///
    /// The chain comes back if it is of another queue, if one taken after it was not put back, or if the queue
    /// was stopped or is broken.
    pub fn put_back(&mut self, mut chain: Chain) -> Result<(), Chain> {
        if self.state != State::Running || !self.owns(&chain) {
            return Err(chain);
        }
        let descs = chain.slot().descs;
        with_ring!(&mut self.ring, ring => {
            if !with_slots!(&mut self.order, slots => slots.put_back(chain.0, ring)) {
                return Err(chain);
            }
            ring.step_back(descs);
        });
        self.in_flight -= 1;
        self.renew(&mut chain);
        Ok(())
    }
}
