//! Sockets that wait.

use super::shared::Shared;
use super::{Message, Socket, SocketError, SocketReader, SocketWriter};
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit::clock::Clock;

/// How long to wait for packets before looking what others have made of those that came.
const SLICE: Duration = Duration::from_millis(50);

/// A socket, or one direction of it, whose calls wait for a bounded time. They move packets meanwhile, for all sockets
/// of the device, so that nobody else has to.
pub struct Blocking<S> {
    socket: S,
    clock: Arc<dyn Clock>,
    limit: Duration,
}

/// Moves packets until `step` gives a value.
pub(super) fn wait<R>(
    shared: &Shared,
    clock: &dyn Clock,
    limit: Duration,
    mut step: impl FnMut() -> Result<Option<R>, SocketError>,
) -> Result<R, SocketError> {
    let deadline = clock.now().saturating_add(limit);
    loop {
        if let Some(result) = step()? {
            return Ok(result);
        }
        let left = deadline.saturating_sub(clock.now());
        if left.is_zero() {
            return Err(SocketError::Timeout(limit));
        }
        shared.wait(clock, left.min(SLICE))?;
    }
}

impl<S> Blocking<S> {
    /// Waits up to `limit`, on this clock, in each call.
    pub fn new(socket: S, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self { socket, clock, limit }
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// The socket, to be used without waiting.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// The socket, without the waiting.
    pub fn into_inner(self) -> S {
        self.socket
    }

    fn wait<R>(
        &mut self,
        shared: &Arc<Shared>,
        mut step: impl FnMut(&mut S) -> Result<Option<R>, SocketError>,
    ) -> Result<R, SocketError> {
        let socket = &mut self.socket;
        wait(shared, &*self.clock, self.limit, || step(socket))
    }
}

impl Blocking<Socket> {
    /// Waits until the other end has accepted the connection.
    pub fn open(&mut self) -> Result<(), SocketError> {
        let shared = self.socket.reader().shared.clone();
        self.wait(&shared, |socket| Ok(socket.is_open()?.then_some(())))
    }
}

impl<S: AsMut<SocketReader>> Blocking<S> {
    /// Waits for bytes and copies them to the start of `to`: how many, 0 after the last unless `to` is empty.
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, SocketError> {
        let shared = self.socket.as_mut().shared.clone();
        self.wait(&shared, |socket| socket.as_mut().read(to))
    }

    /// Waits for a message and copies it to the start of `to`. What does not fit is lost.
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Message, SocketError> {
        let shared = self.socket.as_mut().shared.clone();
        self.wait(&shared, |socket| socket.as_mut().receive(to))
    }
}

impl<S: AsMut<SocketWriter>> Blocking<S> {
    /// Waits for room and sends the start of `from`: how many bytes, at least one unless `from` is empty.
    pub fn write(&mut self, from: &[u8]) -> Result<usize, SocketError> {
        let shared = self.socket.as_mut().shared.clone();
        self.wait(&shared, |socket| socket.as_mut().write(from))
    }

    /// Waits for room and sends a message.
    pub fn send(&mut self, message: &[u8], ends_record: bool) -> Result<(), SocketError> {
        let shared = self.socket.as_mut().shared.clone();
        self.wait(&shared, |socket| Ok(socket.as_mut().send(message, ends_record)?.then_some(())))
    }

    /// Waits until all that was written has gone to the device.
    pub fn flush(&mut self) -> Result<(), SocketError> {
        let shared = self.socket.as_mut().shared.clone();
        self.wait(&shared, |socket| Ok(socket.as_mut().is_flushed().then_some(())))
    }
}

impl<S: fmt::Debug> fmt::Debug for Blocking<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("socket", &self.socket)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
