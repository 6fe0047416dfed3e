//! Packets and events from the device.

use super::Error;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{GetError, Used, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, Chain, DmaBuf};

/// A buffer that came back, and how much was written to it.
pub(super) struct Filled {
    pub(super) buffer: DmaBuf,
    pub(super) len: usize,
}

/// A queue of buffers that the device fills.
pub(super) struct Receive {
    queue: Virtqueue<Chain<(), DmaBuf>, ()>,
    /// Filled, and not looked at.
    filled: Vec<Filled>,
    count: u16,
}

impl Receive {
    /// Has the device fill `count` buffers of `bytes`, once it runs.
    pub(super) fn new(
        queue: Virtqueue<Chain<(), DmaBuf>, ()>,
        arena: &Arena,
        count: u16,
        bytes: usize,
    ) -> Result<Self, FillError> {
        let count = count.clamp(1, queue.size());
        let mut receive = Self { queue, filled: Vec::with_capacity(count.into()), count };
        for _ in 0..count {
            let buffer = arena.alloc_zeroed(bytes).map_err(FillError::Memory)?;
            receive.give(buffer).map_err(FillError::Queue)?;
        }
        receive.queue.kick().map_err(|error| FillError::Queue(error.into()))?;
        Ok(receive)
    }

    fn give(&mut self, buffer: DmaBuf) -> Result<(), Error> {
        self.queue.add_buf(Chain::writable(buffer), ()).map_err(|error| Error::Add(error.kind))
    }

    /// Shows `each` all buffers that were filled, and has the device fill them again. How many there were; at most as
    /// many as the queue has.
    pub(super) fn take(&mut self, work: impl FnOnce(&mut [Filled])) -> Result<usize, Error> {
        let Self { queue, filled, count } = self;
        let left = usize::from(*count) - filled.len();
        if let Err(error) = queue.get_batch(left, |used| filled.push(of(used))) {
            return Err(self.stopped(error));
        }
        let taken = self.filled.len();
        if taken > 0 {
            work(&mut self.filled);
            while let Some(Filled { buffer, .. }) = self.filled.pop() {
                self.give(buffer)?;
            }
            self.queue.kick()?;
        }
        Ok(taken)
    }

    /// If the device has let go of the queue, its buffers come back, and are freed.
    #[cold]
    fn stopped(&mut self, error: GetError) -> Error {
        if let Some(quiesced) = self.queue.quiesced() {
            self.queue.shutdown(quiesced).for_each(drop);
        }
        error.into()
    }

    /// Waits until something may have come.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        Ok(!self.filled.is_empty() || self.queue.wait(limit)?)
    }

    /// Ready when something has come.
    pub(super) fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.filled.is_empty() {
            match core::task::ready!(self.queue.poll_get(cx)) {
                Ok(used) => self.filled.push(of(used)),
                Err(error) => return Poll::Ready(Err(self.stopped(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn of(used: Used<Chain<(), DmaBuf>, ()>) -> Filled {
    let buffer = used.chain.writable;
    let len = (used.written as usize).min(buffer.len());
    Filled { buffer, len }
}

/// Why a queue's buffers were not given to the device.
pub(super) enum FillError {
    Memory(AllocError),
    Queue(Error),
}
