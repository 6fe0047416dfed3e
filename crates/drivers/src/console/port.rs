//! A port, and its two directions.

use super::receive::Receive;
use super::state::{PortState, Shared, Size};
use super::transmit::Transmit;
use super::{Blocking, PortError, TakeError};
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::clock::Clock;

/// A port: bytes both ways. It belongs to whoever took it from its [`Console`](super::Console), and goes back when it
/// is dropped.
#[derive(Debug)]
pub struct Port {
    reader: PortReader,
    writer: PortWriter,
}

/// What both directions of a port hold.
struct Held {
    shared: Arc<Shared>,
    index: usize,
    generation: u32,
    /// Directions that are still held.
    halves: AtomicU8,
}

impl Held {
    fn port(&self) -> &PortState {
        &self.shared.ports[self.index]
    }

    fn check(&self) -> Result<(), PortError> {
        if self.port().generation() == self.generation { Ok(()) } else { Err(PortError::Removed) }
    }

    fn is_connected(&self) -> bool {
        self.check().is_ok() && self.port().connected.load(Ordering::Acquire)
    }

    fn set_open(&self, open: bool) -> Result<(), PortError> {
        self.check()?;
        self.port().open.store(open, Ordering::Release);
        Ok(self.shared.tell_open(self.port())?)
    }

    /// A direction is not held any more. With the last one the port closes, unless it is a console, which stays open.
    fn let_go(&self) {
        if self.halves.fetch_sub(1, Ordering::AcqRel) == 1 && !self.port().console.load(Ordering::Acquire) {
            // If the device is gone there is nobody to be told.
            let _ = self.set_open(false);
        }
    }
}

impl Port {
    /// Takes a port that is there and that nobody has.
    pub(super) fn take(shared: &Arc<Shared>, id: u32) -> Result<Self, TakeError> {
        let port = shared.port(id).ok_or(TakeError::NoPort(id))?;
        let generation = port.generation();
        if generation % 2 == 0 {
            return Err(TakeError::NoPort(id));
        }
        let (mut receive, mut transmit) = (port.receive.lock(), port.transmit.lock());
        let (Some(mut from), Some(to)) = (receive.take(), transmit.take()) else {
            return Err(TakeError::Taken(id));
        };
        if from.generation != generation {
            // It came while somebody held on to the port that had this number before. A queue that is broken says
            // so at the first read.
            let _ = from.discard();
            from.generation = generation;
        }
        let index = port.id as usize;
        let held = Arc::new(Held { shared: shared.clone(), index, generation, halves: AtomicU8::new(2) });
        Ok(Self {
            reader: PortReader { held: held.clone(), receive: Some(from) },
            writer: PortWriter { held, transmit: Some(to) },
        })
    }

    /// The port's number.
    pub fn id(&self) -> u32 {
        self.reader.held.port().id
    }

    /// Its name, if the device gave it one.
    pub fn name(&self) -> Option<String> {
        self.reader.held.port().name.lock().clone()
    }

    /// Whether the device says that it is a console.
    pub fn is_console(&self) -> bool {
        self.reader.held.port().console.load(Ordering::Acquire)
    }

    /// Its size in characters, if the device has told it.
    pub fn size(&self) -> Option<Size> {
        let held = &self.reader.held;
        held.port().size.get().or_else(|| if held.index == 0 { held.shared.size.get() } else { None })
    }

    /// Whether somebody is at the other end. Always so on a device without MULTIPORT.
    pub fn is_connected(&self) -> bool {
        self.reader.held.is_connected()
    }

    /// Tells the device that somebody is at this end (5.3.6.2): until then it may hold its data back. If there is no
    /// room for the message, it is sent by [`Console::poll`](super::Console::poll).
    pub fn open(&self) -> Result<(), PortError> {
        self.reader.held.set_open(true)
    }

    /// Tells the device that nobody is at this end.
    pub fn close(&self) -> Result<(), PortError> {
        self.reader.held.set_open(false)
    }

    /// Copies what has come to the start of `to`: how many bytes; `None` if nothing has. Never blocks.
    pub fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, PortError> {
        self.reader.read(to)
    }

    /// Sends the start of `from`: how many bytes; `None` if all buffers are in flight. Never blocks.
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, PortError> {
        self.writer.write(from)
    }

    /// The two directions, for two owners.
    pub fn split(self) -> (PortReader, PortWriter) {
        (self.reader, self.writer)
    }

