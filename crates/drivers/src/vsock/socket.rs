//! A socket, and its two directions.

use super::shared::Shared;
use super::{Address, Blocking, Kind, Message, SocketError};
use alloc::sync::Arc;
use core::fmt;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::vsock::{End, ReadEnd, WriteEnd};

/// One end of a connection: bytes or messages, both ways. Dropped, it is closed; what was written still goes out.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    near: Address,
    far: Address,
    reader: SocketReader,
    writer: SocketWriter,
}

/// The direction to here.
pub struct SocketReader {
    end: ReadEnd,
    pub(super) shared: Arc<Shared>,
}

/// The direction from here.
pub struct SocketWriter {
    end: WriteEnd,
    pub(super) shared: Arc<Shared>,
}

impl Socket {
    pub(super) fn new(end: End, shared: Arc<Shared>) -> Self {
        let (kind, near, far) = (end.kind(), end.near(), end.far());
        let (reader, writer) = end.split();
        let reader = SocketReader { end: reader, shared: shared.clone() };
        Self { kind, near, far, reader, writer: SocketWriter { end: writer, shared } }
    }

    /// What it carries.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// This end's address.
    pub fn near(&self) -> Address {
        self.near
    }

    /// The other end's address.
    pub fn far(&self) -> Address {
        self.far
    }

    /// Whether the other end has accepted the connection; an error if it is over.
    pub fn is_open(&self) -> Result<bool, SocketError> {
        Ok(self.reader.end.is_open()?)
    }

    /// Ready when the other end has accepted the connection, or will not.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.reader.end.register(cx);
        if self.is_open()? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ends the connection at once, in both directions; what is on its way is lost, and the other end is told that
    /// the connection was reset.
    pub fn abort(self) {
        self.reader.end.abort();
    }

    /// The direction to here.
    pub fn reader(&mut self) -> &mut SocketReader {
        &mut self.reader
    }

    /// The direction from here.
    pub fn writer(&mut self) -> &mut SocketWriter {
        &mut self.writer
    }

    /// The two directions, for two owners.
    pub fn split(self) -> (SocketReader, SocketWriter) {
        (self.reader, self.writer)
    }

    /// [`SocketReader::read`].
    pub fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, SocketError> {
        self.reader.read(to)
    }

    /// [`SocketReader::receive`].
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, SocketError> {
        self.reader.receive(to)
    }

    /// [`SocketWriter::write`].
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, SocketError> {
        self.writer.write(from)
    }

    /// [`SocketWriter::send`].
    pub fn send(&mut self, message: &[u8], ends_record: bool) -> Result<bool, SocketError> {
        self.writer.send(message, ends_record)
    }

    /// A socket that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl SocketReader {
    /// Copies bytes of a stream to the start of `to`: how many; `None` if none have come. 0, unless `to` is empty,
    /// after the last ones. What came before a reset is read first. Never blocks.
    pub fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, SocketError> {
        let read = self.end.read(to);
        // The other end may be told of the room.
        self.shared.send_what_goes();
        Ok(read?)
    }

    /// Copies the next message to the start of `to`; `None` if it has not come as a whole. What does not fit is lost.
    /// [`Message::NONE`] comes after the last one. Never blocks.
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, SocketError> {
        let message = self.end.receive(to);
        self.shared.send_what_goes();
        Ok(message?)
    }

    /// [`read`](Self::read) in the form that futures need.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<usize, SocketError>> {
        self.end.register(cx);
        self.read(to)?.map_or(Poll::Pending, |len| Poll::Ready(Ok(len)))
    }

    /// [`receive`](Self::receive) in the form that futures need.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut [u8],
    ) -> Poll<Result<Message, SocketError>> {
        self.end.register(cx);
        self.receive(to)?.map_or(Poll::Pending, |message| Poll::Ready(Ok(message)))
    }

    /// Says that no more is wanted: what comes from now on is thrown away.
    pub fn shutdown(&mut self) {
        self.end.close();
        self.shared.send_what_goes();
    }

    /// A reader that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl SocketWriter {
    /// Sends the start of `from`, bytes of a stream: how many; `None` if there is no room. Never blocks.
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, SocketError> {
        let written = self.end.write(from);
        self.shared.send_what_goes();
        Ok(written?)
    }

    /// Sends a message as a whole; `false` if there is no room for it now. One without bytes is not sent: nobody could
    /// tell it from the end. Never blocks.
    pub fn send(&mut self, message: &[u8], ends_record: bool) -> Result<bool, SocketError> {
        let sent = self.end.send(message, ends_record);
        self.shared.send_what_goes();
        Ok(sent?)
    }

    /// The longest message that can be sent: what the other end can take whole.
    pub fn longest(&self) -> usize {
        self.end.longest()
    }

    /// Bytes that can be written now; an error if none can ever be.
    pub fn room(&self) -> Result<usize, SocketError> {
        Ok(self.end.room()?)
    }

    /// Whether everything that was written has gone to the device, or never will.
    pub fn is_flushed(&self) -> bool {
        self.end.is_flushed()
    }

    /// [`write`](Self::write) in the form that futures need.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, SocketError>> {
        self.end.register(cx);
        self.write(from)?.map_or(Poll::Pending, |len| Poll::Ready(Ok(len)))
    }

    /// [`send`](Self::send) in the form that futures need.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &[u8],
        ends_record: bool,
    ) -> Poll<Result<(), SocketError>> {
        self.end.register(cx);
        if self.send(message, ends_record)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when everything that was written has gone to the device; an error if the connection ended first.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.end.poll_flush(cx).map_err(SocketError::from)
    }

    /// Says that no more will come; what was written still goes out.
    pub fn shutdown(&mut self) {
        self.end.close();
        self.shared.send_what_goes();
    }

    /// A writer that waits, up to `limit` on this clock for each call.
    pub fn blocking(self, clock: Arc<dyn Clock>, limit: Duration) -> Blocking<Self> {
        Blocking::new(self, clock, limit)
    }
}

impl AsMut<SocketReader> for Socket {
    fn as_mut(&mut self) -> &mut SocketReader {
        &mut self.reader
    }
}

impl AsMut<SocketWriter> for Socket {
    fn as_mut(&mut self) -> &mut SocketWriter {
        &mut self.writer
    }
}

impl AsMut<Self> for SocketReader {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl AsMut<Self> for SocketWriter {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl Drop for SocketReader {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Drop for SocketWriter {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for SocketReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketReader({:?})", self.end)
    }
}

impl fmt::Debug for SocketWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketWriter({:?})", self.end)
    }
}
