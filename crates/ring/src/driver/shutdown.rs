//! Handing back every buffer, once the device cannot touch them any more.

use super::queue::Queue;
use super::storage::Payload;
use crate::chain::AnyChain;

/// How a transport knows that the device has let go of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// The queue was never enabled.
    NeverEnabled,
    /// The device's status read back as 0 after a reset (2.4).
    DeviceReset,
    /// The queue's reset read back as complete (2.6.1).
    QueueReset,
    /// A vhost-user back-end answered GET_VRING_BASE.
    BackendStopped,
    /// The device's half of an in-process queue was handed back.
    DeviceHalfReturned,
    /// Bus mastering is off, or the memory is unmapped from the device's domain.
    Unmapped,
    /// The back-end is gone without an answer; the queue's arena is retired, so that whatever it may still
    /// write lands in memory that nobody is given again.
    ArenaRetired,
}

/// Proof that the device cannot touch a queue's buffers any more, which [`Queue::shutdown`] takes.
///
/// Transports make it. Memory stays valid without it, since buffers that come back are still part of their
/// arena; what rests on it is that a buffer handed back does not change later.
#[derive(Debug)]
pub struct Quiesced(Evidence);

impl Quiesced {
    /// States that the device has let go, on the given evidence.
    pub fn on(evidence: Evidence) -> Self {
        Self(evidence)
    }

    /// What it rests on.
    pub fn evidence(&self) -> Evidence {
        self.0
    }
}

/// The chains that were in flight, with their tokens. What is not taken out stays in the queue.
pub struct Shutdown<'q, C, T> {
    queue: &'q mut Queue<C, T>,
    at: u16,
}

impl<'q, C, T> Shutdown<'q, C, T> {
    pub(super) fn new(queue: &'q mut Queue<C, T>) -> Self {
        Self { queue, at: 0 }
    }
}

impl<C: AnyChain, T> Iterator for Shutdown<'_, C, T> {
    type Item = (C, T);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.queue.size() {
            self.at += 1;
            if let Some(Payload { chain, token }) = self.queue.take_back(self.at - 1) {
                return Some((chain, token));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = usize::from(self.queue.in_flight());
        (n, Some(n))
    }
}

impl<C: AnyChain, T> ExactSizeIterator for Shutdown<'_, C, T> {}
