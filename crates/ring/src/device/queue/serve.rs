//! Many chains at once.

use super::super::chain::Chain;
use super::super::error::ServeError;
use super::super::ring::{Quick, Ring};
use super::super::slots::Slots;
use super::{Layout, Order, Queue};

/// What is done with the chains of [`Queue::serve`]. A closure will do.
pub trait Server {
    /// Whether another chain is wanted now.
    fn wants(&self) -> bool {
        true
    }
    /// Does the work of a chain, and gives it back if it is done. What is kept is completed later, with
    /// [`Queue::complete`].
    fn serve(&mut self, chain: Chain) -> Option<Chain>;
}

impl<F: FnMut(Chain) -> Option<Chain>> Server for F {
    #[inline(always)]
    fn serve(&mut self, chain: Chain) -> Option<Chain> {
        self(chain)
    }
}

/// Why a run of common chains ended.
enum End {
    /// As many as were asked for, or there are no more.
    Enough,
    /// The next one takes a closer look.
    Closer,
    /// A chain came back that is not to be completed in the common way.
    Other(Chain),
}

impl Queue {
    /// Takes up to `max` chains, as long as `server` wants more, hands each to it, and completes what it gives back:
    /// how many were taken.
    ///
    /// The layout is matched once for many. After an error, what was taken before stays taken and completed; the
    /// first call that finds the error says how many these were, and the next one says the error.
    #[inline]
    pub fn serve(&mut self, max: usize, mut server: impl Server) -> Result<usize, ServeError> {
        let mut got = 0;
        while got < max && server.wants() {
            let chain = match self.serve_common(max, &mut got, &mut server) {
                End::Enough => break,
                End::Other(chain) => Some(chain),
                End::Closer => match self.take_otherwise() {
                    Ok(Some(chain)) => {
                        got += 1;
                        server.serve(chain)
                    }
                    Ok(None) => break,
                    Err(_) if got > 0 => break,
                    Err(broken) => return Err(ServeError::Broken(broken)),
                },
            };
            if let Some(chain) = chain {
                self.complete(chain).map_err(ServeError::Foreign)?;
            }
        }
        Ok(got)
    }

    /// Serves chains as long as nothing rare comes up, and counts on.
    #[inline(always)]
    fn serve_common(&mut self, max: usize, got: &mut usize, server: &mut impl Server) -> End {
        if !self.quick {
            return End::Closer;
        }
        // Stands for the chain that the server has in hand, which may never come back if that panics.
        self.in_flight += 1;
        let (recent, in_flight) = (&self.recent, &mut self.in_flight);
        let end = with_slots!(&mut self.order, slots => with_ring!(&mut self.ring, ring => loop {
            if *got == max || !server.wants() {
                break End::Enough;
            }
            let Some(cell) = slots.next() else { break End::Closer };
            // SAFETY: a free slot, so no chain points to it.
            let slot = unsafe { &mut *cell.as_ptr() };
            // SAFETY: `quick` only if there is so much space.
            match unsafe { ring.take_quickly(recent, slot) } {
                Quick::Taken => slot.begin(),
                Quick::Nothing => break End::Enough,
                Quick::Rare => break End::Closer,
            }
            *got += 1;
            let after = slots.after(slot);
            let if_lost = IfLost { slots, after };
            // The slot is from now on the chain's alone.
            let chain = server.serve(Chain(cell));
            core::mem::forget(if_lost);
            match chain {
                // The chain that owned the slot is gone.
                Some(chain) if chain.0 == cell => slots.complete_at_once(cell, after, ring),
                other => {
                    slots.taken(after);
                    *in_flight += 1;
                    if let Some(other) = other {
                        break End::Other(other);
                    }
                }
            }
        }));
        self.in_flight -= 1;
        end
    }
}

/// Takes a slot whose chain is lost in a panic.
struct IfLost<'s, S: Slots> {
    slots: &'s mut S,
    after: S::After,
}

impl<S: Slots> Drop for IfLost<'_, S> {
    fn drop(&mut self) {
        self.slots.taken(self.after);
    }
}