    /// A port that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl AsMut<PortReader> for Port {
    fn as_mut(&mut self) -> &mut PortReader {
        &mut self.reader
    }
}

impl AsMut<PortWriter> for Port {
    fn as_mut(&mut self) -> &mut PortWriter {
        &mut self.writer
    }
}

/// The direction from the device.
pub struct PortReader {
    held: Arc<Held>,
    /// `None` only while it is dropped.
    receive: Option<Receive>,
}

impl AsMut<Self> for PortReader {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl PortReader {
    /// Copies what has come to the start of `to`: how many bytes; `None` if nothing has. Never blocks.
    pub fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, PortError> {
        self.held.check()?;
        // Before the look: what was sent before the other end closed is seen.
        let connected = self.held.is_connected();
        let Some(receive) = &mut self.receive else { return Err(PortError::Removed) };
        match receive.read(to)? {
            0 if to.is_empty() => Ok(Some(0)),
            0 if !connected => Err(PortError::Closed),
            0 => Ok(None),
            got => Ok(Some(got)),
        }
    }

    /// [`read`](Self::read) in the form that futures need.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<usize, PortError>> {
        loop {
            self.held.port().reader.register(cx.waker());
            if let Some(got) = self.read(to)? {
                return Poll::Ready(Ok(got));
            }
            let Some(receive) = &mut self.receive else { return Poll::Ready(Err(PortError::Removed)) };
            core::task::ready!(receive.poll_come(cx))?;
        }
    }

    /// Waits until something may have come, for up to `limit`; `false` if nothing has. That the port is closed or
    /// removed does not end the wait.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, PortError> {
        self.held.check()?;
        match &mut self.receive {
            Some(receive) => Ok(receive.wait(limit)?),
            None => Err(PortError::Removed),
        }
    }

    /// A reader that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl Drop for PortReader {
    fn drop(&mut self) {
        *self.held.port().receive.lock() = self.receive.take();
        self.held.let_go();
    }
}

impl fmt::Debug for PortReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortReader({})", self.held.port().id)
    }
}

/// The direction to the device.
pub struct PortWriter {
    held: Arc<Held>,
    /// `None` only while it is dropped.
    transmit: Option<Transmit>,
}

impl AsMut<Self> for PortWriter {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl PortWriter {
    /// Sends the start of `from`: how many bytes; `None` if all buffers are in flight. Never blocks.
    ///
    /// A port at whose other end nobody is takes nothing: devices throw such bytes away.
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, PortError> {
        self.held.check()?;
        if !self.held.is_connected() {
            return Err(PortError::Closed);
        }
        let Some(transmit) = &mut self.transmit else { return Err(PortError::Removed) };
        match transmit.write(from)? {
            0 if !from.is_empty() => Ok(None),
            sent => Ok(Some(sent)),
        }
    }

    /// Whether the device has taken all that was sent.
    pub fn is_flushed(&mut self) -> Result<bool, PortError> {
        self.held.check()?;
        self.transmit.as_mut().map_or(Err(PortError::Removed), |transmit| Ok(transmit.is_flushed()?))
    }

    /// [`write`](Self::write) in the form that futures need.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, PortError>> {
        loop {
            self.held.port().writer.register(cx.waker());
            if let Some(sent) = self.write(from)? {
                return Poll::Ready(Ok(sent));
            }
            let Some(transmit) = &mut self.transmit else { return Poll::Ready(Err(PortError::Removed)) };
            core::task::ready!(transmit.poll_reclaim(cx))?;
        }
    }

    /// Ready when the device has taken all that was sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PortError>> {
        loop {
            self.held.port().writer.register(cx.waker());
            if self.is_flushed()? {
                return Poll::Ready(Ok(()));
            }
            let Some(transmit) = &mut self.transmit else { return Poll::Ready(Err(PortError::Removed)) };
            core::task::ready!(transmit.poll_reclaim(cx))?;
        }
    }

    /// Waits until the device may have taken something, for up to `limit`; `false` if it has not.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, PortError> {
        self.held.check()?;
        match &mut self.transmit {
            Some(transmit) => Ok(transmit.wait(limit)?),
            None => Err(PortError::Removed),
        }
    }

    /// A writer that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl Drop for PortWriter {
    fn drop(&mut self) {
        *self.held.port().transmit.lock() = self.transmit.take();
        self.held.let_go();
    }
}

impl fmt::Debug for PortWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortWriter({})", self.held.port().id)
    }
}
