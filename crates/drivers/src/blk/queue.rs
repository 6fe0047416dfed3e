//! One request queue.

use super::error::{Error, RequestError, SubmitError, SubmitErrorKind};
use super::info::Info;
use super::request::{Content, Frame, Kind, NO_STATUS, RequestChain, Tag, apart, chain, result};
use super::{SECTOR, driver::Shared};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::driver::{AddErrorKind, BatchError, GetError, Stats, Used, Virtqueue};
use virtio_kit::spec::blk::{DiscardFlags, DiscardWriteZeroes, ID_LEN};
use virtio_kit::{Arena, DmaBuf, Either, Parts, Window};

/// A request queue: data buffers of type `D` (a `DmaBuf`, an array, a `Vec`), tokens of type `T`.
///
/// Requests become visible to the device with [`kick`](Self::kick), so that many cost one notification.
pub struct BlkQueue<D: Parts, T> {
    queue: Virtqueue<RequestChain<D>, Tag<T>>,
    frames: Vec<Frame>,
    ranges: Vec<DmaBuf>,
    shared: Arc<Shared>,
    info: Info,
    arena: Arena,
}

/// A request that is done, one way or the other: its buffers and its token, given back.
#[derive(Debug)]
pub struct Completion<D, T> {
    /// What was asked for.
    pub kind: Kind,
    /// The data buffers, if the request had any. After a failed read they may hold anything.
    pub data: Option<D>,
    /// The token.
    pub token: T,
    /// The identification that the device gave, for [`Kind::GetId`].
    pub id: Option<[u8; ID_LEN]>,
    /// How it went.
    pub result: Result<(), RequestError>,
}

impl<D: Parts, T> BlkQueue<D, T> {
    pub(super) fn new(
        queue: Virtqueue<RequestChain<D>, Tag<T>>,
        shared: Arc<Shared>,
        info: Info,
        arena: Arena,
    ) -> Result<Self, virtio_kit::ring::mem::AllocError> {
        let frame = |_| Ok(Frame { header: arena.alloc(Frame::HEADER)?, status: arena.alloc(1)? });
        let frames = (0..queue.size()).map(frame).collect::<Result<_, _>>()?;
        Ok(Self { queue, frames, ranges: Vec::new(), shared, info, arena })
    }

    /// Reads sectors from `sector` on into `data`, as many as it has space for.
    #[inline]
    pub fn read(&mut self, sector: u64, data: D, token: T) -> Result<(), SubmitError<D, T>> {
        match self.check_data(sector, &data) {
            Ok(()) => self.submit(Kind::Read, sector, Content::In(data), token),
            Err(kind) => Err(SubmitError { kind, data: Some(data), token }),
        }
    }

    /// Writes all of `data` to the sectors from `sector` on.
    #[inline]
    pub fn write(&mut self, sector: u64, data: D, token: T) -> Result<(), SubmitError<D, T>> {
        let checked =
            if self.info.read_only { Err(SubmitErrorKind::ReadOnly) } else { self.check_data(sector, &data) };
        match checked {
            Ok(()) => self.submit(Kind::Write, sector, Content::Out(data), token),
            Err(kind) => Err(SubmitError { kind, data: Some(data), token }),
        }
    }

    /// Submits reads until `next` gives none, or the queue has no room: how many. Each is a first sector, the buffers
    /// and a token, and is asked for only if there is room.
    ///
    /// On an error the request at which it happened comes back in it, and those before it stay submitted.
    #[inline]
    pub fn read_batch(
        &mut self,
        next: impl FnMut() -> Option<(u64, D, T)>,
    ) -> Result<usize, SubmitError<D, T>> {
        self.transfer_batch(Kind::Read, next)
    }

    /// As [`read_batch`](Self::read_batch), of writes.
    #[inline]
    pub fn write_batch(
        &mut self,
        next: impl FnMut() -> Option<(u64, D, T)>,
    ) -> Result<usize, SubmitError<D, T>> {
        self.transfer_batch(Kind::Write, next)
    }

