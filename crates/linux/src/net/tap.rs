//! A TAP as what a network device is attached to.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use rustix::io::{Errno, readv};
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError};
use virtio_kit_devices::net::{
    ALL_OFFLOADS, Backend, Frame, MAX_FRAME, Outgoing, Receive, Steerer, Steering, Transmit,
};
use virtio_kit_spec::net::{F, HeaderLegacy};
use zerocopy::{FromZeros, IntoBytes};

use super::header::{decode, encode};
use super::interface::{Interface, OpenError};
use crate::watch::Watch;

/// Most pieces of a frame that the kernel is shown where they lie, with the header.
const PIECES: usize = 64;

/// Frames that were meant for nobody and are dropped when a driver begins, at most.
const STALE: usize = 4096;

/// A TAP of the kernel: what its interface sends is received, and the other way round. Frames go over with their
/// checksums and segments undone.
///
/// A queue of it belongs to each pair of queues of the device. The kernel chooses among the queues that are
/// attached, which are those that the driver uses, and keeps each flow on the queue that it was sent on last.
pub struct Tap {
    inner: Arc<Inner>,
    steering: Option<Steering>,
}

/// By which the program sees what a TAP has lost.
#[derive(Clone)]
pub struct TapHandle(Arc<Inner>);

/// What a TAP has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Frames of the driver that the kernel did not take: its interface is down, say.
    pub refused: u64,
    /// Frames of the kernel with a header that makes no sense.
    pub malformed: u64,
}

struct Inner {
    interface: Interface,
    watch: Watch,
    lanes: Vec<Lane>,
    /// How many queues are attached, the first ones.
    attached: AtomicU16,
    attaching: Mutex<()>,
    refused: AtomicU64,
    malformed: AtomicU64,
}

#[derive(Default)]
struct Lane {
    /// The frame that a receiver that was dropped had first.
    kept: Mutex<Option<Frame>>,
    /// What waits in the kernel is for a driver that is gone.
    stale: AtomicBool,
}

impl Tap {
    /// Opens the TAP called `name`, for a device of `pairs` pairs of queues. It is made if there is none, and then
    /// goes with this; the interface is brought up by others.
    pub fn open(name: &str, pairs: u16) -> Result<Self, OpenError> {
        let interface = Interface::open(name, pairs.max(1))?;
        let watch = Watch::new(name, &interface.queues).map_err(|error| OpenError::watching(name, error))?;
        let count = interface.queues.len();
        let inner = Inner {
            watch,
            lanes: (0..count).map(|_| Lane::default()).collect(),
            attached: AtomicU16::new(count as u16),
            interface,
            attaching: Mutex::new(()),
            refused: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        };
        inner.forget();
        Ok(Self { inner: Arc::new(inner), steering: None })
    }

    /// A handle for the program.
    pub fn handle(&self) -> TapHandle {
        TapHandle(self.inner.clone())
    }

    fn steerer(&self) -> Result<Steerer, DeviceError> {
        let steering = self.steering.as_ref();
        steering.map(Steering::follow).ok_or(DeviceError::Backend("the TAP is attached to no device"))
    }

    fn check(&self, pair: u16) -> Result<usize, DeviceError> {
        let pair = usize::from(pair);
        let there = pair < self.inner.lanes.len();
        if there { Ok(pair) } else { Err(DeviceError::Backend("the TAP has fewer queues than the device")) }
    }
}

impl TapHandle {
    /// What was counted so far.
    pub fn counters(&self) -> TapCounters {
        TapCounters { refused: self.0.refused.load(Relaxed), malformed: self.0.malformed.load(Relaxed) }
    }
}

impl Inner {
    /// Attaches the queues that the driver uses, and detaches the others.
    #[inline]
    fn follow(&self, steerer: &mut Steerer) {
        if steerer.pairs() != self.attached.load(Acquire) {
            self.set_attached(|| steerer.pairs());
        }
    }

