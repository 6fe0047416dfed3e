//! The socket to the machine.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use virtio_kit::clock::Clock;
use virtio_kit::transport::TransportError;

use super::codec::{Command, Decoder, Reply};
use crate::clock::MonotonicClock;

/// One socket for all users of the machine, who take turns.
pub(super) struct Link {
    inner: Mutex<Inner>,
    limit: Duration,
}

struct Inner {
    stream: UnixStream,
    decoder: Decoder,
    text: String,
    /// A reply may still come in that nobody waits for: nothing that follows could be told from it.
    lost: bool,
}

impl Link {
    /// `limit` is how long a command may take.
    pub(super) fn new(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(limit))?;
        let inner = Inner { stream, decoder: Decoder::default(), text: String::new(), lost: false };
        Ok(Self { inner: Mutex::new(inner), limit })
    }

    /// Runs commands, with nobody else's between them; the last value read.
    pub(super) fn run(&self, commands: &[Command]) -> Result<u64, TransportError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.lost {
            return Err(TransportError::Disconnected);
        }
        let result = inner.run(commands, self.limit);
        inner.lost |= matches!(&result, Err(error) if !matches!(error, TransportError::Refused(_)));
        result
    }
}

impl Inner {
    fn run(&mut self, commands: &[Command], limit: Duration) -> Result<u64, TransportError> {
        let deadline = MonotonicClock.now().saturating_add(limit);
        self.text.clear();
        commands.iter().for_each(|command| command.encode(&mut self.text));
        self.stream.write_all(self.text.as_bytes()).map_err(failed)?;
        let (mut last, mut refused) = (0, false);
        for _ in commands {
            match self.reply(deadline)? {
                Some(value) => last = value.unwrap_or(last),
                None => refused = true,
            }
        }
        if refused { Err(TransportError::Refused("a qtest command")) } else { Ok(last) }
    }

    /// The reply to a command: `None` if it was refused.
    fn reply(&mut self, deadline: Duration) -> Result<Option<Option<u64>>, TransportError> {
        loop {
            let bad = TransportError::Protocol("a line that is no qtest reply");
            match self.decoder.next_reply().map_err(|_| bad)? {
                Some(Reply::Ok(value)) => return Ok(Some(value)),
                Some(Reply::Refused) => return Ok(None),
                Some(Reply::Irq { .. }) => {}
                None => self.receive(deadline)?,
            }
        }
    }

    fn receive(&mut self, deadline: Duration) -> Result<(), TransportError> {
        let left = deadline.saturating_sub(MonotonicClock.now());
        if left.is_zero() {
            return Err(TransportError::Timeout);
        }
        self.stream.set_read_timeout(Some(left)).map_err(failed)?;
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(TransportError::Disconnected),
            Ok(len) => {
                self.decoder.feed(&bytes[..len]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: io::Error) -> TransportError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => TransportError::Timeout,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::WriteZero => {
            TransportError::Disconnected
        }
        _ => TransportError::Os(error.raw_os_error().unwrap_or(0)),
    }
}