    #[inline(always)]
    fn transfer_batch(
        &mut self,
        kind: Kind,
        mut next: impl FnMut() -> Option<(u64, D, T)>,
    ) -> Result<usize, SubmitError<D, T>> {
        let Self { queue, frames, shared, info, .. } = self;
        // What is found wrong inside, where only a chain can be returned.
        let mut refused = None;
        let added = queue.add_batch(|place| {
            let mut frame = frames.pop()?;
            let Some((sector, data, token)) = next() else {
                frames.push(frame);
                return None;
            };
            let checked = match kind {
                Kind::Write if info.read_only => Err(SubmitErrorKind::ReadOnly),
                _ => check_data(info, shared, sector, &data),
            };
            if let Err(kind) = checked {
                frames.push(frame);
                refused = Some(SubmitError { kind, data: Some(data), token });
                return None;
            }
            frame.prepare(kind, sector);
            let content = if kind == Kind::Write { Content::Out(data) } else { Content::In(data) };
            Some(place.put(chain(frame, content), Tag { kind, token }))
        });
        match (added, refused) {
            (Ok(added), None) => Ok(added),
            (_, Some(refused)) => Err(refused),
            (Err(error), None) => self.not_added(error),
        }
    }

    /// A batch that the ring did not take to its end.
    #[cold]
    fn not_added(&mut self, error: BatchError<RequestChain<D>, Tag<T>>) -> Result<usize, SubmitError<D, T>> {
        let BatchError { added, kind, refused } = error;
        let Some((chain, tag)) = refused else { return Ok(added) };
        let (frame, data, _) = apart(chain);
        self.frames.push(frame);
        Err(SubmitError { kind: why(kind), data, token: tag.token })
    }

    /// Makes durable every write that was completed before. A device without a cache has nothing to do, and
    /// then this fails as unsupported: see [`Info::flush`].
    pub fn flush(&mut self, token: T) -> Result<(), SubmitError<D, T>> {
        if !self.info.flush {
            return Err(SubmitError { kind: SubmitErrorKind::Unsupported, data: None, token });
        }
        self.submit(Kind::Flush, 0, Content::Nothing, token)
    }

    /// Reads the device's identification.
    pub fn get_id(&mut self, token: T) -> Result<(), SubmitError<D, T>> {
        match self.extra(ID_LEN) {
            Ok(mut id) => {
                // QEMU writes only as much as there is, and the buffer may have been anybody's.
                id.fill(0);
                self.submit(Kind::GetId, 0, Content::Id(id), token)
            }
            Err(kind) => Err(SubmitError { kind, data: None, token }),
        }
    }

    /// Gives `count` sectors from `sector` on up: what they read as is up to the device.
    pub fn discard(&mut self, sector: u64, count: u32, token: T) -> Result<(), SubmitError<D, T>> {
        self.range(Kind::Discard, sector, count, DiscardFlags::empty(), token)
    }

    /// Makes `count` sectors from `sector` on read as zeros, and lets the device give their space up if
    /// `unmap`.
    pub fn write_zeroes(
        &mut self,
        sector: u64,
        count: u32,
        unmap: bool,
        token: T,
    ) -> Result<(), SubmitError<D, T>> {
        let unmap = unmap && self.info.write_zeroes_may_unmap;
        let flags = if unmap { DiscardFlags::UNMAP } else { DiscardFlags::empty() };
        self.range(Kind::WriteZeroes, sector, count, flags, token)
    }

    /// Erases `count` sectors from `sector` on so that nothing of them can be read again.
    pub fn secure_erase(&mut self, sector: u64, count: u32, token: T) -> Result<(), SubmitError<D, T>> {
        self.range(Kind::SecureErase, sector, count, DiscardFlags::empty(), token)
    }

    fn range(
        &mut self,
        kind: Kind,
        sector: u64,
        count: u32,
        flags: DiscardFlags,
        token: T,
    ) -> Result<(), SubmitError<D, T>> {
        let limits = match kind {
            Kind::Discard => self.info.discard,
            Kind::SecureErase => self.info.secure_erase,
            _ => self.info.write_zeroes,
        };
        let checked = match limits {
            _ if self.info.read_only => Err(SubmitErrorKind::ReadOnly),
            None => Err(SubmitErrorKind::Unsupported),
            Some(_) if count == 0 => Err(SubmitErrorKind::BadLength(0)),
            Some(limits) if count > limits.max_sectors => Err(SubmitErrorKind::TooLarge),
            Some(_) => self.check_range(sector, count.into()),
        };
        let range = checked.and_then(|()| {
            let mut range = self.extra(Frame::RANGE)?;
            let flags = flags.bits().into();
            let value = DiscardWriteZeroes { sector: sector.into(), num_sectors: count.into(), flags };
            // The buffer was allocated with this length.
            let _ = range.write_value(0, &value);
            Ok(range)
        });
        match range {
            Ok(range) => self.submit(kind, 0, Content::Range(range), token),
            Err(kind) => Err(SubmitError { kind, data: None, token }),
        }
    }

