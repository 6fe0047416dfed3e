//! What a device implements, and the status machine that drives it.
//!
//! A device author writes a [`Device`] (what it is, its configuration, what it does when a queue starts) and,
//! for each queue, a [`Service`]: a chain is *submitted*, and comes back, then or later and in any order,
//! from *poll*. [`Serving`] turns a service into the [`Worker`] that an executor runs: one per queue or one
//! for all, polled or sleeping, whichever the program prefers; nothing here owns a thread or a loop.
//!
//! # What makes a queue run
//!
//! A queue runs when its driver notifies it, and when its *waker* is woken. The second is for devices whose
//! work comes from elsewhere: a frame for a receive queue, a byte for a console, a completion. A device is
//! given one waker for each queue ([`Device::attach_wakers`]). Waking means "run this queue soon", and this
//! is all that it promises:
//!
//! - What was done before `wake` is seen by a run that begins after it. A wake during a run causes another
//!   run; several wakes may cause one. A wake of a queue that is not started does nothing.
//! - It may be called from any thread, by a service too, and of the queue that is being run.
//! - It may run the queue before it returns, where driver and device share a thread. So hold no lock of your
//!   own while you wake, and expect to be called back: each queue is run by one caller at a time, so that
//!   waking nests at most as deep as there are queues.
//! - A service that waits for a wake does not count its chains as work ([`Service::waiting`]), or its worker
//!   is polled. It must look for work once more after it has made itself known to whoever will wake it.
//!
//! A transport makes wakers of whatever it sleeps on ([`alloc::task::Wake`]): an event, an eventfd.
//!
//! The transport's side of a device is [`Machine`], the same on every transport. Those that have registers put them in
//! front of it, for a [`Monitor`] to hand accesses to:
//! [`mmio::device`](crate::mmio::device) and [`pci::device`](crate::pci::device).

mod engine;
mod machine;
mod monitor;
mod serve;
mod state;
mod witness;

pub(crate) use engine::{Engine, Signals};
pub use machine::{Machine, QueueState, Slots};
pub use monitor::{DeviceMemory, Monitor, SharedMemory};
pub use serve::{Run, Service, Serving, Stopped, Submitted, Worker};
pub use state::{RestoreError, State};
pub use virtio_kit_ring::device::{
    Again, BadChain, Chain, Config as QueueConfig, NewError, Position, Queue, Raw, RingAddrs, Segment,
    Segments,
};
pub use virtio_kit_ring::mem::{Memory, OutOfBounds, Region};
pub use witness::Witness;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Waker;
use virtio_kit_spec::{DeviceId, Features};

/// A virtio device: what any transport needs to know of it.
pub trait Device: Send {
    /// Its type.
    fn id(&self) -> DeviceId;

    /// Feature bits of its type that it offers, and does in full. Ring features are the transport's business.
    fn features(&self) -> Features;

    /// Whether it knows the legacy interface: works as the document says for a driver that did not accept
    /// VERSION_1.
    fn has_legacy(&self) -> bool {
        false
    }

    /// How many queues it has.
    fn queue_count(&self) -> u16;

    /// Most descriptors of queue `index`: a power of two, at most 32768.
    fn max_queue_size(&self, index: u16) -> u16 {
        let _ = index;
        256
    }

    /// Most segments of one chain of queue `index`.
    fn max_segments(&self, index: u16) -> u16 {
        let _ = index;
        130
    }

    /// Reads configuration space, filling `to`; what lies beyond its end reads as 0.
    fn read_config(&self, offset: usize, to: &mut [u8]);

    /// Writes configuration space. Fields that the driver may not write keep their value.
    fn write_config(&mut self, offset: usize, from: &[u8]) {
        let _ = (offset, from);
    }

    /// Whether a driver may write at `offset` of configuration space before it has agreed on features: a console's
    /// emergency write (5.3.4).
    fn takes_early_writes(&self, offset: usize) -> bool {
        let _ = offset;
        false
    }

    /// The driver settled on these features; they hold until [`reset`](Self::reset).
    fn activate(&mut self, features: Features) -> Result<(), DeviceError>;

    /// Queue `index` starts: what serves it from now on.
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError>;

    /// All queues have stopped; forget what the driver set.
    fn reset(&mut self);

    /// Is handed the line by which it announces changes of its configuration.
    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        let _ = notice;
    }

    /// Is handed a waker for each queue, before any is started. They stay valid, and do nothing once the
    /// transport is gone.
    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        let _ = wakers;
    }
}

/// Copies `length` bytes of a configuration struct at `offset`, with zeros beyond its end.
pub fn read_bytes(config: &[u8], offset: usize, to: &mut [u8]) {
    to.fill(0);
    if let Some(rest) = config.get(offset..) {
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
    }
}

/// Counts changes of a device's configuration, and tells the transport of them.
#[derive(Default)]
pub struct ConfigNotice {
    changes: AtomicU32,
    tell: Option<Box<dyn Fn() + Send + Sync>>,
}

impl ConfigNotice {
    /// A notice that calls `tell` at each change.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self { changes: AtomicU32::new(0), tell: Some(Box::new(tell)) }
    }

    /// The configuration has changed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(tell) = &self.tell {
            tell();
        }
    }

    /// Goes on counting from here, as a device that is restored must.
    pub(crate) fn restore(&self, generation: u32) {
        self.changes.store(generation, Ordering::Release);
    }

    /// The configuration generation (2.5).
    pub fn generation(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }
}

impl fmt::Debug for ConfigNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigNotice(generation {})", self.generation())
    }
}

/// Why a device, or one queue of it, cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// The driver broke the rules of a queue.
    BadChain(BadChain),
    /// What is behind the device failed: storage, a network interface.
    Backend(&'static str),
    /// The operating system failed, with its error number.
    Os(i32),
    /// The driver set the device up in a way that cannot work.
    Setup(&'static str),
}

impl From<BadChain> for DeviceError {
    fn from(error: BadChain) -> Self {
        Self::BadChain(error)
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadChain(error) => error.fmt(f),
            Self::Backend(what) => write!(f, "the device's back-end failed: {what}"),
            Self::Os(number) => write!(f, "operating system error {number}"),
            Self::Setup(what) => write!(f, "the driver set the device up wrongly: {what}"),
        }
    }
}

impl core::error::Error for DeviceError {}
