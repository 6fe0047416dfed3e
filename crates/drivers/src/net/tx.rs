//! A transmit queue (5.1.9.2).

use super::error::{Error, SendBatchError, SendCopyError, SendError, SendErrorKind};
use super::frame::Shape;
use super::offload::{Offload, Rules};
use super::{ETHERNET_HEADER, Frame, VLAN_TAG};
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::driver::{AddErrorKind, GetError, Stats, Used, Virtqueue};
use virtio_kit::ring::Either;
use virtio_kit::ring::driver::BatchError;
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, Chain, DmaBuf};

/// Header and frame in one buffer, or a header of its own, if the frame has no headroom for it, and the frame's
/// buffers.
pub(super) type TxChain = Either<Chain<DmaBuf>, Chain<(Option<DmaBuf>, DmaBuf, Vec<DmaBuf>)>>;

/// A transmit queue.
///
/// Frames become visible to the device with [`kick`](Self::kick), so that many cost one notification, and come
/// back from [`complete`](Self::complete) when it is through with them.
pub struct TxQueue {
    queue: Virtqueue<TxChain, Shape>,
    rules: Rules,
    /// Bytes of the longest frame that is not to be segmented, without a VLAN tag.
    longest: usize,
    mtu: Option<u16>,
    /// Most buffers of a frame.
    segments: usize,
    /// Headers for frames without headroom.
    headers: Vec<DmaBuf>,
    /// Frames of [`send_copy`](Self::send_copy), to be used again.
    pool: Vec<Frame>,
    arena: Arena,
}

/// Ethernet types whose frames have a tag of four bytes before what they carry.
const TAGGED: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

impl TxQueue {
    pub(super) fn new(
        queue: Virtqueue<TxChain, Shape>,
        rules: Rules,
        mtu: Option<u16>,
        segments: usize,
        arena: Arena,
    ) -> Self {
        let size = usize::from(queue.size());
        let longest = mtu.map_or(usize::from(u16::MAX), usize::from) + ETHERNET_HEADER;
        let (headers, pool) = (Vec::with_capacity(size), Vec::with_capacity(size));
        Self { queue, rules, longest, mtu, segments, headers, pool, arena }
    }

    /// A frame of `len` bytes with headroom for this queue's header. What it holds is what was there before.
    pub fn frame(&self, len: usize) -> Result<Frame, AllocError> {
        Frame::alloc(&self.arena, self.rules.header, len)
    }

    /// Bytes of the header: the headroom with which a frame takes one descriptor.
    pub fn headroom(&self) -> usize {
        self.rules.header
    }

    /// Adds a frame, to be made visible by the next [`kick`](Self::kick). On an error it comes back.
    #[inline]
    pub fn send(&mut self, frame: Frame, offload: &Offload) -> Result<(), SendError> {
        let (chain, shape) =
            prepare(&self.rules, self.limits(), &mut self.headers, &self.arena, frame, offload)?;
        self.queue
            .add_buf(chain, shape)
            .map_err(|error| failed(&self.rules, &mut self.headers, error.kind, error.chain, error.token))
    }

    /// Adds frames until `next` gives no more, or the ring has no descriptor left; how many. On an error the frame
    /// at which it happened comes back in it, and those before it stay added.
    pub fn send_batch(
        &mut self,
        mut next: impl FnMut() -> Option<(Frame, Offload)>,
    ) -> Result<usize, SendBatchError> {
        let (limits, mut stopped) = (self.limits(), None);
        let (rules, headers, arena) = (&self.rules, &mut self.headers, &self.arena);
        let added = self.queue.add_batch(|place| {
            let (frame, offload) = next()?;
            match prepare(rules, limits, headers, arena, frame, &offload) {
                Ok((chain, shape)) => Some(place.put(chain, shape)),
                Err(error) => {
                    stopped = Some(error);
                    None
                }
            }
        });
        match (added, stopped) {
            (Ok(added), None) => Ok(added),
            (Ok(added), Some(SendError { kind, frame })) => {
                Err(SendBatchError { added, kind, frame: Some(frame) })
            }
            (Err(BatchError { added, kind, refused: None }), _) => {
                Err(SendBatchError { added, kind: SendErrorKind::Queue(kind), frame: None })
            }
            (Err(BatchError { added, kind, refused: Some((chain, shape)) }), _) => {
                let SendError { kind, frame } = failed(&self.rules, &mut self.headers, kind, chain, shape);
                Err(SendBatchError { added, kind, frame: Some(frame) })
            }
        }
    }