    /// A small buffer for a range or an id.
    fn extra(&mut self, len: usize) -> Result<DmaBuf, SubmitErrorKind> {
        let mut buffer = match self.ranges.pop() {
            Some(buffer) => buffer,
            None => self.arena.alloc(len).map_err(|_| SubmitErrorKind::Full)?,
        };
        buffer.set_len(len).map_err(|_| SubmitErrorKind::TooLarge)?;
        Ok(buffer)
    }

    #[inline(always)]
    fn check_data(&self, sector: u64, data: &D) -> Result<(), SubmitErrorKind> {
        check_data(&self.info, &self.shared, sector, data)
    }

    fn check_range(&self, sector: u64, count: u64) -> Result<(), SubmitErrorKind> {
        check_range(&self.shared, sector, count)
    }

    #[inline(always)]
    fn submit(
        &mut self,
        kind: Kind,
        sector: u64,
        content: Content<D>,
        token: T,
    ) -> Result<(), SubmitError<D, T>> {
        let Some(mut frame) = self.frames.pop() else {
            let (data, extra) = content.into_parts();
            self.ranges.extend(extra);
            return Err(SubmitError { kind: SubmitErrorKind::Full, data, token });
        };
        frame.prepare(kind, sector);
        match self.queue.add_buf(chain(frame, content), Tag { kind, token }) {
            Ok(()) => Ok(()),
            Err(error) => {
                let (frame, data, extra) = apart(error.chain);
                self.frames.push(frame);
                self.ranges.extend(extra);
                Err(SubmitError { kind: why(error.kind), data, token: error.token.token })
            }
        }
    }

    /// Shows the device what was submitted, and tells it if it wants to be told.
    #[inline]
    pub fn kick(&mut self) -> Result<bool, Error> {
        Ok(self.queue.kick()?)
    }

    /// The next completed request, or `None`.
    ///
    /// Once the device was reset or removed, every request in flight comes back as
    /// [`RequestError::Removed`], and then this is an error.
    #[inline]
    pub fn complete(&mut self) -> Result<Option<Completion<D, T>>, Error> {
        match self.queue.get_buf() {
            Ok(Some(used)) => Ok(Some(self.finish(used))),
            Ok(None) => Ok(None),
            Err(error) => self.recover(error),
        }
    }

    /// Hands up to `max` completed requests to `each`; how many there were.
    #[inline]
    pub fn complete_batch(
        &mut self,
        max: usize,
        mut each: impl FnMut(Completion<D, T>),
    ) -> Result<usize, Error> {
        let (frames, ranges) = (&mut self.frames, &mut self.ranges);
        let got = self.queue.get_batch(max, |used| each(finish(frames, ranges, used)));
        match got {
            Ok(got) => Ok(got),
            Err(error) => Ok(self.recover(error)?.into_iter().map(each).count()),
        }
    }

    /// After the device is gone, what was in flight comes back one by one.
    #[cold]
    fn recover(&mut self, error: GetError) -> Result<Option<Completion<D, T>>, Error> {
        let Some(quiesced) = self.queue.quiesced() else { return Err(error.into()) };
        let Some((chain, tag)) = self.queue.shutdown(quiesced).next() else {
            return Err(GetError::Stopped.into());
        };
        let (frame, data, extra) = apart(chain);
        self.frames.push(frame);
        self.ranges.extend(extra);
        let result = Err(RequestError::Removed);
        Ok(Some(Completion { kind: tag.kind, data, token: tag.token, id: None, result }))
    }

    #[inline(always)]
    fn finish(&mut self, used: Used<RequestChain<D>, Tag<T>>) -> Completion<D, T> {
        finish(&mut self.frames, &mut self.ranges, used)
    }

    /// Whether a completed request waits to be taken.
    #[inline]
    pub fn has_completed(&self) -> bool {
        self.queue.has_used()
    }

