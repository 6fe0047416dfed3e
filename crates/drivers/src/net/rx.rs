//! A receive queue (5.1.9.3, 5.1.9.4).

use super::error::{BadFrame, Error, RecvError};
use super::offload::{Offload, Parsed, Rules};
use super::{ETHERNET_HEADER, Frame, MAX_FRAME};
use alloc::vec::Vec;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use virtio_kit::driver::{GetError, Stats, Used, Virtqueue};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::spec::net::HeaderFull;
use virtio_kit::{Arena, Chain, DmaBuf};

/// One buffer.
pub(super) type RxChain = Chain<(), DmaBuf>;

/// A frame that came, and what the device says of it.
#[derive(Debug)]
pub struct Received {
    /// The frame. Give it back with [`RxQueue::recycle`], or send it on.
    pub frame: Frame,
    /// What was left undone, or done, for it.
    pub offload: Offload,
}

/// A receive queue. It keeps its ring full of buffers from the arena: those of frames that are
/// [recycled](Self::recycle), and new ones if the owner keeps many.
///
/// Recycled buffers are shown to the device when a quarter of the ring waits to be, and whenever nothing has
/// come; [`refill`](Self::refill) does it at once.
pub struct RxQueue {
    queue: Virtqueue<RxChain, ()>,
    assembly: Assembly,
    arena: Arena,
}

/// What frames are put together with.
struct Assembly {
    rules: Rules,
    /// Bytes of each buffer in the ring.
    buffer_len: usize,
    /// Most buffers of one frame.
    most: u16,
    /// Buffers that wait to be put into the ring.
    spare: Vec<DmaBuf>,
    /// Empty lists for frames in several buffers.
    lists: Vec<Vec<DmaBuf>>,
    /// A frame of which more buffers are to come.
    open: Option<OpenFrame>,
}

struct OpenFrame {
    head: DmaBuf,
    parsed: Parsed,
    more: Vec<DmaBuf>,
    /// One of its buffers had nothing in it.
    empty: bool,
    /// Buffers that have come.
    used: u16,
}

impl RxQueue {
    /// Fills the ring, which the device is shown with the first [`refill`](Self::refill).
    pub(super) fn new(
        queue: Virtqueue<RxChain, ()>,
        rules: Rules,
        buffer_len: usize,
        arena: Arena,
    ) -> Result<Self, AllocError> {
        let size = usize::from(queue.size());
        let most = if rules.mergeable {
            (rules.header + MAX_FRAME).div_ceil(buffer_len).min(size) as u16
        } else {
            1
        };
        let spare = Vec::with_capacity(size);
        let lists = Vec::with_capacity(if rules.mergeable { size } else { 0 });
        let assembly = Assembly { rules, buffer_len, most, spare, lists, open: None };
        let mut this = Self { queue, assembly, arena };
        this.fill()?;
        Ok(this)
    }

    /// Fills an empty ring.
    pub(super) fn fill(&mut self) -> Result<(), AllocError> {
        while self.assembly.spare.len() < usize::from(self.queue.size()) {
            let buffer = self.arena.alloc(self.assembly.buffer_len)?;
            self.assembly.spare.push(buffer);
        }
        self.add_spare();
        Ok(())
    }

    /// Gives all buffers of a ring that the device has let go of back to the arena.
    pub(super) fn empty(&mut self) {
        self.recover(GetError::Stopped);
    }

    /// The next frame, or `None` if there is none now.
    ///
    /// A frame that the device got wrong is an error of its own, after which the queue goes on. Once the
    /// device was reset or removed, the ring's buffers go back to the arena and this fails.
    #[inline]
    pub fn recv(&mut self) -> Result<Option<Received>, RecvError> {
        self.refill_some()?;
        loop {
            match self.queue.get_buf() {
                Ok(Some(used)) => match self.assembly.push(used) {
                    Some(Ok(received)) => return Ok(Some(received)),
                    Some(Err(bad)) => return Err(RecvError::Frame(bad)),
                    None => {}
                },
                Ok(None) => return self.nothing_came(),
                Err(error) => return Err(self.recover(error).into()),
            }
        }
    }