    /// `pairs` is asked when nobody else changes anything, or an old answer could come after a new one.
    #[cold]
    fn set_attached(&self, pairs: impl FnOnce() -> u16) {
        if !self.interface.has_several {
            return;
        }
        let _one = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, pairs) = (self.attached.load(Acquire), pairs());
        for queue in 0..self.lanes.len() {
            let (was, is) = (queue < usize::from(before), queue < usize::from(pairs));
            if was == is {
                continue;
            }
            if let Err(error) = self.interface.set_attached(queue, is) {
                tracing::warn!(queue, "{}: the queue stays as it is: {error}", self.interface.name);
            }
            if is {
                self.watch.renew(queue);
            }
        }
        // Last: whoever sees it may rely on it.
        self.attached.store(pairs, Release);
    }

    /// There is no driver any more.
    fn forget(&self) {
        self.set_attached(|| 0);
        for lane in &self.lanes {
            *lane.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
            lane.stale.store(true, Release);
        }
    }

    fn read(&self, queue: usize, frame: &mut Frame) -> Result<bool, Errno> {
        let mut header = HeaderLegacy::new_zeroed();
        let mut read = Ok(0);
        frame.refill(|space| {
            let mut parts = [IoSliceMut::new(header.as_mut_bytes()), IoSliceMut::new(space)];
            read = readv(&self.interface.queues[queue], &mut parts);
            read.map_or(0, |len| len.saturating_sub(HeaderLegacy::SIZE))
        });
        read?;
        let offload = decode(&header);
        frame.offload = offload.unwrap_or_default();
        if offload.is_none() {
            self.malformed.fetch_add(1, Relaxed);
        }
        Ok(offload.is_some())
    }
}

impl Backend for Tap {
    fn takes(&self) -> Features {
        if self.inner.interface.udp_segments { ALL_OFFLOADS } else { ALL_OFFLOADS - F::HOST_USO }
    }

    fn steers(&self) -> bool {
        // Which queue a frame comes by is the kernel's choice.
        false
    }

    fn attach(&mut self, steering: Steering) {
        self.steering = Some(steering);
    }

    fn open_transmit(&mut self, pair: u16, _: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        let (queue, steerer) = (self.check(pair)?, self.steerer()?);
        let pieces = Pieces(Box::new([EMPTY; PIECES]));
        Ok(Box::new(TapTransmit { inner: self.inner.clone(), queue, steerer, pieces, scratch: Vec::new() }))
    }

    fn open_receive(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        let (queue, steerer) = (self.check(pair)?, self.steerer()?);
        let (inner, lane) = (self.inner.clone(), &self.inner.lanes[queue]);
        let kept = lane.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut frame = Frame::with_capacity(MAX_FRAME);
        if lane.stale.swap(false, AcqRel) && !inner.interface.has_several {
            // Detaching has done that for one of several queues.
            for _ in 0..STALE {
                if inner.read(queue, &mut frame).is_err() {
                    break;
                }
            }
        }
        let is_full = kept.is_some();
        inner.watch.set_waker(queue, Some(waker.clone()));
        inner.watch.renew(queue);
        Ok(Box::new(TapReceive { inner, queue, steerer, frame: kept.unwrap_or(frame), is_full }))
    }

    fn reset(&mut self) {
        self.inner.forget();
    }
}

/// One receive queue.
struct TapReceive {
    inner: Arc<Inner>,
    queue: usize,
    steerer: Steerer,
    frame: Frame,
    /// There is a frame in it.
    is_full: bool,
}

impl Receive for TapReceive {
    fn peek(&mut self) -> Option<&mut Frame> {
        self.inner.follow(&mut self.steerer);
        // While nothing has come there is no need to ask.
        for _ in 0..PIECES {
            if self.is_full || self.inner.watch.is_armed(self.queue) {
                break;
            }
            match self.inner.read(self.queue, &mut self.frame) {
                Ok(good) => self.is_full = good,
                Err(Errno::AGAIN) => {
                    self.inner.watch.is_there(self.queue);
                    break;
                }
                Err(_) => break,
            }
        }
        self.is_full.then_some(&mut self.frame)
    }

