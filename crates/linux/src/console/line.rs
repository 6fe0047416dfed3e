//! A port over descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use virtio_kit_devices::console::{Input, Output, PortBackend, PortLink};

/// A port that reads from one descriptor and writes to another. They may be blocking ones, and are left as they are.
#[derive(Debug)]
pub struct FdPort {
    ends: Ends,
    /// Makes the port's thread look again.
    bell: OwnedFd,
}

/// What a port is connected to at the moment.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) input: Option<Arc<OwnedFd>>,
    pub(super) output: Option<Arc<OwnedFd>>,
    /// Where the next connection comes from.
    pub(super) listener: Option<Arc<OwnedFd>>,
}

impl FdPort {
    /// A port over two descriptors, which may be the same one twice.
    pub fn new(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        Self::over(Ends { input: Some(Arc::new(input)), output: Some(Arc::new(output)), listener: None })
    }

    /// A port over the program's standard input and output.
    pub fn stdio() -> io::Result<Self> {
        Self::new(io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?)
    }

    pub(super) fn over(ends: Ends) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { ends, bell })
    }
}

/// What the halves of a port and its thread share.
struct Line {
    link: PortLink,
    state: Mutex<State>,
    /// Makes the thread look again.
    bell: OwnedFd,
    /// Directions that are in use.
    halves: AtomicU8,
}

struct State {
    ends: Ends,
    /// The port waits for input, or for room.
    wants_input: bool,
    wants_room: bool,
}

/// One direction. With the last one the thread ends.
struct Half(Arc<Line>);

impl Drop for Half {
    fn drop(&mut self) {
        if self.0.halves.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ring();
        }
    }
}

impl PortBackend for FdPort {
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>) {
        let state = Mutex::new(State { ends: self.ends, wants_input: false, wants_room: false });
        let line = Arc::new(Line { link, state, bell: self.bell, halves: AtomicU8::new(2) });
        let watched = line.clone();
        let spawned = thread::Builder::new().name("console port".into()).spawn(move || watched.watch());
        if spawned.is_err() {
            // Nobody would ever say that there is input.
            line.link.set_connected(false);
        }
        (Box::new(Half(line.clone())), Box::new(Half(line)))
    }
}

/// Whether a descriptor can be read or written now, without waiting.
fn is_ready(fd: &OwnedFd, flags: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(fd, flags)], Some(&now)).is_ok_and(|ready| ready > 0)
}

impl Input for Half {
    fn poll(&mut self, to: &mut [u8]) -> usize {
        let line = &*self.0;
        let Some(input) = line.state().ends.input.clone() else { return 0 };
        // Nobody else reads from it, so that what is ready stays ready.
        if is_ready(&input, PollFlags::IN) {
            match rustix::io::read(&input, &mut *to) {
                Ok(0) => line.ended(&input, true),
                Ok(got) => return got,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => line.ended(&input, true),
            }
        }
        line.state().wants_input = true;
        line.ring();
        0
    }
}

impl Output for Half {
    fn submit(&mut self, from: &[u8]) -> usize {
        let line = &*self.0;
        // What nobody is there for is thrown away.
        let Some(output) = line.state().ends.output.clone() else { return from.len() };
        // A pipe that is ready takes this many bytes without blocking.
        let most = from.len().min(512);
        if is_ready(&output, PollFlags::OUT) {
            match rustix::io::write(&output, &from[..most]) {
                Ok(sent) if sent > 0 => return sent,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => {
                    line.ended(&output, false);
                    return from.len();
                }
            }
        }
        line.state().wants_room = true;
        line.ring();
        0
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // A bell that rings already is enough.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// A descriptor has come to its end. The end of a connection is the end of its input: what was sent before is
    /// still read when nothing can be written any more.
    fn ended(&self, fd: &Arc<OwnedFd>, input: bool) {
        let gone = {
            let mut state = self.state();
            let ends = &mut state.ends;
            let is = |end: &Option<Arc<OwnedFd>>| end.as_ref().is_some_and(|end| Arc::ptr_eq(end, fd));
            if input && is(&ends.input) {
                ends.input = None;
                if ends.listener.is_some() {
                    ends.output = None;
                }
            }
            if !input && is(&ends.output) {
                ends.output = None;
            }
            ends.input.is_none() && ends.output.is_none()
        };
        if gone {
            self.link.set_connected(false);
        }
        self.ring();
    }

    /// The thread: sleeps until there is something to tell the port.
    fn watch(&self) {
        while self.halves.load(Ordering::Acquire) > 0 {
            let (input, output, listener) = {
                let state = self.state();
                let when = |wanted: bool, fd: &Option<Arc<OwnedFd>>| fd.clone().filter(|_| wanted);
                let idle = state.ends.input.is_none() && state.ends.output.is_none();
                (
                    when(state.wants_input, &state.ends.input),
                    when(state.wants_room, &state.ends.output),
                    when(idle, &state.ends.listener),
                )
            };
            let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
            for (fd, flags) in
                [(&input, PollFlags::IN), (&output, PollFlags::OUT), (&listener, PollFlags::IN)]
            {
                if let Some(fd) = fd {
                    fds.push(PollFd::new(fd, flags));
                }
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut ready = ready.into_iter();
            if ready.next() == Some(true) {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            }
            let input_ready = input.is_some() && ready.next() == Some(true);
            let room_ready = output.is_some() && ready.next() == Some(true);
            let caller = listener.filter(|_| ready.next() == Some(true));
            if input_ready {
                self.state().wants_input = false;
                self.link.input();
            }
            if room_ready {
                self.state().wants_room = false;
                self.link.output();
            }
            if let Some(listener) = caller {
                self.accept(&listener);
            }
        }
    }

    /// Somebody connects.
    fn accept(&self, listener: &OwnedFd) {
        // Whoever went away again is nobody.
        let Ok(stream) = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) else {
            return;
        };
        if rustix::io::ioctl_fionbio(&stream, true).is_err() {
            return;
        }
        let stream = Arc::new(stream);
        {
            let mut state = self.state();
            (state.ends.input, state.ends.output) = (Some(stream.clone()), Some(stream));
        }
        self.link.set_connected(true);
        self.link.input();
    }
}