    /// Hands the frames of up to `max` buffers to `each`, bad ones as errors; how many there were.
    ///
    /// A frame that begins within `max` buffers is completed.
    pub fn recv_batch(
        &mut self,
        max: usize,
        mut each: impl FnMut(Result<Received, BadFrame>),
    ) -> Result<usize, Error> {
        self.refill_some()?;
        let mut frames = 0;
        let assembly = &mut self.assembly;
        let got = self.queue.get_batch(max, |used| {
            if let Some(frame) = assembly.push(used) {
                frames += 1;
                each(frame);
            }
        });
        match got {
            Ok(0) => {
                self.refill()?;
                return Ok(0);
            }
            Ok(_) => {}
            Err(error) => return Err(self.recover(error)),
        }
        if self.assembly.open.is_some() {
            frames += 1;
            match self.recv() {
                Ok(Some(received)) => each(Ok(received)),
                Err(RecvError::Frame(bad)) => each(Err(bad)),
                Err(RecvError::Queue(error)) => return Err(error),
                Ok(None) => frames -= 1,
            }
        }
        Ok(frames)
    }

    /// Copies the next frame into `to`: its length, which is cut to that of `to`, and what is said of it.
    pub fn recv_copy(&mut self, to: &mut [u8]) -> Result<Option<(usize, Offload)>, RecvError> {
        let Some(Received { frame, offload }) = self.recv()? else { return Ok(None) };
        let len = frame.copy_to(to);
        self.recycle(frame);
        Ok(Some((len, offload)))
    }

    /// The ring is empty now: a moment to fill it.
    fn nothing_came(&mut self) -> Result<Option<Received>, RecvError> {
        let missing = self.assembly.give_up();
        self.refill()?;
        match missing {
            Some(bad) => Err(RecvError::Frame(bad)),
            None => Ok(None),
        }
    }

    /// Takes a frame's buffers for the ring. Those that are too small for it, or of another domain, and those
    /// that it has no place for, go back to their arena.
    #[inline]
    pub fn recycle(&mut self, frame: Frame) {
        let (head, mut more) = frame.into_buffers();
        self.keep(head);
        if more.capacity() != 0 {
            more.drain(..).for_each(|buffer| self.keep(buffer));
            self.assembly.keep_list(more);
        }
    }

    #[inline]
    fn keep(&mut self, mut buffer: DmaBuf) {
        let fits = buffer.domain() == self.arena.domain() && buffer.set_len(self.assembly.buffer_len).is_ok();
        if fits && self.assembly.spare.len() < usize::from(self.queue.size()) {
            self.assembly.spare.push(buffer);
        }
    }

    /// Puts the recycled buffers into the ring and shows them to the device. Takes new ones from the arena if the
    /// ring would be less than half full.
    pub fn refill(&mut self) -> Result<(), Error> {
        let size = usize::from(self.queue.size());
        let have = usize::from(self.queue.in_flight()) + self.assembly.spare.len();
        for _ in have..size / 2 {
            // With an arena that is empty the ring makes do with what there is.
            let Ok(buffer) = self.arena.alloc(self.assembly.buffer_len) else { break };
            self.assembly.spare.push(buffer);
        }
        if self.add_spare() != 0 {
            self.queue.kick()?;
        }
        Ok(())
    }

    #[inline]
    fn refill_some(&mut self) -> Result<(), Error> {
        let size = usize::from(self.queue.size());
        if self.assembly.spare.len() * 4 >= size { self.refill() } else { Ok(()) }
    }

    fn add_spare(&mut self) -> usize {
        let spare = &mut self.assembly.spare;
        let added = self.queue.add_batch(|place| Some(place.put(Chain::writable(spare.pop()?), ())));
        match added {
            Ok(added) => added,
            // A queue that takes no more says so when something is received.
            Err(error) => {
                self.assembly.spare.extend(error.refused.map(|(chain, ())| chain.writable));
                error.added
            }
        }
    }

    /// Shows the first buffers to the device, which runs now.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        self.queue.kick()?;
        Ok(())
    }

    /// Once the device is gone, its buffers go back to the arena.
    #[cold]
    fn recover(&mut self, error: GetError) -> Error {
        let Some(quiesced) = self.queue.quiesced() else { return error.into() };
        self.assembly.give_up();
        self.assembly.spare.clear();
        self.queue.shutdown(quiesced).for_each(drop);
        GetError::Stopped.into()
    }

    /// Waits for a frame for up to `limit`; `false` if there is none.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        self.refill()?;
        Ok(self.queue.wait(limit)?)
    }

    /// The next frame, for any executor.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, RecvError>> {
        loop {
            // Looks first, so that a frame in several buffers is never left half taken.
            if let Some(received) = self.recv()? {
                return Poll::Ready(Ok(received));
            }
            match ready!(self.queue.poll_get(cx)) {
                Ok(used) => match self.assembly.push(used) {
                    Some(Ok(received)) => return Poll::Ready(Ok(received)),
                    Some(Err(bad)) => return Poll::Ready(Err(RecvError::Frame(bad))),
                    None => {}
                },
                Err(error) => return Poll::Ready(Err(self.recover(error).into())),
            }
        }
    }

    /// The next frame, as a future. Dropping it loses nothing.
    pub async fn received(&mut self) -> Result<Received, RecvError> {
        core::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.queue.index()
    }

    /// The queue's descriptors, each with a buffer.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Bytes of each buffer, the header among them.
    pub fn buffer_len(&self) -> usize {
        self.assembly.buffer_len
    }

    /// Buffers that the device has.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight().into()
    }

    /// What the queue has done so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    pub(super) fn virtqueue(&self) -> &Virtqueue<RxChain, ()> {
        &self.queue
    }

    pub(super) fn virtqueue_mut(&mut self) -> &mut Virtqueue<RxChain, ()> {
        &mut self.queue
    }
}

