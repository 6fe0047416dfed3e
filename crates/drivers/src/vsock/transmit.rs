//! Packets to the device.

use super::Error;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{GetError, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::spec::vsock::Header;
use virtio_kit::vsock::{Link, Scratch};
use virtio_kit::{Arena, Chain, DmaBuf};
use zerocopy::IntoBytes;

/// The queue to the device, with its buffers.
pub(super) struct Transmit {
    queue: Virtqueue<Chain<DmaBuf>, ()>,
    free: Vec<DmaBuf>,
    count: u16,
    bytes: usize,
    scratch: Scratch,
}

impl Transmit {
    pub(super) fn new(
        queue: Virtqueue<Chain<DmaBuf>, ()>,
        arena: &Arena,
        count: u16,
        bytes: usize,
    ) -> Result<Self, AllocError> {
        let count = count.clamp(1, queue.size());
        let mut free = Vec::with_capacity(count.into());
        for _ in 0..count {
            free.push(arena.alloc_zeroed(bytes)?);
        }
        Ok(Self { queue, free, count, bytes, scratch: Scratch::default() })
    }

    /// Takes buffers back that the device has read. Bounded by their number.
    fn reclaim(&mut self) -> Result<(), Error> {
        let free = &mut self.free;
        match self.queue.get_batch(self.count.into(), |used| free.push(used.chain.readable)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.stopped(error)),
        }
    }

    #[cold]
    fn stopped(&mut self, error: GetError) -> Error {
        if let Some(quiesced) = self.queue.quiesced() {
            self.free.extend(self.queue.shutdown(quiesced).map(|(chain, ())| chain.readable));
        }
        error.into()
    }

    /// Sends what there is to send, as far as there are buffers.
    pub(super) fn flush(&mut self, link: &Link) -> Result<(), Error> {
        self.reclaim()?;
        if self.free.is_empty() || !link.has_outgoing() {
            return Ok(());
        }
        let Self { queue, free, bytes, scratch, .. } = self;
        let room = *bytes - Header::SIZE;
        let added = link.run(scratch, |batch| {
            let mut added = 0;
            while let Some(mut buffer) = free.pop() {
                let sent = batch.send(room, |packet, first, second| {
                    let len = Header::SIZE + first.len() + second.len();
                    // There is room for them.
                    let _ = buffer.set_len(len);
                    let _ = buffer.write(0, packet.as_bytes());
                    let _ = buffer.write(Header::SIZE, first);
                    let _ = buffer.write(Header::SIZE + first.len(), second);
                });
                if !sent {
                    free.push(buffer);
                    break;
                }
                queue.add_buf(Chain::readable(buffer), ()).map_err(|error| Error::Add(error.kind))?;
                added += 1;
            }
            Ok::<_, Error>(added)
        })?;
        if added > 0 {
            self.queue.kick()?;
        }
        Ok(())
    }

    /// Whether all buffers are in flight.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Waits until the device has read something.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        Ok(!self.is_full() || self.queue.wait(limit)?)
    }

    /// Ready when there is a buffer.
    pub(super) fn poll_reclaim(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.is_full() {
            match core::task::ready!(self.queue.poll_get(cx)) {
                Ok(used) => self.free.push(used.chain.readable),
                Err(error) => return Poll::Ready(Err(self.stopped(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}