    fn release(&mut self) {
        self.is_full = false;
    }

    fn arm(&mut self) -> bool {
        if self.is_full {
            return false;
        }
        self.inner.watch.arm(self.queue, &self.inner.interface.queues[self.queue]);
        true
    }

    fn is_full(&self) -> bool {
        // The kernel drops what is too much, and says so to nobody here.
        false
    }
}

impl Drop for TapReceive {
    fn drop(&mut self) {
        self.inner.watch.set_waker(self.queue, None);
        if self.is_full {
            let frame = std::mem::replace(&mut self.frame, Frame::with_capacity(0));
            let lane = &self.inner.lanes[self.queue];
            *lane.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
        }
    }
}

/// One transmit queue.
struct TapTransmit {
    inner: Arc<Inner>,
    queue: usize,
    steerer: Steerer,
    pieces: Pieces,
    /// Where frames of more pieces are put together; made when it is needed.
    scratch: Vec<u8>,
}

/// What the kernel is shown of a frame. Used within one call only.
struct Pieces(Box<[libc::iovec; PIECES]>);

// SAFETY: pointers that mean nothing outside of the call that puts them in.
unsafe impl Send for Pieces {}

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl TapTransmit {
    fn send(&mut self, frame: &Outgoing) -> Result<(), Errno> {
        let header = encode(&frame.offload);
        let Ok(segments) = frame.segments() else { return Err(Errno::FAULT) };
        let pieces = &mut self.pieces.0;
        pieces[0] = libc::iovec {
            iov_base: header.as_bytes().as_ptr().cast_mut().cast(),
            iov_len: HeaderLegacy::SIZE,
        };
        let mut count = 1;
        for segment in segments {
            if count == PIECES {
                return self.send_copy(frame);
            }
            pieces[count] =
                libc::iovec { iov_base: segment.as_ptr().as_ptr().cast(), iov_len: segment.len() };
            count += 1;
        }
        let fd = self.inner.interface.queues[self.queue].as_raw_fd();
        // SAFETY: the kernel only reads, within this call: the header here, and the segments of a chain that is not
        // completed, which stay mapped until it is. What the driver changes meanwhile is what the kernel sees; what is
        // unmapped by a cut of the file is an error of the call.
        let sent = unsafe { libc::writev(fd, pieces.as_ptr(), count as libc::c_int) };
        if sent < 0 { Err(last_error()) } else { Ok(()) }
    }

    fn send_copy(&mut self, frame: &Outgoing) -> Result<(), Errno> {
        let len = HeaderLegacy::SIZE + frame.len();
        self.scratch.resize(HeaderLegacy::SIZE + MAX_FRAME, 0);
        let Some((header, bytes)) = self.scratch[..len].split_at_mut_checked(HeaderLegacy::SIZE) else {
            return Err(Errno::FAULT);
        };
        header.copy_from_slice(encode(&frame.offload).as_bytes());
        frame.read_at(0, bytes).map_err(|_| Errno::FAULT)?;
        rustix::io::write(&self.inner.interface.queues[self.queue], &self.scratch[..len]).map(|_| ())
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl Transmit for TapTransmit {
    fn submit(&mut self, frame: Outgoing) -> Option<Chain> {
        self.inner.follow(&mut self.steerer);
        loop {
            match self.send(&frame) {
                Err(Errno::INTR) => continue,
                Ok(()) => break,
                // A network loses frames: this is one.
                Err(_) => {
                    self.inner.refused.fetch_add(1, Relaxed);
                    break;
                }
            }
        }
        Some(frame.into_chain())
    }
}