    /// Copies `bytes` into a frame and adds it. Frames that the device is through with are taken off first, and
    /// used for the next copies: a queue is used by copying, or by [`send`](Self::send) and
    /// [`complete`](Self::complete).
    pub fn send_copy(&mut self, bytes: &[u8], offload: &Offload) -> Result<(), SendCopyError> {
        self.reclaim().map_err(SendCopyError::Queue)?;
        let len = bytes.len();
        if len < ETHERNET_HEADER {
            return Err(SendCopyError::Send(SendErrorKind::TooShort(len)));
        }
        // None yet, or none that is long enough: that one goes back to the arena.
        let pooled = self.pool.pop().and_then(|mut frame| frame.set_len(len).is_ok().then_some(frame));
        let mut frame = match pooled {
            Some(frame) => frame,
            None => self.frame(len).map_err(|error| SendCopyError::Send(SendErrorKind::Memory(error)))?,
        };
        // It has just that length.
        let _ = frame.write(0, bytes);
        self.send(frame, offload).map_err(|SendError { kind, frame }| {
            self.keep(frame);
            SendCopyError::Send(kind)
        })
    }

    /// Takes off all frames that were sent and keeps them for [`send_copy`](Self::send_copy); how many.
    pub fn reclaim(&mut self) -> Result<usize, Error> {
        let mut count = 0;
        let (rules, headers, pool) = (&self.rules, &mut self.headers, &mut self.pool);
        let size = usize::from(self.queue.size());
        let got = self.queue.get_batch(size, |used| {
            let frame = finish(rules, headers, used);
            if pool.len() < size {
                pool.push(frame);
            }
            count += 1;
        });
        match got {
            Ok(_) => Ok(count),
            Err(error) => match self.recover(error)? {
                Some(frame) => {
                    self.keep(frame);
                    Ok(1)
                }
                None => Ok(0),
            },
        }
    }

    fn keep(&mut self, frame: Frame) {
        if self.pool.len() < usize::from(self.queue.size()) {
            self.pool.push(frame);
        }
    }

    /// Shows the device what was added, and tells it if it wants to be told; whether it was.
    #[inline]
    pub fn kick(&mut self) -> Result<bool, Error> {
        Ok(self.queue.kick()?)
    }

    /// The next frame that the device is through with, or `None`.
    ///
    /// Once the device was reset or removed, every frame in flight comes back, sent or not, and then this is an
    /// error.
    #[inline]
    pub fn complete(&mut self) -> Result<Option<Frame>, Error> {
        match self.queue.get_buf() {
            Ok(Some(used)) => Ok(Some(finish(&self.rules, &mut self.headers, used))),
            Ok(None) => Ok(None),
            Err(error) => self.recover(error),
        }
    }

    /// Hands up to `max` frames that the device is through with to `each`; how many there were.
    #[inline]
    pub fn complete_batch(&mut self, max: usize, mut each: impl FnMut(Frame)) -> Result<usize, Error> {
        let (rules, headers) = (&self.rules, &mut self.headers);
        match self.queue.get_batch(max, |used| each(finish(rules, headers, used))) {
            Ok(got) => Ok(got),
            Err(error) => Ok(self.recover(error)?.into_iter().map(each).count()),
        }
    }

    /// After the device is gone, what was in flight comes back one by one.
    #[cold]
    fn recover(&mut self, error: GetError) -> Result<Option<Frame>, Error> {
        let Some(quiesced) = self.queue.quiesced() else { return Err(error.into()) };
        let Some((chain, shape)) = self.queue.shutdown(quiesced).next() else {
            return Err(GetError::Stopped.into());
        };
        Ok(Some(restore(&self.rules, &mut self.headers, chain, shape)))
    }

