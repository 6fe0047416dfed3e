//! Which connections of a link have something to send.

use super::wakes::Wakes;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use spin::Mutex;

/// Slots that have something to send, each once, in turn.
#[derive(Default)]
pub(super) struct Outbox {
    ready: Mutex<Ready>,
    /// Whether there are any, for a look without the lock.
    some: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct Ready {
    queue: VecDeque<u32>,
    queued: Vec<bool>,
}

impl Outbox {
    pub(super) fn set_waker(&self, waker: Option<Waker>) {
        *self.waker.lock() = waker;
    }

    pub(super) fn has_some(&self) -> bool {
        self.some.load(Ordering::SeqCst)
    }

    /// A slot has something to send. The link is woken if it knows of none.
    pub(super) fn push(&self, slot: u32, wakes: &mut Wakes) {
        if self.put(slot) {
            wakes.push(self.waker.lock().clone());
        }
    }

    /// The same by the link itself, which need not be woken.
    pub(super) fn push_own(&self, slot: u32) {
        self.put(slot);
    }

    fn put(&self, slot: u32) -> bool {
        let mut ready = self.ready.lock();
        let index = slot as usize;
        if index >= ready.queued.len() {
            // Once for each slot that there ever is.
            ready.queued.resize(index + 1, false);
            let more = ready.queued.len().saturating_sub(ready.queue.len());
            ready.queue.reserve(more);
        }
        if core::mem::replace(&mut ready.queued[index], true) {
            return false;
        }
        ready.queue.push_back(slot);
        !self.some.swap(true, Ordering::SeqCst)
    }

    pub(super) fn pop(&self) -> Option<u32> {
        let mut ready = self.ready.lock();
        let slot = ready.queue.pop_front();
        if let Some(slot) = slot {
            ready.queued[slot as usize] = false;
        }
        if ready.queue.is_empty() {
            self.some.store(false, Ordering::SeqCst);
        }
        slot
    }
}
