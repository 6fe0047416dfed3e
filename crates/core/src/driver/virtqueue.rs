//! A virtqueue as its driver uses it: the ring, a line to the device, and the interrupt half.

use super::interrupt::QueueInterrupt;
use crate::Window;
use crate::clock::Clock;
use crate::transport::{Notifier, NotifyPosition, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit_ring::AnyChain;
use virtio_kit_ring::driver::{AddError, BatchError, Broken, Place, Placed, Queue, Quiesced, Shutdown, Used};

/// A virtqueue: chains `C` go in with tokens of type `T`, and both come back.
///
/// The seven operations of the 2007 proposal: [`Setup::new_vq`](super::Setup::new_vq) makes one,
/// [`Device::free_vq`](super::Device::free_vq) frees it, and [`add_buf`](Self::add_buf),
/// [`kick`](Self::kick), [`get_buf`](Self::get_buf), [`restart`](Self::restart) and
/// [`shutdown`](Self::shutdown) are here. All take `&mut self`: no two at once on one queue.
pub struct Virtqueue<C, T> {
    queue: Queue<C, T>,
    notifier: Box<dyn Notifier>,
    interrupt: Arc<QueueInterrupt>,
    index: u16,
    /// Whether the ring asks the device to notify.
    armed: bool,
    stats: Stats,
}

/// What a queue has done, for measuring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Publishing operations.
    pub kicks: u64,
    /// Of these, those of which the device wanted to be told.
    pub notifications: u64,
    /// Waits that ended because something happened.
    pub wakeups: u64,
}

impl<C: AnyChain, T> Virtqueue<C, T> {
    pub(super) fn new(
        mut queue: Queue<C, T>,
        notifier: Box<dyn Notifier>,
        interrupt: Arc<QueueInterrupt>,
        index: u16,
    ) -> Self {
        let armed = interrupt.is_enabled();
        if !armed {
            queue.disable_callbacks();
        }
        Self { queue, notifier, interrupt, index, armed, stats: Stats::default() }
    }

    /// Adds a chain, with a token, to be made visible by the next [`kick`](Self::kick).
    ///
    /// Never blocks, never allocates. When the queue is full, chain and token come back in the error.
    #[inline]
    pub fn add_buf(&mut self, chain: C, token: T) -> Result<(), AddError<C, T>> {
        self.queue.add_buf(chain, token)
    }

