//! Taking a used chain.

use super::error::Broken;
use super::queue::Used;
use super::ring::{Meta, Ring};
use super::storage::Payload;
use crate::store::Store;
use core::mem::MaybeUninit;

/// The parts of a queue that taking touches, borrowed apart from the ring.
pub(super) struct Taking<'q, P, T> {
    pub(super) metas: &'q mut Store<Meta>,
    pub(super) payloads: &'q mut Store<MaybeUninit<Payload<P, T>>>,
    pub(super) in_flight: &'q mut u16,
}

impl<P, T> Taking<'_, P, T> {
    #[inline(always)]
    pub(super) fn take<R: Ring>(&mut self, ring: &mut R) -> Result<Option<Used<P, T>>, Broken> {
        let Some(mut used) = ring.next_used(self.metas, *self.in_flight)? else { return Ok(None) };
        let slot = usize::from(used.slot);
        let meta = self.metas[slot];
        if used.len > meta.writable {
            if !used.vague {
                return Err(Broken::LengthTooLarge { reported: used.len, writable: meta.writable });
            }
            used.len = 0;
        }
        self.metas[slot].descs = 0;
        ring.release(used.slot, meta);
        *self.in_flight -= 1;
        // SAFETY: the ring vouches that `descs` was not 0, so the payload is initialised; now it is 0, so
        // this is the only time that it is read.
        let Payload { chain, token } = unsafe { self.payloads[slot].assume_init_read() };
        Ok(Some(Used { chain, token, written: used.len }))
    }
}
