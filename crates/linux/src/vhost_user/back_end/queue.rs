//! One queue as whoever runs it sees it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::io::Errno;
use virtio_kit::device::{DeviceError, Run, Slots};

use super::event::{Event, EventSet};
use crate::event_waker::waker;
use crate::mapping::hits;
use crate::vhost_user::wire::timespec;

/// Numbers of the events of a queue.
const KICK: u64 = 0;
const WAKE: u64 = 1;

const STOPPED: u8 = 0;
const RUNNING: u8 = 1;
const FAILED: u8 = 2;

/// What happens on a queue, counted from when the back-end was made.
///
/// Aligned so that no two queues' threads share cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    kicks: AtomicU64,
    calls: AtomicU64,
    taken: AtomicU64,
    completed: AtomicU64,
    wakes: AtomicU64,
}

impl Counters {
    /// Notifications from the driver that woke who runs the queue.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Relaxed)
    }

    /// Notifications to the driver.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Requests taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Requests completed.
    pub fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// How often who runs the queue was woken, for whatever reason.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Relaxed)
    }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

/// What a turn at a queue came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Requests were taken or completed: there may be more.
    Worked,
    /// Nothing to take, and requests that others work on.
    Waiting,
    /// Nothing at all; or the queue does not run at present.
    Idle,
}

/// One queue, for whoever runs it: a thread of its own, or one that runs several. Clones are the same queue.
///
/// It stays the same while front-ends come and go, and is idle while there is none.
#[derive(Clone)]
pub struct QueueEnd {
    shared: Arc<Shared>,
}

