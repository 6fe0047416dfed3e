//! Moves bytes between Unix sockets and a guest.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use virtio_kit_devices::vsock::{Handle, Kind};

use super::line::{Line, Turn};
use super::unix::UnixHost;
use super::wakeups::{Wakeup, Wakeups};

/// Most connections at a time; programs beyond that wait.
const MOST_LINES: usize = 1024;

/// Most events that are taken in one go.
const AT_ONCE: usize = 64;

/// Bytes that are moved at a time, and the longest message.
const PIECE: usize = 256 << 10;

/// What the descriptors that are not lines are known by.
const BELL: u64 = u64::MAX;
const STREAMS: u64 = u64::MAX - 1;
const PACKETS: u64 = u64::MAX - 2;

/// Moves bytes between the Unix sockets of a [`UnixHost`] and its guest. Its descriptor is readable when there is
/// something to do.
pub struct Proxy {
    host: Arc<UnixHost>,
    guest: Handle,
    events: OwnedFd,
    lines: Vec<Option<Place>>,
    free: Vec<usize>,
    /// Lines that have something to do.
    due: Vec<usize>,
    /// Programs were left waiting since there were too many.
    crowded: bool,
    buffer: Box<[u8]>,
}

struct Place {
    line: Line,
    hung_up: bool,
}

impl Proxy {
    /// Serves the connections of `guest`, whose router is `host`.
    pub fn new(host: Arc<UnixHost>, guest: Handle) -> io::Result<Self> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        let watch =
            |fd: BorrowedFd<'_>, number| epoll::add(&events, fd, EventData::new_u64(number), EventFlags::IN);
        watch(host.wakeups.bell(), BELL)?;
        watch(host.listener(Kind::Stream), STREAMS)?;
        watch(host.listener(Kind::Seqpacket), PACKETS)?;
        let buffer = vec![0; PIECE].into();
        Ok(Self { host, guest, events, lines: vec![], free: vec![], due: vec![], crowded: false, buffer })
    }

    /// Does what there is to do, after waiting for it until then; for ever if there is no limit. One line each has its
    /// turn, so that this is soon over.
    pub fn turn(&mut self, limit: Option<std::time::Duration>) -> io::Result<()> {
        let limit = match limit {
            _ if !self.due.is_empty() => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            Some(limit) => Timespec::try_from(limit).ok(),
            None => None,
        };
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [none; AT_ONCE];
        let count = match epoll::wait(&self.events, &mut events, limit.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            match event.data.u64() {
                BELL => self.host.wakeups.take(&mut self.due),
                STREAMS => self.accept(Kind::Stream)?,
                PACKETS => self.accept(Kind::Seqpacket)?,
                number => {
                    let number = number as usize;
                    if let Some(Some(place)) = self.lines.get_mut(number) {
                        let flags = event.flags;
                        place.hung_up |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
                        self.due.push(number);
                    }
                }
            }
        }
        self.take_requests();
        for number in std::mem::take(&mut self.due) {
            self.run(number);
        }
        Ok(())
    }

    fn run(&mut self, number: usize) {
        let Some(Some(Place { line, hung_up })) = self.lines.get_mut(number) else { return };
        match line.turn(&self.guest, *hung_up, &mut self.buffer) {
            Turn::Waits => {}
            Turn::Again => self.due.push(number),
            Turn::Over => {
                // The descriptor is closed, and so not watched any more.
                self.lines[number] = None;
                self.free.push(number);
                if std::mem::take(&mut self.crowded) {
                    self.watch_listeners(true);
                }
            }
        }
    }

    /// Connects for the guest.
    fn take_requests(&mut self) {
        while let Some(request) = self.host.next_request() {
            if !self.has_room() {
                // Dropped, it is refused.
                continue;
            }
            match self.host.reach(request.kind(), request.to.port) {
                Ok(socket) => self.add(|wakeup| Line::open(socket, request.accept(), wakeup)),
                Err(error) => {
                    tracing::debug!("{}: port {}: {error}", self.host.path().display(), request.to.port);
                }
            }
        }
    }

    fn accept(&mut self, kind: Kind) -> io::Result<()> {
        // As many as fit; the rest of them wait.
        while self.has_room() {
            match self.host.accept(kind)? {
                Some(socket) => {
                    if rustix::io::ioctl_fionbio(&socket, true).is_ok() {
                        self.add(|wakeup| Line::greeting(socket, kind, wakeup));
                    }
                }
                None => return Ok(()),
            }
        }
        self.crowded = true;
        self.watch_listeners(false);
        Ok(())
    }

    fn watch_listeners(&self, yes: bool) {
        let flags = if yes { EventFlags::IN } else { EventFlags::empty() };
        for (kind, number) in [(Kind::Stream, STREAMS), (Kind::Seqpacket, PACKETS)] {
            // They are watched as long as there is a proxy.
            let _ = epoll::modify(&self.events, self.host.listener(kind), EventData::new_u64(number), flags);
        }
    }

    fn has_room(&self) -> bool {
        self.lines.len() - self.free.len() < MOST_LINES
    }

    fn add(&mut self, line: impl FnOnce(Arc<Wakeup>) -> Line) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.lines.push(None);
            self.lines.len() - 1
        });
        let wakeups: &Arc<Wakeups> = &self.host.wakeups;
        let line = line(Wakeup::new(wakeups, number));
        // Each change is told once: a line does all that it can.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        match epoll::add(&self.events, line.socket(), EventData::new_u64(number as u64), flags) {
            Ok(()) => {
                self.lines[number] = Some(Place { line, hung_up: false });
                self.due.push(number);
            }
            Err(_) => self.free.push(number),
        }
    }

    /// Has a thread do it.
    pub fn spawn(mut self) -> io::Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, wakeups) = (stop.clone(), self.host.wakeups.clone());
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                if let Err(error) = self.turn(None) {
                    tracing::error!("{}: {error}", self.host.path().display());
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("vsock proxy".into()).spawn(run)?;
        Ok(Running { stop, wakeups, thread: Some(thread) })
    }
}

impl AsFd for Proxy {
    /// Readable when there is something to do. A proxy that was not done in its last turn says so by nothing: have it
    /// turn until [`is_idle`](Self::is_idle).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Proxy {
    /// Whether there is nothing to do until the descriptor is readable.
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({} of {:?})", self.host.path().display(), self.guest)
    }
}

/// A proxy with a thread. Dropped, it ends, and so do its connections.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    wakeups: Arc<Wakeups>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wakeups.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
