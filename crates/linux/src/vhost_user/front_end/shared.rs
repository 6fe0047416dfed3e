//! What the transport, its queues' notifiers and dispatchers have in common.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use virtio_kit::transport::TransportError;

use super::lines::{Lines, poll_within};
use super::session::Session;

/// The session, which is locked for as long as messages are exchanged, and the link, for a moment only.
pub(super) struct Shared {
    session: Mutex<Session>,
    link: Mutex<Link>,
}

/// What waiting needs.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) stream: Arc<UnixStream>,
    /// How many times the connection was made anew.
    pub(super) generation: u64,
    /// Of the queues that are enabled.
    pub(super) lines: Vec<Arc<Lines>>,
}

impl Shared {
    pub(super) fn new(session: Session) -> Arc<Self> {
        let link = Mutex::new(session.link());
        Arc::new(Self { session: Mutex::new(session), link })
    }

    pub(super) fn link(&self) -> Link {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something that may change what waiting needs.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut Session) -> R) -> R {
        let mut session = self.session();
        let result = change(&mut session);
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = session.link();
        result
    }

    /// Runs something that needs a connection, again on a new one if the back-end is gone and comes back.
    pub(super) fn exchange<R>(
        &self,
        mut run: impl FnMut(&mut Session) -> Result<R, TransportError>,
    ) -> Result<R, TransportError> {
        let (result, generation, gone) =
            self.update(|session| (run(session), session.generation(), session.is_gone()));
        match result {
            Err(error) if gone => {
                self.lost(generation).map_err(|_| error)?;
                self.update(run)
            }
            other => other,
        }
    }

    /// The back-end was seen to be gone from connection `generation`: connects anew, if that is wanted and
    /// possible and nobody else has.
    pub(super) fn lost(&self, generation: u64) -> Result<(), TransportError> {
        self.update(|session| session.recover(generation))?;
        // Outside of the lock: callbacks may do as they like. What was called meanwhile was lost, perhaps.
        self.link().lines.iter().for_each(|lines| lines.dispatch());
        Ok(())
    }
}

/// Runs the interrupt halves of all queues of a front-end, for drivers that are called or polled by wakers
/// and do not wait themselves.
///
/// For a thread of its own. A queue that somebody waits for as well may have its wake-up taken from it.
#[derive(Clone)]
pub struct Dispatcher {
    pub(super) shared: Arc<Shared>,
}

impl Dispatcher {
    /// Waits until the back-end has called for any queue, or for `limit`; `false` if it has not. Queues made
    /// meanwhile are seen by the next call. Fails once the back-end is gone for good.
    pub fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let link = self.shared.link();
        let calls = link.lines.iter().map(|lines| PollFd::new(&lines.call, PollFlags::IN));
        let mut fds: Vec<_> = calls.collect();
        fds.push(PollFd::from_borrowed_fd(link.stream.as_fd(), PollFlags::RDHUP));
        poll_within(&mut fds, limit)?;
        let gone = fds.last().is_some_and(|fd| !fd.revents().is_empty());
        let called = link.lines.iter().filter(|lines| lines.dispatch_call()).count();
        if called == 0 && gone {
            self.shared.lost(link.generation)?;
        }
        Ok(called != 0 || gone)
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dispatcher({} queues)", self.shared.link().lines.len())
    }
}