    /// Waits for completed requests for up to `limit`; `false` if there are none.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        Ok(self.queue.wait(limit)?)
    }

    /// [`wait`](Self::wait), after looking for completed requests for as long as `window` says.
    pub fn wait_looking(
        &mut self,
        limit: Duration,
        window: &mut Window,
        clock: &dyn Clock,
    ) -> Result<bool, Error> {
        Ok(self.queue.wait_looking(limit, window, clock)?)
    }

    /// The next completed request, for any executor.
    pub fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Result<Completion<D, T>, Error>> {
        match core::task::ready!(self.queue.poll_get(cx)) {
            Ok(used) => Poll::Ready(Ok(self.finish(used))),
            Err(error) => match self.recover(error) {
                Ok(Some(completion)) => Poll::Ready(Ok(completion)),
                Ok(None) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// The next completed request, as a future. Dropping it loses nothing.
    pub async fn completed(&mut self) -> Result<Completion<D, T>, Error> {
        core::future::poll_fn(|cx| self.poll_complete(cx)).await
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight().into()
    }

    /// What the device says of itself; its size may have changed since, see [`sectors`](Self::sectors).
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Length of the device in sectors, now.
    pub fn sectors(&self) -> u64 {
        self.shared.sectors()
    }

    /// Memory that the device can reach, for data buffers.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What the queue has done so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    pub(super) fn virtqueue(&self) -> &Virtqueue<RequestChain<D>, Tag<T>> {
        &self.queue
    }

    pub(super) fn virtqueue_mut(&mut self) -> &mut Virtqueue<RequestChain<D>, Tag<T>> {
        &mut self.queue
    }

    /// The queue's descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }
}

fn why(kind: AddErrorKind) -> SubmitErrorKind {
    match kind {
        AddErrorKind::Full => SubmitErrorKind::Full,
        kind => SubmitErrorKind::Queue(kind),
    }
}

#[inline(always)]
fn check_data<D: Parts>(info: &Info, shared: &Shared, sector: u64, data: &D) -> Result<(), SubmitErrorKind> {
    let limits = &info.limits;
    let (mut len, mut count, mut large) = (0u64, 0u32, false);
    data.visit(|buffer| {
        len += buffer.len() as u64;
        count += 1;
        large |= buffer.len() > limits.segment_size as usize;
    });
    if len == 0 || !len.is_multiple_of(SECTOR) {
        return Err(SubmitErrorKind::BadLength(len));
    }
    if large || count > limits.segments {
        return Err(SubmitErrorKind::TooLarge);
    }
    check_range(shared, sector, len / SECTOR)
}

#[inline(always)]
fn check_range(shared: &Shared, sector: u64, count: u64) -> Result<(), SubmitErrorKind> {
    let sectors = shared.sectors();
    if sector > sectors || count > sectors - sector {
        return Err(SubmitErrorKind::OutOfRange { sector, count, sectors });
    }
    Ok(())
}

#[inline(always)]
fn finish<D: Parts, T>(
    frames: &mut Vec<Frame>,
    ranges: &mut Vec<DmaBuf>,
    used: Used<RequestChain<D>, Tag<T>>,
) -> Completion<D, T> {
    let (frame, data) = match used.chain {
        Either::One(chain) => {
            let ((header, data), status) = chain.into_parts();
            (Frame { header, status }, data)
        }
        Either::Other(Either::One(chain)) => {
            let (header, (data, status)) = chain.into_parts();
            (Frame { header, status }, data)
        }
        Either::Other(Either::Other(_)) => return finish_without_data(frames, ranges, used),
    };
    let Tag { kind, token } = used.token;
    // The used length need not cover the status byte, so only the byte itself counts (5.2.6.1).
    let status = frame.status.read_value(0).unwrap_or(NO_STATUS);
    frames.push(frame);
    Completion { kind, data: Some(data), token, id: None, result: result(status) }
}

/// Requests other than reads and writes are rare.
#[cold]
#[inline(never)]
fn finish_without_data<D: Parts, T>(
    frames: &mut Vec<Frame>,
    ranges: &mut Vec<DmaBuf>,
    used: Used<RequestChain<D>, Tag<T>>,
) -> Completion<D, T> {
    let Tag { kind, token } = used.token;
    let (frame, data, extra) = apart(used.chain);
    let status = frame.status.read_value(0).unwrap_or(NO_STATUS);
    let id = match &extra {
        Some(extra) if kind == Kind::GetId => extra.read_value(0).ok(),
        _ => None,
    };
    frames.push(frame);
    ranges.extend(extra);
    Completion { kind, data, token, id, result: result(status) }
}
