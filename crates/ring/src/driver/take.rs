//! Taking a used chain.

use super::error::Broken;
use super::queue::Used;
use super::ring::{Found, Meta, Ring, UsedSlot};
use super::storage::Payload;
use crate::words::rare;
use core::mem::MaybeUninit;

/// The parts of a queue that taking touches, borrowed apart from the ring.
pub(super) struct Taking<'q, C, T> {
    pub(super) metas: &'q mut [Meta],
    pub(super) payloads: &'q mut [MaybeUninit<Payload<C, T>>],
    pub(super) in_flight: &'q mut u16,
}

impl<C, T> Taking<'_, C, T> {
    /// Finds the next used chain and frees its slot. If it finds one, its payload must be taken out at once.
    #[inline(always)]
    pub(super) fn find<R: Ring>(&mut self, ring: &mut R, used: &mut UsedSlot) -> Found {
        let found = ring.next_used(self.metas, used);
        if found != Found::One {
            return found;
        }
        let (slot, meta) = (usize::from(used.slot), used.meta);
        if used.len > meta.writable {
            if meta.writable > 0 && !used.no_len {
                return used.broken(Broken::LengthTooLarge { reported: used.len, writable: meta.writable });
            }
            // Of a chain that is only read the length says nothing, and devices are about that put there what they
            // have read.
            rare();
            used.len = 0;
        }
        debug_assert!(slot < self.metas.len());
        // SAFETY: the ring found the slot among `metas`.
        let free = unsafe { self.metas.get_unchecked_mut(slot) };
        free.descs = 0;
        ring.release(used.slot, meta, &mut free.link);
        *self.in_flight -= 1;
        Found::One
    }

    /// The chain that was found, with its token.
    ///
    /// # Safety
    ///
    /// `find` must have found this slot last, and its payload must not have been taken out since.
    #[inline(always)]
    pub(super) unsafe fn used(&mut self, used: &UsedSlot) -> Used<C, T> {
        let slot = usize::from(used.slot);
        debug_assert!(slot < self.payloads.len());
        // SAFETY: `find` vouches that the slot exists, which has a payload for each meta, and that it was in
        // flight, so the payload is initialised; by the caller's promise this is the only time it is read.
        let Payload { chain, token } = unsafe { self.payloads.get_unchecked(slot).assume_init_read() };
        Used { chain, token, written: used.len }
    }
}
