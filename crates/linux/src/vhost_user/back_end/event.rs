//! Event descriptors: our own, and those of front-ends, which may be anything.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// What one side writes and the other waits for.
pub(super) struct Event {
    fd: OwnedFd,
    /// Writing may have to wait for a reader.
    may_block: bool,
}

impl Event {
    pub(super) fn new() -> Result<Self, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, may_block: false })
    }

    /// A descriptor that a front-end passed. Its flags are the front-end's: they are left as they are.
    pub(super) fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let may_block = !fcntl_getfl(&fd)?.contains(OFlags::NONBLOCK);
        Ok(Self { fd, may_block })
    }

    /// Wakes who waits. What cannot be written is dropped: a full counter wakes as well, and nobody can be told of
    /// anything else.
    pub(super) fn signal(&self) {
        if self.may_block {
            // Only what the front-end does at this very moment can make the write wait after this.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&now));
            if ready != Ok(1) {
                return;
            }
        }
        while rustix::io::write(&self.fd, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Takes what was written, without waiting.
    pub(super) fn drain(&self) {
        let mut count = [0; 8];
        // Not even if the descriptor is a blocking one. At -1: at its own position, as those that have none need.
        let _ = preadv2(&self.fd, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Several events behind one descriptor, which is ready when any of them is.
pub(super) struct EventSet {
    epoll: OwnedFd,
}

impl EventSet {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Adds an event under a number. It shows up once each time it is written to, read or not.
    pub(super) fn add_edge(&self, fd: impl AsFd, number: u64) -> Result<(), Errno> {
        self.add(fd, number, epoll::EventFlags::IN | epoll::EventFlags::ET)
    }

    /// Adds a descriptor that shows up for as long as there is something to read.
    pub(super) fn add_level(&self, fd: impl AsFd, number: u64) -> Result<(), Errno> {
        self.add(fd, number, epoll::EventFlags::IN)
    }

    fn add(&self, fd: impl AsFd, number: u64, flags: epoll::EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), flags)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It was added.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits, for `limit` or for ever: the numbers of what is ready, as bits. Nothing if a signal came.
    pub(super) fn wait(&self, limit: Option<Timespec>) -> u64 {
        let mut buffer =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        let count = epoll::wait(&self.epoll, &mut buffer[..], limit.as_ref()).unwrap_or(0);
        buffer[..count].iter().fold(0, |all, event| all | 1 << event.data.u64())
    }
}

impl AsFd for EventSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<Timespec> = Some(Timespec { tv_sec: 0, tv_nsec: 0 });

    #[test]
    fn an_event_shows_up_once_for_each_time_it_is_written() {
        let (set, event) = (EventSet::new().unwrap(), Event::new().unwrap());
        set.add_edge(&event, 3).unwrap();
        assert_eq!(set.wait(NOW), 0);
        for _ in 0..2 {
            event.signal();
            assert_eq!((set.wait(NOW), set.wait(NOW)), (1 << 3, 0));
        }
        event.drain();
        assert_eq!(set.wait(NOW), 0);
        event.signal();
        set.remove(&event);
        assert_eq!(set.wait(NOW), 0);
    }

    #[test]
    fn a_full_or_foreign_descriptor_holds_nobody_up() {
        let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&blocking, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let event = Event::of(blocking).unwrap();
        event.signal();
        event.drain();
        event.drain();
        event.signal();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let kick = Event::of(read).unwrap();
        kick.drain();
        let call = Event::of(write).unwrap();
        // As many as a pipe holds, and more.
        (0..20_000).for_each(|_| call.signal());
        let set = EventSet::new().unwrap();
        set.add_edge(&kick, 0).unwrap();
        assert_eq!(set.wait(NOW), 1);
        // A file is always ready: it cannot be waited for.
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(set.add_edge(&file, 1), Err(Errno::PERM));
    }
}
