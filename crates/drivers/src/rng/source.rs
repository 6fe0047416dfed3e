//! Requests for entropy, and their bytes as they come (5.4.6).

use super::Error;
use alloc::vec::Vec;
use core::fmt;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{GetError, Stats, Used, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, Chain, DmaBuf, Features};

/// How many buffers in a row may come back empty before the device is given up.
const EMPTY: u32 = 16;

/// An entropy device that was taken.
///
/// Nothing is asked for ahead: what lies in memory that the device can reach is only what was asked for and not
/// yet read. Buffers are wiped before each request and after they were read, and nothing beyond the length that
/// the device says it has written is ever given out.
pub struct Rng {
    queue: Virtqueue<Chain<(), DmaBuf>, ()>,
    /// Buffers to ask with; as many as there may be requests.
    free: Vec<DmaBuf>,
    /// A buffer that came back, of which not all has been read.
    current: Option<Current>,
    /// Bytes asked for and not yet come.
    asked: usize,
    /// Most bytes of a request.
    bytes: usize,
    /// Buffers that came back empty, in a row.
    empty: u32,
    features: Features,
}

/// Bytes from `at` to `end` of a buffer are still to be read.
struct Current {
    buffer: DmaBuf,
    at: usize,
    end: usize,
}

impl Rng {
    pub(super) fn new(
        queue: Virtqueue<Chain<(), DmaBuf>, ()>,
        arena: &Arena,
        requests: u16,
        bytes: usize,
        features: Features,
    ) -> Result<Self, AllocError> {
        let free = (0..requests).map(|_| arena.alloc_zeroed(bytes)).collect::<Result<_, _>>()?;
        Ok(Self { queue, free, current: None, asked: 0, bytes, empty: 0, features })
    }

    /// The features agreed on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Asks for `bytes` more, in as many requests as that takes and as there is room for: how many bytes were
    /// asked for. The device may give fewer. It sees the requests with [`kick`](Self::kick).
    pub fn request(&mut self, bytes: usize) -> Result<usize, Error> {
        let mut left = bytes;
        while left > 0
            && let Some(mut buffer) = self.free.pop()
        {
            let len = left.min(self.bytes);
            // Whatever somebody left there is not entropy.
            let wiped = buffer.set_len(len);
            buffer.fill(0);
            let added = match wiped {
                Ok(()) => self.queue.add_buf(Chain::writable(buffer), ()),
                Err(_) => return Ok(bytes - left),
            };
            if let Err(error) = added {
                self.free.push(error.chain.writable);
                return Err(Error::Add(error.kind));
            }
            left -= len;
            self.asked += len;
        }
        Ok(bytes - left)
    }

    /// Shows the device what was asked for, and tells it if it wants to be told.
    pub fn kick(&mut self) -> Result<bool, Error> {
        Ok(self.queue.kick()?)
    }

    /// Copies to the start of `to` what has come: how many bytes, 0 if nothing has. Never blocks.
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < to.len() {
            if self.current.is_none() {
                match self.queue.get_buf() {
                    Ok(Some(used)) => self.came(used),
                    Ok(None) => break,
                    // What was copied is given out first; the error stays.
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(self.stopped(error)),
                }
            }
            done += self.drain(&mut to[done..]);
            if done == 0 && self.empty >= EMPTY {
                return Err(Error::Empty(self.empty));
            }
        }
        Ok(done)
    }

    /// A request was answered.
    fn came(&mut self, used: Used<Chain<(), DmaBuf>, ()>) {
        let buffer = used.chain.writable;
        self.asked = self.asked.saturating_sub(buffer.len());
        // The queue takes no length beyond the buffer.
        let end = (used.written as usize).min(buffer.len());
        if end == 0 {
            self.empty = self.empty.saturating_add(1);
            self.free.push(buffer);
        } else {
            self.empty = 0;
            self.current = Some(Current { buffer, at: 0, end });
        }
    }

    /// Copies out of the buffer that came.
    fn drain(&mut self, to: &mut [u8]) -> usize {
        let Some(mut current) = self.current.take() else { return 0 };
        let len = to.len().min(current.end - current.at);
        if current.buffer.read(current.at, &mut to[..len]).is_err() {
            return 0;
        }
        current.at += len;
        if current.at < current.end {
            self.current = Some(current);
        } else {
            current.buffer.fill(0);
            self.free.push(current.buffer);
        }
        len
    }

    /// The queue gives nothing any more. If the device has let go of it, its buffers come back.
    #[cold]
    fn stopped(&mut self, error: GetError) -> Error {
        if let Some(quiesced) = self.queue.quiesced() {
            self.free.extend(self.queue.shutdown(quiesced).map(|(chain, ())| chain.writable));
            self.asked = 0;
        }
        error.into()
    }

    /// Copies what has come, and sees to it that as many bytes are on their way as `to` needs, as far as there is
    /// room. 0 if nothing has come and something is on its way.
    pub(super) fn turn(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        loop {
            let got = self.read(to)?;
            let wanted = to.len().saturating_sub(self.asked);
            // Each round without a byte is an empty buffer, of which there are only so many.
            if got > 0 || wanted == 0 || self.request(wanted)? == 0 {
                return Ok(got);
            }
            self.kick()?;
        }
    }

    /// Waits until something may have come, for up to `limit`; `false` if nothing has.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        Ok(self.current.is_some() || self.queue.wait(limit)?)
    }

    /// Copies random bytes to the start of `to`, asking for them if need be: how many, at least one unless `to` is
    /// empty.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<usize, Error>> {
        loop {
            match self.turn(to) {
                Ok(0) if !to.is_empty() => {}
                got => return Poll::Ready(got),
            }
            match core::task::ready!(self.queue.poll_get(cx)) {
                Ok(used) => self.came(used),
                Err(error) => return Poll::Ready(Err(self.stopped(error))),
            }
        }
    }

    /// Fills `to`. A future dropped half-way leaves bytes that have not come yet for whoever reads next.
    pub async fn fill(&mut self, to: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < to.len() {
            done += core::future::poll_fn(|cx| self.poll_read(cx, &mut to[done..])).await?;
        }
        Ok(())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// What the queue has done so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        // Others may get this memory, and share it with other devices.
        if let Some(current) = &mut self.current {
            current.buffer.fill(0);
        }
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").field("queue", &self.queue).field("asked", &self.asked).finish_non_exhaustive()
    }
}
