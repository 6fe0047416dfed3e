//! Who wakes queues when there is something to read for them: a thread that sleeps until then.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

/// The number under which the end is announced; the others are queues.
const END: u64 = u64::MAX;

/// Nobody waits for the queue.
const IDLE: u8 = 0;
/// The queue's waker is woken when there is something.
const ARMED: u8 = 1;
/// The descriptor can be waited for no more: a detached queue, an interface that was deleted.
const GONE: u8 = 2;

/// The thread's side of one queue.
struct Lane {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Queues that are watched. Dropped, the thread ends.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    end: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    lanes: Vec<Lane>,
    ended: AtomicBool,
}

impl Watch {
    /// Watches descriptors, none of which is armed.
    pub(crate) fn new(name: &str, queues: &[OwnedFd]) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &end, epoll::EventData::new_u64(END), epoll::EventFlags::IN)?;
        for (number, queue) in (0..).zip(queues) {
            epoll::add(&epoll, queue, epoll::EventData::new_u64(number), epoll::EventFlags::ONESHOT)?;
        }
        let lane = |_| Lane { state: AtomicU8::new(IDLE), waker: Mutex::new(None) };
        let lanes = queues.iter().map(lane).collect();
        let shared = Arc::new(Shared { epoll, lanes, ended: AtomicBool::new(false) });
        let watching = shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || watching.watch())?;
        Ok(Self { shared, end, thread: Some(thread) })
    }

    fn lane(&self, queue: usize) -> &Lane {
        &self.shared.lanes[queue]
    }

    /// Who is woken for a queue.
    pub(crate) fn set_waker(&self, queue: usize, waker: Option<Waker>) {
        *self.lane(queue).waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Whether nothing is to be had from a queue until its waker is woken.
    pub(crate) fn is_armed(&self, queue: usize) -> bool {
        self.lane(queue).state.load(Acquire) == ARMED
    }

    /// A queue that could be read, but has nothing, is not gone.
    pub(crate) fn is_there(&self, queue: usize) {
        let _ = self.lane(queue).state.compare_exchange(GONE, IDLE, AcqRel, Acquire);
    }

    /// Has the waker woken once, when there is something; at once if there is. Does nothing if the queue is gone.
    pub(crate) fn arm(&self, queue: usize, fd: &OwnedFd) {
        if self.lane(queue).state.compare_exchange(IDLE, ARMED, AcqRel, Acquire).is_err() {
            return;
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let data = epoll::EventData::new_u64(queue as u64);
        if epoll::modify(&self.shared.epoll, fd, data, flags).is_err() {
            // Then it is looked at all the time.
            self.lane(queue).state.store(IDLE, Release);
        }
    }

    /// A queue is there again: it is looked at anew.
    pub(crate) fn renew(&self, queue: usize) {
        self.lane(queue).state.store(IDLE, Release);
        self.lane(queue).wake();
    }
}

impl Lane {
    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

impl Shared {
    fn watch(&self) {
        let mut buffer =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 16];
        while !self.ended.load(Acquire) {
            let count = match epoll::wait(self.epoll.as_fd(), &mut buffer[..], None) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            for event in &buffer[..count] {
                let number = event.data.u64();
                let Some(lane) = usize::try_from(number).ok().and_then(|number| self.lanes.get(number))
                else {
                    continue;
                };
                let is_there = { event.flags }.contains(epoll::EventFlags::IN);
                let next = if is_there { IDLE } else { GONE };
                // Not if it was renewed meanwhile. Whoever is woken finds out whether it is gone still.
                let _ = lane.state.compare_exchange(ARMED, next, AcqRel, Acquire);
                lane.wake();
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Release);
        // A new event takes one count.
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}
