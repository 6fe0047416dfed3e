//! Which connections have something to do, told by anybody, to whoever sleeps on an event.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};

/// Numbers of connections, each once, and the event that is set while there are any.
#[derive(Debug)]
pub(super) struct Wakeups {
    numbers: Mutex<Vec<usize>>,
    bell: OwnedFd,
}

impl Wakeups {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { numbers: Mutex::default(), bell }))
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn ring(&self) {
        // A bell that rings already is enough.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Moves the numbers to the end of `to`.
    pub(super) fn take(&self, to: &mut Vec<usize>) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        to.append(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Wakes one connection.
#[derive(Debug)]
pub(super) struct Wakeup {
    all: Arc<Wakeups>,
    number: usize,
    due: AtomicBool,
}

impl Wakeup {
    pub(super) fn new(all: &Arc<Wakeups>, number: usize) -> Arc<Self> {
        Arc::new(Self { all: all.clone(), number, due: AtomicBool::new(false) })
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    /// The connection is looked at now: what happens from here on wakes it again.
    pub(super) fn seen(&self) {
        self.due.store(false, Ordering::SeqCst);
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.due.swap(true, Ordering::SeqCst) {
            self.all.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
            self.all.ring();
        }
    }
}