impl Assembly {
    /// Takes a used buffer; the frame that it completes, or spoils.
    #[inline]
    fn push(&mut self, used: Used<RxChain, ()>) -> Option<Result<Received, BadFrame>> {
        let written = used.written as usize;
        let buffer = used.chain.writable;
        if self.open.is_some() { self.go_on(buffer, written) } else { self.begin(buffer, written) }
    }

    #[inline]
    fn begin(&mut self, mut head: DmaBuf, written: usize) -> Option<Result<Received, BadFrame>> {
        let header = self.rules.header;
        let mut bytes = [0; HeaderFull::SIZE];
        let short = written <= header || head.set_len(written).is_err();
        if short || head.read(0, &mut bytes[..header]).is_err() {
            self.spare(head);
            return Some(Err(BadFrame::TooShort { written }));
        }
        let parsed = self.rules.parse(&bytes[..header]);
        if parsed.buffers == 1 {
            let frame = Frame::received(head, header, Vec::new());
            return Some(self.finish(frame, &parsed));
        }
        let (count, most) = (parsed.buffers, self.most);
        if count == 0 || count > most {
            self.spare(head);
            return Some(Err(BadFrame::BufferCount { count, most }));
        }
        let more = self.lists.pop().unwrap_or_default();
        self.open = Some(OpenFrame { head, parsed, more, empty: false, used: 1 });
        None
    }

    fn go_on(&mut self, mut buffer: DmaBuf, written: usize) -> Option<Result<Received, BadFrame>> {
        let open = self.open.as_mut()?;
        open.used += 1;
        if written == 0 || buffer.set_len(written).is_err() {
            open.empty = true;
            self.spare.push(buffer);
        } else {
            open.more.push(buffer);
        }
        if open.used < open.parsed.buffers {
            return None;
        }
        let OpenFrame { head, parsed, more, empty, .. } = self.open.take()?;
        let frame = Frame::received(head, self.rules.header, more);
        if empty {
            self.throw_away(frame);
            return Some(Err(BadFrame::EmptyBuffer));
        }
        Some(self.finish(frame, &parsed))
    }

    #[inline]
    fn finish(&mut self, frame: Frame, parsed: &Parsed) -> Result<Received, BadFrame> {
        let len = frame.len();
        let checked = if len < ETHERNET_HEADER {
            Err(BadFrame::TooShort { written: self.rules.header + len })
        } else {
            self.rules.offload(parsed, len)
        };
        match checked {
            Ok(offload) => Ok(Received { frame, offload }),
            Err(bad) => {
                self.throw_away(frame);
                Err(bad)
            }
        }
    }

    /// The device has used no more buffers: a frame that lacks some will never be whole (5.1.9.4.1).
    fn give_up(&mut self) -> Option<BadFrame> {
        let OpenFrame { head, parsed, more, used, .. } = self.open.take()?;
        self.throw_away(Frame::received(head, self.rules.header, more));
        Some(BadFrame::MissingBuffers { count: parsed.buffers, used })
    }

    fn throw_away(&mut self, frame: Frame) {
        let (head, mut more) = frame.into_buffers();
        self.spare(head);
        while let Some(buffer) = more.pop() {
            self.spare(buffer);
        }
        self.keep_list(more);
    }

    /// A buffer from the ring, for the ring.
    fn spare(&mut self, mut buffer: DmaBuf) {
        // It was in the ring with this length.
        let _ = buffer.set_len(self.buffer_len);
        self.spare.push(buffer);
    }

    fn keep_list(&mut self, list: Vec<DmaBuf>) {
        if list.capacity() != 0 && self.lists.len() < self.lists.capacity() {
            self.lists.push(list);
        }
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        // What the device has let go of need not leak.
        self.empty();
    }
}

impl core::fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RxQueue")
            .field("queue", &self.queue)
            .field("buffer_len", &self.assembly.buffer_len)
            .finish_non_exhaustive()
    }
}
