//! Who is to be woken once nothing is locked any more.

use super::Request;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;

/// Wakers that are called when the locks are free: whoever is woken may come back at once.
#[derive(Default)]
pub(super) struct Wakes {
    /// As many as one operation of an end needs, without memory of their own.
    few: [Option<Waker>; 3],
    more: Vec<Waker>,
}

impl Wakes {
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(waker),
            None => self.more.push(waker),
        }
    }

    pub(super) fn wake(&mut self) {
        self.few.iter_mut().filter_map(Option::take).for_each(Waker::wake);
        self.more.drain(..).for_each(Waker::wake);
    }
}

/// What a link's user keeps between batches, so that a batch allocates nothing.
#[derive(Default)]
pub struct Scratch {
    pub(super) wakes: Wakes,
    pub(super) requests: Vec<Request>,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}
