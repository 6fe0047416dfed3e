//! One connection: requests out, replies in, each within a bounded time.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::error::{Failed, Failure};
use crate::vhost_user::codec::{Channel, Reply, ReplyDecoder, ReplyRules, Request, RequestCode};
use crate::vhost_user::wire::{self, timespec};

/// How long to wait before looking again for a socket that is not there yet.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// The front-end's end of the main socket.
pub(super) struct Socket {
    stream: Arc<UnixStream>,
    decoder: ReplyDecoder,
    /// How long one answer may take.
    timeout: Duration,
    /// When everything has to be done, while a connection is made.
    deadline: Option<Instant>,
}

/// A request whose descriptors are borrowed.
pub(super) type Outgoing<'f> = Request<BorrowedFd<'f>>;

impl Socket {
    pub(super) fn new(stream: UnixStream, timeout: Duration) -> Self {
        let decoder = ReplyDecoder::new(Channel::Main);
        Self { stream: Arc::new(stream), decoder, timeout, deadline: None }
    }

    pub(super) fn stream(&self) -> &Arc<UnixStream> {
        &self.stream
    }

    /// Bounds all that follows, besides each message.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Nothing is sent or received any more; whoever polls the socket wakes.
    pub(super) fn close(&self) {
        // Closed already by the other end, perhaps.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Sends a request and, if it has a reply, waits for it.
    pub(super) fn exchange(
        &mut self,
        request: &Outgoing<'_>,
        rules: ReplyRules,
        need_reply: bool,
    ) -> Result<Option<Reply>, Failed> {
        let during = RequestCode::from_id(request.id()).map_or("a request", RequestCode::name);
        self.try_exchange(request, rules, need_reply).map_err(|why| Failed { during, why })
    }

    fn try_exchange(
        &mut self,
        request: &Outgoing<'_>,
        rules: ReplyRules,
        need_reply: bool,
    ) -> Result<Option<Reply>, Failure> {
        let mut until = Instant::now() + self.timeout;
        if let Some(deadline) = self.deadline {
            until = until.min(deadline);
        }
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        request.encode(need_reply, &mut bytes, &mut fds).map_err(Failure::Protocol)?;
        let expected = request.expected_reply(rules, need_reply);
        if let Some(expected) = expected {
            self.decoder.expect(expected);
        }
        self.send(&bytes, &fds, until)?;
        if expected.is_some() { self.receive(until).map(Some) } else { Ok(None) }
    }

    fn send(&self, mut bytes: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> Result<(), Failure> {
        let mut fds = fds;
        while !bytes.is_empty() {
            wait_for(&*self.stream, PollFlags::OUT, until)?;
            match wire::send(&*self.stream, bytes, fds) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    // They went with the first byte.
                    fds = &[];
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> Result<Reply, Failure> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(reply) = self.decoder.next().map_err(Failure::Protocol)? {
                return Ok(reply);
            }
            wait_for(&*self.stream, PollFlags::IN, until)?;
            let wanted = self.decoder.wants().min(buffer.len());
            match wire::receive(&*self.stream, &mut buffer[..wanted]) {
                Ok((0, _)) => return Err(Failure::Closed),
                Ok((count, fds)) => self.decoder.feed(&buffer[..count], fds),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }
}

fn lost(error: Errno) -> Failure {
    match error {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Failure::Closed,
        other => Failure::Os(other),
    }
}

fn wait_for(fd: impl AsFd, events: PollFlags, until: Instant) -> Result<(), Failure> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(&fd, events)], Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Err(Failure::Timeout),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Failure::Os(error)),
        }
    }
}

/// Connects to a listening socket. For as long as `patience`, one that is not there is waited for; being
/// accepted may take `timeout`.
pub(super) fn open(path: &Path, patience: Duration, timeout: Duration) -> Result<UnixStream, Errno> {
    let until = Instant::now() + patience;
    let address = SocketAddrUnix::new(path)?;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // A full backlog holds connect(2) up for as long as sending may take.
        set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::INTR) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) if Instant::now() < until => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}