    /// Adds chains until `fill` puts none into its [`Place`], or the ring has no descriptor left; how many. Each is
    /// built where it stays: `|place| Some(place.put(Chain::readable(frames.pop()?), token))`.
    ///
    /// On an error the chain at which it happened comes back in it, and those before it stay added.
    #[inline]
    pub fn add_batch(
        &mut self,
        fill: impl for<'p> FnMut(Place<'p, C, T>) -> Option<Placed<'p>>,
    ) -> Result<usize, BatchError<C, T>> {
        self.queue.add_batch(fill)
    }

    /// Publishes what was added and tells the device, if it wants to be told; whether it was.
    #[inline]
    pub fn kick(&mut self) -> Result<bool, KickError> {
        self.settle();
        self.stats.kicks += 1;
        if !self.queue.publish() {
            return Ok(false);
        }
        self.stats.notifications += 1;
        let position = self.queue.position();
        let packed = self.queue.is_packed();
        self.notifier
            .notify(NotifyPosition { next: position.next, wrap: position.next_wrap, packed })
            .map_err(KickError)?;
        Ok(true)
    }

    /// The next chain that the device used, its token, and the length written, which never exceeds the
    /// chain's writable bytes. `None` if there is none now.
    #[inline]
    pub fn get_buf(&mut self) -> Result<Option<Used<C, T>>, GetError> {
        match self.queue.get_buf() {
            Ok(None) => self.nothing_used().map(|()| None),
            Ok(used) => Ok(used),
            Err(broken) => Err(GetError::Broken(broken)),
        }
    }

    /// Hands up to `max` used chains to `each`; how many there were.
    #[inline]
    pub fn get_batch(&mut self, max: usize, each: impl FnMut(Used<C, T>)) -> Result<usize, GetError> {
        match self.queue.get_batch(max, each) {
            Ok(0) => self.nothing_used().map(|()| 0),
            Ok(got) => Ok(got),
            Err(broken) => Err(GetError::Broken(broken)),
        }
    }

    /// A moment to do what can wait, and to notice that the device is gone.
    #[inline]
    fn nothing_used(&mut self) -> Result<(), GetError> {
        self.settle();
        if self.interrupt.quiesced().is_some() { Err(GetError::Stopped) } else { Ok(()) }
    }

    /// Writes into the ring what the interrupt half has decided: callbacks that it turned off.
    #[inline]
    fn settle(&mut self) {
        if self.armed && !self.interrupt.is_enabled() {
            self.armed = false;
            self.queue.disable_callbacks();
        }
    }

    /// Whether a used chain waits.
    pub fn has_used(&self) -> bool {
        self.queue.has_used()
    }

    /// Turns callbacks on again. `false`, and they stay off, if used buffers already wait: take them first.
    pub fn restart(&mut self) -> bool {
        self.interrupt.set_enabled(true);
        self.armed = self.queue.restart();
        if !self.armed {
            self.interrupt.set_enabled(false);
        }
        self.armed
    }

    /// Turns callbacks off. A hint to the device; the handler is not called from now on.
    pub fn disable(&mut self) {
        self.interrupt.set_enabled(false);
        self.armed = false;
        self.queue.disable_callbacks();
    }

    /// Waits for used buffers for up to `limit`; `false` if there are none. Callbacks are on meanwhile.
    ///
    /// Returns at once if buffers already wait, if the queue is broken, or if the device is gone: the next
    /// [`get_buf`](Self::get_buf) says so.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, TransportError> {
        if self.interrupt.quiesced().is_some() || !self.restart() {
            return Ok(true);
        }
        let woken = self.notifier.wait(limit);
        self.disable();
        if woken? {
            self.stats.wakeups += 1;
        }
        Ok(self.has_used() || self.interrupt.quiesced().is_some())
    }

    /// [`wait`](Self::wait), after looking for used buffers for as long as `window` says: with callbacks off all the
    /// while, so that a device that is fast enough is never asked to notify.
    pub fn wait_looking(
        &mut self,
        limit: Duration,
        window: &mut Window,
        clock: &dyn Clock,
    ) -> Result<bool, TransportError> {
        let began = clock.now();
        loop {
            if self.has_used() {
                return Ok(true);
            }
            let looked = clock.now().saturating_sub(began);
            if looked >= window.now() {
                let woken = self.wait(limit);
                window.slept(clock.now().saturating_sub(began).saturating_sub(looked));
                return woken;
            }
            core::hint::spin_loop();
        }
    }

    /// The next used chain, asynchronously: for any executor that polls and wakes.
    pub fn get(&mut self) -> GetFuture<'_, C, T> {
        GetFuture { queue: self }
    }

    /// [`get`](Self::get) in the form that hand-written futures need.
    pub fn poll_get(&mut self, cx: &mut Context<'_>) -> Poll<Result<Used<C, T>, GetError>> {
        loop {
            if let Some(used) = self.get_buf()? {
                return Poll::Ready(Ok(used));
            }
            self.interrupt.register(cx.waker());
            // The device may have gone between the look and the registration.
            if self.interrupt.quiesced().is_some() {
                return Poll::Ready(Err(GetError::Stopped));
            }
            if self.restart() {
                return Poll::Pending;
            }
        }
    }

    /// Hands back every chain in flight, with its token. `quiesced` proves that the device cannot touch them
    /// any more: a reset gives it, and so does [`quiesced`](Self::quiesced) once the device is gone.
    pub fn shutdown(&mut self, quiesced: Quiesced) -> Shutdown<'_, C, T> {
        self.queue.shutdown(quiesced)
    }

    /// The proof that the device has let go of the queue, if it has: it was reset or removed.
    pub fn quiesced(&self) -> Option<Quiesced> {
        self.interrupt.quiesced()
    }

    /// Makes a stopped and empty ring as good as new.
    pub(super) fn revive(&mut self) {
        if self.queue.revive() {
            self.armed = self.interrupt.is_enabled();
            if !self.armed {
                self.queue.disable_callbacks();
            }
        }
    }

    /// The device has the queue again.
    pub(super) fn attach(&mut self, notifier: Box<dyn Notifier>) {
        self.notifier = notifier;
        self.interrupt.revived();
    }
}

impl<C: AnyChain, T> Virtqueue<C, T> {
    /// Free descriptors of the ring.
    pub fn room(&self) -> u16 {
        self.queue.room()
    }
}

impl<C, T> Virtqueue<C, T> {
    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Descriptors of the ring.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Chains in flight.
    pub fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Whether the layout is packed.
    pub fn is_packed(&self) -> bool {
        self.queue.is_packed()
    }

    /// What the queue has done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The interrupt half.
    pub fn interrupt(&self) -> &Arc<QueueInterrupt> {
        &self.interrupt
    }

    pub(super) fn ring(&self) -> &Queue<C, T> {
        &self.queue
    }
}

impl<C, T> fmt::Debug for Virtqueue<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtqueue")
            .field("index", &self.index)
            .field("queue", &self.queue)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// The future of [`Virtqueue::get`]. Dropping it loses nothing: the chain stays in the queue.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct GetFuture<'q, C, T> {
    queue: &'q mut Virtqueue<C, T>,
}

impl<C: AnyChain, T> Future for GetFuture<'_, C, T> {
    type Output = Result<Used<C, T>, GetError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().queue.poll_get(cx)
    }
}

/// The device could not be notified. What was added is published all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KickError(pub TransportError);

impl fmt::Display for KickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device was not notified: {}", self.0)
    }
}

impl core::error::Error for KickError {}

/// Why no more chains come from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetError {
    /// The device broke the rules of the queue.
    Broken(Broken),
    /// The device was reset or removed: [`Virtqueue::shutdown`] gives the buffers back.
    Stopped,
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(broken) => broken.fmt(f),
            Self::Stopped => f.write_str("the device was reset or removed"),
        }
    }
}

impl core::error::Error for GetError {}
