//! A value that is looked at for every frame and changed now and then.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// The value. Who looks keeps a [`Seen`] of it, and takes the lock only after a change.
pub(super) struct Watched<T> {
    changes: AtomicU32,
    now: Mutex<Arc<T>>,
}

/// The value as somebody saw it last.
pub(super) struct Seen<T> {
    changes: u32,
    value: Arc<T>,
}

impl<T> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self { changes: AtomicU32::new(0), now: Mutex::new(Arc::new(value)) }
    }

    /// The value as it is.
    pub(super) fn see(&self) -> Seen<T> {
        let now = self.now.lock();
        Seen { changes: self.changes.load(Ordering::Relaxed), value: now.clone() }
    }

    /// Puts another value in its place, made from it.
    pub(super) fn change<R>(&self, make: impl FnOnce(&T) -> (T, R)) -> R {
        let mut now = self.now.lock();
        let (value, result) = make(&now);
        let before = core::mem::replace(&mut *now, Arc::new(value));
        // Sequentially consistent, for those who first say that they are at work and then look.
        self.changes.fetch_add(1, Ordering::SeqCst);
        drop(now);
        drop(before);
        result
    }
}

impl<T> Seen<T> {
    /// Looks again: whether there was a change.
    #[inline]
    pub(super) fn refresh(&mut self, watched: &Watched<T>) -> bool {
        if watched.changes.load(Ordering::SeqCst) == self.changes {
            return false;
        }
        *self = watched.see();
        true
    }
}

impl<T> core::ops::Deref for Seen<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}
