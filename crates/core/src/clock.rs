//! Time, passed in: every wait in virtio-kit has a deadline, and no crate of its core knows a clock.

use core::time::Duration;

/// A clock that only moves forward.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// Called over and over while something is awaited that has no interrupt.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Runs `done` until it gives a value or `limit` has passed.
    fn wait_for<R>(&self, limit: Duration, mut done: impl FnMut() -> Option<R>) -> Option<R>
    where
        Self: Sized,
    {
        let deadline = self.now().saturating_add(limit);
        loop {
            if let Some(value) = done() {
                return Some(value);
            }
            if self.now() >= deadline {
                return None;
            }
            self.relax();
        }
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn relax(&self) {
        (**self).relax();
    }
}