/// Aligned as [`Counters`].
#[repr(align(128))]
struct Shared {
    index: u16,
    slots: Slots,
    state: AtomicU8,
    /// The front-end wants it looked at all the time: there is no event that it writes.
    polled: AtomicBool,
    /// What the back-end, and the device, wake who runs it by.
    wake: Event,
    kick: Mutex<Option<Arc<Event>>>,
    call: Mutex<Option<Arc<Event>>>,
    events: EventSet,
    failure: Mutex<Option<DeviceError>>,
    /// Tells the back-end that there is a failure.
    attention: Arc<Event>,
    counters: Arc<Counters>,
    /// Bus errors that the back-end was told of.
    hits: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueueEnd {
    pub(super) fn new(index: u16, slots: Slots, attention: Arc<Event>) -> Result<Self, Errno> {
        let (wake, events) = (Event::new()?, EventSet::new()?);
        events.add_edge(&wake, WAKE)?;
        let shared = Shared {
            index,
            slots,
            state: AtomicU8::new(STOPPED),
            polled: AtomicBool::new(false),
            wake,
            kick: Mutex::new(None),
            call: Mutex::new(None),
            events,
            failure: Mutex::new(None),
            attention,
            counters: Arc::default(),
            hits: AtomicU64::new(hits()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the device wakes it by.
    pub(super) fn waker(&self) -> Result<Waker, Errno> {
        self.shared
            .wake
            .as_fd()
            .try_clone_to_owned()
            .map(|fd| waker(Arc::new(fd)))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.shared.index
    }

    /// What happened on it.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Takes what is available, completes what is done, and notifies the driver if it wants to be.
    pub fn turn(&self) -> Turn {
        let shared = &*self.shared;
        if shared.state.load(Acquire) != RUNNING {
            return Turn::Idle;
        }
        // Held by the back-end, it is about to be stopped or changed, and who runs it is woken after that.
        let Some(mut slot) = self.slot() else { return Turn::Idle };
        let Some(worker) = slot.as_mut() else { return Turn::Idle };
        let run = worker.run();
        drop(slot);
        if hits() != shared.hits.load(Relaxed) {
            // Some memory has gone, perhaps this front-end's.
            shared.hits.store(hits(), Relaxed);
            shared.attention.signal();
        }
        match run {
            Ok(run) => {
                let Run { taken, completed, pending, notify } = run;
                if taken > 0 {
                    count(&shared.counters.taken, taken as u64);
                }
                if completed > 0 {
                    count(&shared.counters.completed, completed as u64);
                }
                if notify {
                    self.call();
                }
                match () {
                    () if taken + completed > 0 => Turn::Worked,
                    () if pending > 0 => Turn::Waiting,
                    () => Turn::Idle,
                }
            }
            Err(error) => {
                self.call();
                self.fail(error);
                Turn::Idle
            }
        }
    }

    fn slot(&self) -> Option<impl std::ops::DerefMut<Target = Option<Box<dyn virtio_kit::device::Worker>>>> {
        self.shared.slots.get(usize::from(self.shared.index))?.try_lock()
    }

    /// Asks the driver to notify of what it makes available from now on. `false` if something is already: take
    /// a [`turn`](Self::turn) first.
    pub fn arm(&self) -> bool {
        if self.shared.state.load(Acquire) != RUNNING {
            return true;
        }
        let Some(mut slot) = self.slot() else { return true };
        slot.as_mut().is_none_or(|worker| worker.restart())
    }

    /// Asks the driver not to notify, while the queue is looked at anyway.
    pub fn disarm(&self) {
        if let Some(Some(worker)) = self.slot().as_deref_mut() {
            worker.disable();
        }
    }

    /// Sleeps until the driver notifies or the back-end wants something, or for `limit`. Returns at once if that
    /// has happened since the last time.
    pub fn sleep(&self, limit: Option<Duration>) {
        let ready = self.shared.events.wait(limit.map(timespec));
        if ready & 1 << KICK != 0 {
            count(&self.shared.counters.kicks, 1);
            let kick = lock(&self.shared.kick).clone();
            if let Some(kick) = kick {
                kick.drain();
            }
        }
        if ready != 0 {
            count(&self.shared.counters.wakes, 1);
        }
        if ready & 1 << WAKE != 0 {
            self.shared.wake.drain();
        }
    }

    /// Ends a [`sleep`](Self::sleep), now or the next.
    pub fn wake(&self) {
        self.shared.wake.signal();
    }

    /// Whether a front-end has started it.
    pub fn is_running(&self) -> bool {
        self.shared.state.load(Relaxed) == RUNNING
    }

    /// Whether it must be looked at all the time, since the driver has no event to notify by.
    pub fn is_polled(&self) -> bool {
        self.shared.polled.load(Relaxed) && self.is_running()
    }

    /// Tells the driver that something was used.
    pub(super) fn call(&self) {
        let call = lock(&self.shared.call).clone();
        if let Some(call) = call {
            count(&self.shared.counters.calls, 1);
            call.signal();
        }
    }

    fn fail(&self, error: DeviceError) {
        // Not if it was stopped meanwhile.
        if self.shared.state.compare_exchange(RUNNING, FAILED, AcqRel, Acquire).is_ok() {
            *lock(&self.shared.failure) = Some(error);
            self.shared.attention.signal();
        }
    }

    /// Why it failed, once.
    pub(super) fn take_failure(&self) -> Option<DeviceError> {
        lock(&self.shared.failure).take()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.shared.state.load(Acquire) == FAILED
    }

    /// Its worker is there: it may be run.
    pub(super) fn start(&self) {
        *lock(&self.shared.failure) = None;
        self.shared.state.store(RUNNING, Release);
        self.wake();
    }

    /// It is to be run no more. Its worker goes after this.
    pub(super) fn stop(&self) {
        self.shared.state.store(STOPPED, Release);
    }

    /// The descriptor by which the driver notifies; none if the queue is to be polled.
    pub(super) fn set_kick(&self, fd: Option<OwnedFd>) -> Result<(), Errno> {
        self.shared.polled.store(fd.is_none(), Relaxed);
        let mut kick = lock(&self.shared.kick);
        if let Some(old) = kick.take() {
            self.shared.events.remove(&*old);
        }
        if let Some(fd) = fd {
            let event = Event::of(fd)?;
            self.shared.events.add_edge(&event, KICK)?;
            *kick = Some(Arc::new(event));
        }
        drop(kick);
        self.wake();
        Ok(())
    }

    /// The descriptor by which the driver is notified; none if it polls. What happened before it was there may
    /// have gone unsaid.
    pub(super) fn set_call(&self, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let call = fd.map(Event::of).transpose()?.map(Arc::new);
        *lock(&self.shared.call) = call;
        if self.shared.state.load(Acquire) == RUNNING {
            self.call();
        }
        Ok(())
    }

    /// The front-end has gone.
    pub(super) fn forget(&self) {
        self.forget_kick();
        *lock(&self.shared.call) = None;
    }

    /// The ring was stopped; it starts again with another event.
    pub(super) fn forget_kick(&self) {
        if let Some(old) = lock(&self.shared.kick).take() {
            self.shared.events.remove(&*old);
        }
        self.shared.polled.store(false, Relaxed);
    }
}

/// Ready to read when [`QueueEnd::sleep`] would return at once: for a loop that waits for other things too.
impl AsFd for QueueEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.events.as_fd()
    }
}

impl fmt::Debug for QueueEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.shared.state.load(Relaxed) {
            STOPPED => "stopped",
            RUNNING => "running",
            _ => "failed",
        };
        write!(f, "QueueEnd({}, {state})", self.shared.index)
    }
}
