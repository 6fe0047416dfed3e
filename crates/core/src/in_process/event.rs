//! What an end sleeps on.

use crate::clock::Clock;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

/// Something that one thread sets and another waits for. Set before the wait, it ends the wait at once.
pub trait Event: Send + Sync {
    /// Wakes whoever waits, now or next.
    fn set(&self);
    /// Waits until it is set, or for `limit`; unset afterwards. Whether it was set.
    fn wait(&self, limit: Duration) -> bool;
}

/// An event for where there is nothing to sleep on: waiting is looking.
pub struct SpinEvent {
    set: AtomicBool,
    clock: Arc<dyn Clock>,
}

impl SpinEvent {
    /// Makes an event that is not set.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { set: AtomicBool::new(false), clock }
    }
}

impl Event for SpinEvent {
    fn set(&self) {
        self.set.store(true, Ordering::Release);
    }

    fn wait(&self, limit: Duration) -> bool {
        let deadline = self.clock.now().saturating_add(limit);
        while !self.set.swap(false, Ordering::Acquire) {
            if self.clock.now() >= deadline {
                return false;
            }
            self.clock.relax();
        }
        true
    }
}
