//! Buffers from the device: those of a port, and control messages.

use super::Error;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{GetError, Used, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, Chain, DmaBuf};

/// A receive queue with its buffers, all of which the device has but the one being read.
pub(super) struct Receive {
    queue: Virtqueue<Chain<(), DmaBuf>, ()>,
    current: Option<Current>,
    count: u16,
    len: usize,
    /// The port's generation when the buffers were last known to be of it.
    pub(super) generation: u32,
}

/// Bytes from `at` to `end` of a buffer are still to be read.
struct Current {
    buffer: DmaBuf,
    at: usize,
    end: usize,
}

impl Receive {
    /// A queue that is to have `count` buffers of `len` bytes, as far as there is room.
    pub(super) fn new(queue: Virtqueue<Chain<(), DmaBuf>, ()>, count: u16, len: usize) -> Self {
        let count = count.clamp(1, queue.size());
        Self { queue, current: None, count, len, generation: 0 }
    }

    /// Allocates the buffers that are missing and gives them to the device.
    pub(super) fn fill(&mut self, arena: &Arena) -> Result<(), FillError> {
        let there = self.queue.in_flight() + u16::from(self.current.is_some());
        for _ in there..self.count {
            let buffer = arena.alloc_zeroed(self.len).map_err(FillError::Memory)?;
            self.give(buffer).map_err(FillError::Queue)?;
        }
        self.kick().map_err(FillError::Queue)
    }

    fn give(&mut self, mut buffer: DmaBuf) -> Result<(), Error> {
        // No longer than its capacity, since it was allocated with this length.
        let _ = buffer.set_len(self.len);
        self.queue.add_buf(Chain::writable(buffer), ()).map_err(|error| Error::Add(error.kind))
    }

    fn kick(&mut self) -> Result<(), Error> {
        self.queue.kick()?;
        Ok(())
    }

    /// Copies what has come to the start of `to`: how many bytes, 0 if nothing has.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let (mut done, mut given) = (0, 0);
        // As many buffers as there are, so that a device cannot keep its driver here with empty ones.
        while done < to.len() && given <= self.count {
            if !self.look(done > 0)? {
                break;
            }
            let Some(current) = &mut self.current else { continue };
            let len = (to.len() - done).min(current.end - current.at);
            // Inside the buffer: the queue takes no length beyond it.
            let _ = current.buffer.read(current.at, &mut to[done..done + len]);
            current.at += len;
            done += len;
            given += u16::from(self.give_back_if_read()?);
        }
        if given > 0 {
            self.kick()?;
        }
        Ok(done)
    }

    /// Copies one whole buffer to `to`: its length, if one has come. What does not fit is lost.
    pub(super) fn read_message(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        if !self.look(false)? {
            return Ok(None);
        }
        let Some(current) = &mut self.current else { return Ok(None) };
        let len = to.len().min(current.end);
        // As in `read`.
        let _ = current.buffer.read(0, &mut to[..len]);
        current.at = current.end;
        self.give_back_if_read()?;
        self.kick()?;
        Ok(Some(len))
    }

    /// Whether there is a buffer to be read. With `some` an error can wait until the next time.
    fn look(&mut self, some: bool) -> Result<bool, Error> {
        if self.current.is_some() {
            return Ok(true);
        }
        match self.queue.get_buf() {
            Ok(Some(used)) => {
                self.came(used);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(_) if some => Ok(false),
            Err(error) => Err(self.stopped(error)),
        }
    }

    fn came(&mut self, used: Used<Chain<(), DmaBuf>, ()>) {
        let buffer = used.chain.writable;
        let end = (used.written as usize).min(buffer.len());
        self.current = Some(Current { buffer, at: 0, end });
    }

    fn give_back_if_read(&mut self) -> Result<bool, Error> {
        match self.current.take_if(|current| current.at >= current.end) {
            Some(current) => self.give(current.buffer).map(|()| true),
            None => Ok(false),
        }
    }

    /// Throws away what has come.
    pub(super) fn discard(&mut self) -> Result<(), Error> {
        for _ in 0..self.count {
            if !self.look(false)? {
                break;
            }
            if let Some(current) = &mut self.current {
                current.at = current.end;
            }
            self.give_back_if_read()?;
        }
        self.kick()
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
        Ok(self.current.is_some() || self.queue.wait(limit)?)
    }

    /// Ready when something has come.
    pub(super) fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.current.is_none() {
            match core::task::ready!(self.queue.poll_get(cx)) {
                Ok(used) => self.came(used),
                Err(error) => return Poll::Ready(Err(self.stopped(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why a queue's buffers were not given to the device.
pub(super) enum FillError {
    Memory(AllocError),
    Queue(Error),
}