    /// Waits for the device to be through with a frame for up to `limit`; `false` if it is not.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        Ok(self.queue.wait(limit)?)
    }

    /// The next frame that the device is through with, for any executor.
    pub fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Error>> {
        match core::task::ready!(self.queue.poll_get(cx)) {
            Ok(used) => Poll::Ready(Ok(finish(&self.rules, &mut self.headers, used))),
            Err(error) => match self.recover(error) {
                Ok(Some(frame)) => Poll::Ready(Ok(frame)),
                Ok(None) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// The next frame that the device is through with, as a future. Dropping it loses nothing.
    pub async fn completed(&mut self) -> Result<Frame, Error> {
        core::future::poll_fn(|cx| self.poll_complete(cx)).await
    }

    /// Longest frame that is not to be segmented, in bytes, without a VLAN tag.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Largest packet in bytes without the Ethernet header, if the device says (MTU).
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Memory that the device can reach, for frames.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.queue.index()
    }

    /// The queue's descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Frames in flight.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight().into()
    }

    /// Free descriptors: so many frames in one buffer with headroom can be added now.
    pub fn room(&self) -> usize {
        self.queue.room().into()
    }

    /// What the queue has done so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    pub(super) fn virtqueue(&self) -> &Virtqueue<TxChain, Shape> {
        &self.queue
    }

    pub(super) fn virtqueue_mut(&mut self) -> &mut Virtqueue<TxChain, Shape> {
        &mut self.queue
    }

    fn limits(&self) -> (usize, usize) {
        (self.longest, self.segments)
    }

    #[cfg(feature = "smoltcp")]
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// Checks a frame and writes its header; what goes into the ring.
#[inline]
fn prepare(
    rules: &Rules,
    (longest, segments): (usize, usize),
    headers: &mut Vec<DmaBuf>,
    arena: &Arena,
    frame: Frame,
    offload: &Offload,
) -> Result<(TxChain, Shape), SendError> {
    let len = frame.len();
    let checked = if len < ETHERNET_HEADER {
        Err(SendErrorKind::TooShort(len))
    } else if len > longest && offload.segmentation.is_none() && !is_tagged_and_fits(&frame, longest) {
        Err(SendErrorKind::TooLong { len, most: longest })
    } else if frame.buffers() > segments {
        Err(SendErrorKind::Queue(AddErrorKind::TooLong))
    } else {
        rules.build(len, offload).map_err(SendErrorKind::Offload)
    };
    let header = match checked {
        Ok(header) => header,
        Err(kind) => return Err(SendError { kind, frame }),
    };
    let bytes = rules.bytes(&header);
    if frame.headroom() >= rules.header {
        let (mut head, more, shape) = frame.into_chain(rules.header);
        // The window begins with that headroom.
        let _ = head.write(0, bytes);
        let chain = match more.is_empty() {
            true => Either::One(Chain::readable(head)),
            false => Either::Other(Chain::readable((None, head, more))),
        };
        return Ok((chain, shape));
    }
    let own = match headers.pop() {
        Some(header) => Ok(header),
        None => arena.alloc(rules.header),
    };
    match own {
        Ok(mut own) => {
            // It was allocated with this length.
            let _ = own.write(0, bytes);
            let (head, more, shape) = frame.into_chain(rules.header);
            Ok((Either::Other(Chain::readable((Some(own), head, more))), shape))
        }
        Err(error) => Err(SendError { kind: SendErrorKind::Memory(error), frame }),
    }
}

/// A VLAN tag does not count for the MTU.
#[cold]
fn is_tagged_and_fits(frame: &Frame, longest: usize) -> bool {
    let mut kind = [0; 2];
    frame.len() <= longest + VLAN_TAG && frame.read(12, &mut kind).is_ok() && TAGGED.contains(&kind)
}

/// A frame that the queue did not take, given back.
#[cold]
fn failed(
    rules: &Rules,
    headers: &mut Vec<DmaBuf>,
    why: AddErrorKind,
    chain: TxChain,
    shape: Shape,
) -> SendError {
    let kind = match why {
        AddErrorKind::Full => SendErrorKind::Full,
        kind => SendErrorKind::Queue(kind),
    };
    SendError { kind, frame: restore(rules, headers, chain, shape) }
}

#[inline]
fn finish(rules: &Rules, headers: &mut Vec<DmaBuf>, used: Used<TxChain, Shape>) -> Frame {
    restore(rules, headers, used.chain, used.token)
}

/// The frame of a chain; a header of its own is kept for the next.
#[inline]
fn restore(rules: &Rules, headers: &mut Vec<DmaBuf>, chain: TxChain, shape: Shape) -> Frame {
    match chain {
        Either::One(chain) => Frame::from_chain(chain.readable, Vec::new(), shape, rules.header),
        Either::Other(chain) => {
            let (header, head, more) = chain.readable;
            headers.extend(header);
            Frame::from_chain(head, more, shape, rules.header)
        }
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        // What the device has let go of need not leak.
        if let Some(quiesced) = self.queue.quiesced() {
            self.queue.shutdown(quiesced).for_each(drop);
        }
    }
}

impl core::fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TxQueue").field("queue", &self.queue).finish_non_exhaustive()
    }
}
