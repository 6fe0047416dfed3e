//! What the ends of an in-process device sleep on, when they are threads.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use virtio_kit::in_process::Event;

/// An event between threads of one process.
#[derive(Debug, Default)]
pub struct StdEvent {
    set: Mutex<bool>,
    changed: Condvar,
}

impl StdEvent {
    /// Makes an event that is not set.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Event for StdEvent {
    fn set(&self) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if !*set {
            *set = true;
            self.changed.notify_one();
        }
    }

    fn wait(&self, limit: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(set, limit, |set| !*set);
        let (mut set, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_set_before_the_wait_ends_it_once() {
        let event = StdEvent::new();
        event.set();
        event.set();
        assert!(event.wait(Duration::from_secs(60)));
        assert!(!event.wait(Duration::ZERO));
    }

    #[test]
    fn an_event_set_by_another_thread_ends_the_wait() {
        let event = StdEvent::new();
        std::thread::scope(|scope| {
            scope.spawn(|| event.set());
            assert!(event.wait(Duration::from_secs(60)));
        });
    }
}
