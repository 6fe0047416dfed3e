//! Buffers to the device: those of a port, and control messages.

use super::Error;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{GetError, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, Chain, DmaBuf};

/// A transmit queue with its buffers.
pub(super) struct Transmit {
    queue: Virtqueue<Chain<DmaBuf>, ()>,
    free: Vec<DmaBuf>,
    count: u16,
    len: usize,
}

impl Transmit {
    /// Buffers are allocated when there is first something to send.
    pub(super) fn new(queue: Virtqueue<Chain<DmaBuf>, ()>, count: u16, len: usize) -> Self {
        let count = count.clamp(1, queue.size());
        Self { queue, free: Vec::with_capacity(count.into()), count, len }
    }

    /// Allocates the buffers.
    pub(super) fn prepare(&mut self, arena: &Arena) -> Result<(), AllocError> {
        while self.free.len() + usize::from(self.queue.in_flight()) < self.count.into() {
            self.free.push(arena.alloc_zeroed(self.len)?);
        }
        Ok(())
    }

    /// Takes buffers back that the device has read. Bounded by their number.
    fn reclaim(&mut self) -> Result<(), Error> {
        loop {
            let free = &mut self.free;
            match self.queue.get_batch(self.count.into(), |used| free.push(used.chain.readable)) {
                Ok(0) => return Ok(()),
                // That there is nothing more says that the device is still there.
                Ok(_) => {}
                Err(error) => return Err(self.stopped(error)),
            }
        }
    }

    #[cold]
    fn stopped(&mut self, error: GetError) -> Error {
        if let Some(quiesced) = self.queue.quiesced() {
            self.free.extend(self.queue.shutdown(quiesced).map(|(chain, ())| chain.readable));
        }
        error.into()
    }

    /// Copies the start of `from` to buffers for the device: how many bytes; 0 if there is no free buffer.
    pub(super) fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        self.reclaim()?;
        let mut done = 0;
        while done < from.len()
            && let Some(mut buffer) = self.free.pop()
        {
            let len = self.len.min(from.len() - done);
            let filled = buffer.set_len(len).and_then(|()| buffer.write(0, &from[done..done + len]));
            if filled.is_err() {
                // All buffers have the length that was asked for.
                break;
            }
            if let Err(error) = self.queue.add_buf(Chain::readable(buffer), ()) {
                self.free.push(error.chain.readable);
                if done == 0 {
                    return Err(Error::Add(error.kind));
                }
                break;
            }
            done += len;
        }
        if done > 0 {
            self.queue.kick()?;
        }
        Ok(done)
    }

    /// Sends a message that fits one buffer; `false` if there is none free.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<bool, Error> {
        Ok(self.write(message)? == message.len())
    }

    /// Whether the device has read everything.
    pub(super) fn is_flushed(&mut self) -> Result<bool, Error> {
        self.reclaim()?;
        Ok(self.queue.in_flight() == 0)
    }

    /// Waits until the device has read something.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        if self.queue.in_flight() == 0 {
            return Ok(true);
        }
        Ok(self.queue.wait(limit)?)
    }

    /// Ready when a buffer came back.
    pub(super) fn poll_reclaim(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match core::task::ready!(self.queue.poll_get(cx)) {
            Ok(used) => {
                self.free.push(used.chain.readable);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.stopped(error))),
        }
    }
}
