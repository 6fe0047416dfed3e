//! A queue's three event descriptors, and the notifier that a driver holds.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use virtio_kit::driver::QueueInterrupt;
use virtio_kit::transport::{Notifier, NotifyPosition, TransportError};

use super::shared::Shared;
use crate::vhost_user::wire::timespec;

/// The events between a queue's two ends, which outlive any one connection.
pub(super) struct Lines {
    /// Written here: buffers are available.
    pub(super) kick: OwnedFd,
    /// Written by the back-end: buffers were used.
    pub(super) call: OwnedFd,
    /// Written by the back-end: the queue is broken.
    pub(super) err: OwnedFd,
    failed: AtomicBool,
    interrupt: Arc<QueueInterrupt>,
}

impl Lines {
    pub(super) fn new(interrupt: Arc<QueueInterrupt>) -> Result<Self, Errno> {
        // Not blocking: the other end may empty or fill them at any time.
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { kick: event()?, call: event()?, err: event()?, failed: AtomicBool::new(false), interrupt })
    }

    /// Tells the back-end to look at the queue.
    pub(super) fn kick(&self) -> Result<(), TransportError> {
        loop {
            match rustix::io::write(&self.kick, &1u64.to_ne_bytes()) {
                // A full counter wakes the other end as well.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(TransportError::Os(error.raw_os_error())),
            }
        }
    }

    /// Whether the back-end has said that the queue is broken.
    pub(super) fn has_failed(&self) -> bool {
        if drain(&self.err) {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.failed.load(Ordering::Relaxed)
    }

    /// Runs the interrupt half if the back-end has called; whether it has.
    pub(super) fn dispatch_call(&self) -> bool {
        let called = drain(&self.call);
        if called {
            self.interrupt.dispatch();
        }
        called
    }

    /// Runs the interrupt half: a call may have been lost.
    pub(super) fn dispatch(&self) {
        self.interrupt.dispatch();
    }
}

/// Empties an event; whether it was set.
fn drain(event: &OwnedFd) -> bool {
    let mut count = [0u8; 8];
    loop {
        match rustix::io::read(event, &mut count) {
            Err(Errno::INTR) => {}
            other => return other == Ok(8),
        }
    }
}

/// Polls until something happens or the limit has passed; whether something did.
pub(super) fn poll_within(fds: &mut [PollFd<'_>], limit: Duration) -> Result<bool, TransportError> {
    let start = Instant::now();
    loop {
        match poll(fds, Some(&timespec(limit.saturating_sub(start.elapsed())))) {
            Ok(ready) => return Ok(ready != 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(TransportError::Os(error.raw_os_error())),
        }
    }
}

/// What a virtqueue holds of its transport. Kicking takes no lock; waiting takes one for a moment.
pub(super) struct Line {
    pub(super) shared: Arc<Shared>,
    pub(super) lines: Arc<Lines>,
}

impl Notifier for Line {
    fn notify(&self, _: NotifyPosition) -> Result<(), TransportError> {
        self.lines.kick()
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let link = self.shared.link();
        let mut fds = [
            PollFd::new(&self.lines.call, PollFlags::IN),
            PollFd::new(&self.lines.err, PollFlags::IN),
            PollFd::from_borrowed_fd(link.stream.as_fd(), PollFlags::RDHUP),
        ];
        poll_within(&mut fds, limit)?;
        // What the back-end did before it went away still counts.
        if self.lines.dispatch_call() {
            return Ok(true);
        }
        if self.lines.has_failed() {
            return Err(TransportError::Refused("the back-end reported an error on the queue"));
        }
        if fds[2].revents().is_empty() {
            return Ok(false);
        }
        self.shared.lost(link.generation)?;
        Ok(true)
    }
}
