//! Threads for a back-end, for programs that have no loop of their own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{Span, error_span, info, warn};
use virtio_kit::Window;

use super::control::BackEnd;
use super::event::{Event, EventSet};
use super::listener::Listener;
use super::queue::{QueueEnd, Turn};
use crate::vhost_user::wire::timespec;

/// How long to wait before trying to connect once more.
const RETRY: Duration = Duration::from_millis(100);

/// Where front-ends come from.
#[derive(Debug)]
pub enum Source {
    /// They connect, one after the other.
    Listener(Listener),
    /// One listens at this path: it is connected to, again and again while it is not there.
    Connect(PathBuf),
    /// One is connected already. There is no other after it.
    Stream(UnixStream),
}

/// Which threads run the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// One for each queue.
    #[default]
    PerQueue,
    /// One for all of them.
    One,
}

/// What a thread does while its queues are idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Looks for work for a while, up to this long, before it sleeps. How long adapts: longer while sleeps turn
    /// out short, shorter while they are long. Zero is to sleep at once.
    UpTo(Duration),
    /// Never sleeps while a queue runs.
    Always,
}

impl Default for Polling {
    /// Up to 32 microseconds: about what a sleep and a wake-up cost.
    fn default() -> Self {
        Self::UpTo(Duration::from_micros(32))
    }
}

/// A back-end on threads of its own. Dropped, it stops.
#[derive(Debug)]
pub struct Runner {
    stop: Arc<Stop>,
    queues: Vec<QueueEnd>,
    control: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

/// Asks threads to end.
struct Stop {
    asked: AtomicBool,
    event: Event,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stop({})", self.is_asked())
    }
}

impl Stop {
    fn is_asked(&self) -> bool {
        self.asked.load(Acquire)
    }
}

impl Runner {
    /// Starts the threads. `name` is what the log calls the device.
    pub fn start(
        back_end: BackEnd,
        source: Source,
        name: &str,
        threads: Threads,
        polling: Polling,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), event: Event::new()? });
        let queues = back_end.queues().to_vec();
        let groups: Vec<Vec<QueueEnd>> = match threads {
            Threads::PerQueue => queues.iter().map(|queue| vec![queue.clone()]).collect(),
            Threads::One => vec![queues.clone()],
        };
        let span = error_span!("device", name);
        let mut runner = Self { stop, queues, control: None, workers: Vec::new() };
        for (number, group) in groups.into_iter().enumerate() {
            let (stop, span) = (runner.stop.clone(), span.clone());
            let events = EventSet::new()?;
            group.iter().try_for_each(|queue| events.add_level(queue, 0))?;
            runner.workers.push(spawn(format!("queue {number}"), span, move || {
                run(&group, &events, polling, &stop.asked);
            })?);
        }
        let stop = runner.stop.clone();
        runner.control = Some(spawn("vhost-user".into(), span, move || control(back_end, source, &stop))?);
        Ok(runner)
    }

    /// Its queues.
    pub fn queues(&self) -> &[QueueEnd] {
        &self.queues
    }

    /// Whether it has come to its end by itself: the one front-end of a [`Source::Stream`] is gone.
    pub fn is_finished(&self) -> bool {
        self.control.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has come to its end by itself.
    pub fn join(mut self) {
        if let Some(control) = self.control.take() {
            // A panic there has been printed there.
            let _ = control.join();
        }
    }

    /// Stops: what is in flight comes to its end, for a bounded time; then the socket is gone.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.asked.store(true, Release);
        self.stop.event.signal();
        if let Some(control) = self.control.take() {
            // As above.
            let _ = control.join();
        }
        self.queues.iter().for_each(QueueEnd::wake);
        for worker in self.workers.drain(..) {
            // As above.
            let _ = worker.join();
        }
    }
}

fn spawn(name: String, span: Span, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || span.in_scope(run))
}

fn wait_for(fds: &[BorrowedFd<'_>], limit: Option<Duration>) {
    let mut fds: Vec<_> = fds.iter().map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    // What is ready, or whether a signal came, shows when it is looked at.
    let _ = poll(&mut fds, limit.map(timespec).as_ref());
}

/// Connects front-ends, and does what they ask.
fn control(mut back_end: BackEnd, source: Source, stop: &Stop) {
    let (listener, path, mut stream) = match source {
        Source::Listener(listener) => (Some(listener), None, None),
        Source::Connect(path) => (None, Some(path), None),
        Source::Stream(stream) => (None, None, Some(stream)),
    };
    while !stop.is_asked() {
        if back_end.is_connected() {
            wait_for(&[stop.event.as_fd(), back_end.as_fd()], None);
            if let Some(ended) = back_end.process() {
                if ended.is_normal() {
                    info!("{ended}");
                } else {
                    warn!("the connection ends: {ended}");
                }
            }
            continue;
        }
        let next = match (&listener, &path) {
            (Some(listener), _) => {
                wait_for(&[stop.event.as_fd(), listener.as_fd()], None);
                match listener.accept() {
                    Ok(next) => next,
                    Err(error) => {
                        // No descriptors left, say. It may be better later.
                        warn!("no connection can be accepted: {error}");
                        wait_for(&[stop.event.as_fd()], Some(RETRY));
                        None
                    }
                }
            }
            (None, Some(path)) => {
                let next = UnixStream::connect(path).ok();
                if next.is_none() {
                    wait_for(&[stop.event.as_fd()], Some(RETRY));
                }
                next
            }
            (None, None) => match stream.take() {
                Some(stream) => Some(stream),
                None => break,
            },
        };
        if let Some(next) = next {
            match back_end.connect(next) {
                Ok(()) => info!("a front-end is connected"),
                Err(error) => warn!("no front-end can be served: {error}"),
            }
        }
    }
    back_end.disconnect();
}

/// Runs some queues until asked to stop.
fn run(queues: &[QueueEnd], events: &EventSet, polling: Polling, stop: &AtomicBool) {
    let mut window = Window::new(match polling {
        Polling::UpTo(max) => max,
        Polling::Always => Duration::ZERO,
    });
    let mut idle_since = Instant::now();
    // Rings ask to be notified when they are new.
    let mut armed = true;
    while !stop.load(Acquire) {
        let mut turn = Turn::Idle;
        for queue in queues {
            turn = match (turn, queue.turn()) {
                (Turn::Worked, _) | (_, Turn::Worked) => Turn::Worked,
                (Turn::Waiting, _) | (_, Turn::Waiting) => Turn::Waiting,
                _ => Turn::Idle,
            };
        }
        if turn == Turn::Worked {
            if std::mem::take(&mut armed) {
                queues.iter().for_each(QueueEnd::disarm);
            }
            idle_since = Instant::now();
            continue;
        }
        if turn == Turn::Waiting {
            // Work of which nobody tells when it is done.
            std::hint::spin_loop();
            continue;
        }
        let polled = polling == Polling::Always && queues.iter().any(QueueEnd::is_running);
        if polled || queues.iter().any(QueueEnd::is_polled) || idle_since.elapsed() < window.now() {
            std::hint::spin_loop();
            continue;
        }
        // All of them, also if one cannot.
        armed = true;
        if queues.iter().filter(|queue| !queue.arm()).count() == 0 {
            let start = Instant::now();
            events.wait(None);
            queues.iter().for_each(|queue| queue.sleep(Some(Duration::ZERO)));
            window.slept(start.elapsed());
        }
        idle_since = Instant::now();
    }
}
