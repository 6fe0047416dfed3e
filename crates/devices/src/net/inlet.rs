//! A device's receiving end for frames that other devices in the program send: bounded queues of owned frames,
//! one for each receive queue, filled from any thread and emptied by the queue's own.

use super::backend::Receive;
use super::frame::{Frame, MAX_FRAME, Outgoing};
use super::steering::{Steerer, Steering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use core::task::Waker;
use crossbeam_queue::ArrayQueue;
use portable_atomic::AtomicU64;
use spin::Mutex;

/// Longest frame in a small buffer: an ordinary one.
const SMALL: usize = 2048;

/// How much may wait for each receive queue of a device. Buffers are made when they are first needed, and kept.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Frames of up to 2048 bytes, at 2048 bytes each.
    pub small: usize,
    /// Longer frames, at 65550 bytes each.
    pub large: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { small: 256, large: 32 }
    }
}

/// The receiving end.
pub(super) struct Inlet {
    lanes: Box<[Lane]>,
    small: Pool,
    large: Pool,
    steering: Steering,
    dropped: AtomicU64,
}

/// What waits for one receive queue.
struct Lane {
    ready: ArrayQueue<Frame>,
    /// The queue runs; otherwise nothing is put in.
    open: AtomicBool,
    /// The receiver wants to be woken.
    armed: AtomicBool,
    /// It was told that frames get lost, and has not moved since.
    nudged: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// The frame that a receiver that was dropped had first.
    kept: Mutex<Option<Frame>>,
}

/// Buffers of one length.
struct Pool {
    free: ArrayQueue<Box<[u8]>>,
    made: AtomicUsize,
    len: usize,
}

impl Pool {
    fn new(count: usize, len: usize) -> Self {
        Self { free: ArrayQueue::new(count.max(1)), made: AtomicUsize::new(0), len }
    }

    fn take(&self) -> Option<Box<[u8]>> {
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        let limit = self.free.capacity();
        let more = |made| (made < limit).then_some(made + 1);
        self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(vec![0; self.len].into())
    }
}

impl Inlet {
    pub(super) fn new(steering: Steering, buffers: Buffers) -> Arc<Self> {
        let pairs = usize::from(steering.pairs());
        let lane = |_| Lane {
            ready: ArrayQueue::new((buffers.small + buffers.large).max(1)),
            open: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            waker: Mutex::new(None),
            kept: Mutex::new(None),
        };
        Arc::new(Self {
            lanes: (0..pairs).map(lane).collect(),
            small: Pool::new(pairs * buffers.small, SMALL),
            large: Pool::new(pairs * buffers.large, MAX_FRAME),
            steering,
            dropped: AtomicU64::new(0),
        })
    }

    /// Frames that found no place, or no queue that runs.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How this device wants its frames spread.
    pub(super) fn steerer(&self) -> Steerer {
        self.steering.follow()
    }

    fn pool(&self, len: usize) -> &Pool {
        if len <= SMALL { &self.small } else { &self.large }
    }

    fn recycle(&self, frame: Frame) {
        let space = frame.into_space();
        // There is a place for every buffer that was made.
        let _: Result<(), Box<[u8]>> = self.pool(space.len()).free.push(space);
    }

    /// Opens the receiving end of queue `pair`.
    pub(super) fn open(self: &Arc<Self>, pair: u16, waker: &Waker) -> Option<InletReceive> {
        let lane = self.lanes.get(usize::from(pair))?;
        *lane.waker.lock() = Some(waker.clone());
        let first = lane.kept.lock().take();
        lane.open.store(true, Ordering::Release);
        Some(InletReceive { inlet: self.clone(), pair: pair.into(), first })
    }

    /// Drops everything that waits.
    pub(super) fn clear(&self) {
        for lane in &self.lanes {
            let kept = lane.kept.lock().take();
            kept.into_iter().for_each(|frame| self.recycle(frame));
            // As many as there is place for: somebody may be putting in more.
            for _ in 0..lane.ready.capacity() {
                let Some(frame) = lane.ready.pop() else { break };
                self.recycle(frame);
            }
        }
    }

    /// Puts a copy of a frame in: the queue that it is for, or `None` if it is lost.
    pub(super) fn deliver(&self, frame: &Outgoing, steerer: &mut Steerer) -> Option<usize> {
        let lane = self.try_deliver(frame, steerer);
        if lane.is_none() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        lane
    }

    fn try_deliver(&self, frame: &Outgoing, steerer: &mut Steerer) -> Option<usize> {
        let pool = self.pool(frame.len());
        let mut space = match pool.take() {
            Some(space) => space,
            // Everything waits to be received: inline, the receivers empty their lanes now.
            None => {
                self.lanes.iter().for_each(Lane::nudge);
                pool.take()?
            }
        };
        let bytes = &mut space[..frame.len()];
        let copied = frame.read_at(0, bytes);
        let choice = steerer.choose(bytes);
        let mut copy = Frame::in_space(space, frame.len());
        (copy.offload, copy.hash) = (frame.offload, choice.hash);
        let index = usize::from(choice.pair);
        let lane = self.lanes.get(index).filter(|lane| lane.open.load(Ordering::Acquire));
        let (Some(lane), Ok(())) = (lane, copied) else {
            self.recycle(copy);
            return None;
        };
        let Err(copy) = lane.ready.push(copy) else { return Some(index) };
        lane.nudge();
        match lane.ready.push(copy) {
            Ok(()) => Some(index),
            Err(copy) => {
                self.recycle(copy);
                None
            }
        }
    }

    /// Wakes a lane's receiver if it asked for that, after frames were put in.
    pub(super) fn wake(&self, lane: usize) {
        // With the one in `arm`: either this sees that the receiver sleeps or it sees the frame.
        fence(Ordering::SeqCst);
        if let Some(lane) = self.lanes.get(lane)
            && lane.armed.load(Ordering::Relaxed)
            && lane.armed.swap(false, Ordering::Relaxed)
        {
            lane.call();
        }
    }
}

impl Lane {
    /// Wakes the receiver, asked or not, since there is no more space. Once, until it moves.
    fn nudge(&self) {
        if !self.nudged.swap(true, Ordering::Relaxed) {
            self.armed.store(false, Ordering::Relaxed);
            self.call();
        }
    }

    fn moved(&self) {
        if self.nudged.load(Ordering::Relaxed) {
            self.nudged.store(false, Ordering::Relaxed);
        }
    }

    fn call(&self) {
        // Not under the lock: waking may run the receiver here and now.
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One receive queue's side of an inlet.
pub(super) struct InletReceive {
    inlet: Arc<Inlet>,
    pair: usize,
    first: Option<Frame>,
}

impl InletReceive {
    fn lane(&self) -> &Lane {
        &self.inlet.lanes[self.pair]
    }
}

impl Receive for InletReceive {
    #[inline]
    fn peek(&mut self) -> Option<&mut Frame> {
        if self.first.is_none() {
            self.first = self.lane().ready.pop();
        }
        self.first.as_mut()
    }

    #[inline]
    fn release(&mut self) {
        if let Some(frame) = self.first.take() {
            self.inlet.recycle(frame);
            self.lane().moved();
        }
    }

    fn arm(&mut self) -> bool {
        let lane = self.lane();
        lane.moved();
        lane.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.first.is_none() && lane.ready.is_empty() {
            return true;
        }
        lane.armed.store(false, Ordering::Relaxed);
        false
    }

    fn is_full(&self) -> bool {
        let pools = [&self.inlet.small, &self.inlet.large];
        let spent =
            |pool: &Pool| pool.free.is_empty() && pool.made.load(Ordering::Relaxed) == pool.free.capacity();
        self.lane().ready.is_full() || pools.into_iter().any(spent)
    }
}

impl Drop for InletReceive {
    fn drop(&mut self) {
        let lane = &self.inlet.lanes[self.pair];
        lane.open.store(false, Ordering::Release);
        *lane.waker.lock() = None;
        *lane.kept.lock() = self.first.take();
    }
}

/// A receiving end that nothing ever comes to.
pub(super) struct Silence;

impl Receive for Silence {
    fn peek(&mut self) -> Option<&mut Frame> {
        None
    }
    fn release(&mut self) {}
    fn arm(&mut self) -> bool {
        true
    }
    fn is_full(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::shared::Shared;
    use super::*;

    fn inlet(buffers: Buffers) -> Arc<Inlet> {
        Inlet::new(Steering(Arc::new(Shared::new(&Options::new([2, 0, 0, 0, 0, 1])))), buffers)
    }

    #[test]
    fn a_receiver_that_is_about_to_sleep_sees_the_frame_that_came_meanwhile() {
        let inlet = inlet(Buffers::default());
        let mut receive = inlet.open(0, Waker::noop()).unwrap();
        assert!(receive.arm());
        inlet.lanes[0].ready.push(Frame::with_capacity(60)).unwrap();
        assert!(!receive.arm(), "nobody owes it a wake");
        assert!(receive.peek().is_some());
        assert!(!receive.arm(), "the frame is still there");
        receive.release();
        assert!(receive.arm());
    }

    #[test]
    fn buffers_are_made_up_to_the_bound_and_then_used_again() {
        let pool = Pool::new(2, SMALL);
        let (one, other) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((one.len(), other.len()), (SMALL, SMALL));
        assert!(pool.take().is_none());
        pool.free.push(one).unwrap();
        assert!(pool.take().is_some() && pool.take().is_none());
    }
}
