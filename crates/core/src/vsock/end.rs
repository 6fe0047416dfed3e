//! An end of a connection, as a program has it.

use super::connection::{Connection, Phase, State};
use super::pipe::Record;
use super::{Address, Error, Kind};
use alloc::sync::Arc;
use core::fmt;
use core::task::{Context, Poll};

/// An end of a connection: reads and writes without blocking, or as futures. Dropped, it closes its side; what was
/// written still goes out.
#[derive(Debug)]
pub struct End {
    reader: ReadEnd,
    writer: WriteEnd,
}

/// The direction to here. Dropped, it says that no more is wanted.
pub struct ReadEnd(Half);

/// The direction from here. Dropped, it says that no more will come.
pub struct WriteEnd(Half);

struct Half {
    connection: Arc<Connection>,
    /// The end's side, whose pipe it writes.
    side: usize,
    near: Address,
    far: Address,
}

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its length. 0 after the last message: nobody sends messages without bytes.
    pub len: usize,
    /// It ends a record (MSG_EOR).
    pub ends_record: bool,
}

impl Message {
    /// What comes after the last message.
    pub const NONE: Self = Self { len: 0, ends_record: false };
}

impl Half {
    fn open<'s>(&self, state: &'s mut State) -> Result<&'s mut State, Error> {
        match state.phase {
            Phase::Open => Ok(state),
            Phase::Connecting => Err(Error::NotOpen),
            Phase::Over(error) => Err(error),
        }
    }

    fn is_open(&self) -> Result<bool, Error> {
        match self.connection.state.lock().phase {
            Phase::Open => Ok(true),
            Phase::Connecting => Ok(false),
            Phase::Over(error) => Err(error),
        }
    }

    fn must_be(&self, kind: Kind) -> Result<(), Error> {
        if self.connection.kind == kind { Ok(()) } else { Err(Error::Kind(self.connection.kind)) }
    }
}

impl End {
    pub(super) fn new(connection: Arc<Connection>, side: usize, near: Address, far: Address) -> Self {
        let half = |connection| Half { connection, side, near, far };
        Self { reader: ReadEnd(half(connection.clone())), writer: WriteEnd(half(connection)) }
    }

    /// What it carries.
    pub fn kind(&self) -> Kind {
        self.reader.0.connection.kind
    }

    /// This end's address.
    pub fn near(&self) -> Address {
        self.reader.0.near
    }

    /// The other end's address.
    pub fn far(&self) -> Address {
        self.reader.0.far
    }

    /// Whether the other end has accepted the connection; an error if it is over.
    pub fn is_open(&self) -> Result<bool, Error> {
        self.reader.0.is_open()
    }

    /// Ready when the other end has accepted the connection, or will not.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let half = &self.reader.0;
        let mut state = half.connection.state.lock();
        match state.phase {
            Phase::Open => Poll::Ready(Ok(())),
            Phase::Over(error) => Poll::Ready(Err(error)),
            Phase::Connecting => {
                state.set_reader(half.side, cx.waker());
                Poll::Pending
            }
        }
    }

    /// [`ReadEnd::abort`].
    pub fn abort(self) {
        self.reader.abort();
    }

    /// The direction to here.
    pub fn reader(&mut self) -> &mut ReadEnd {
        &mut self.reader
    }

    /// The direction from here.
    pub fn writer(&mut self) -> &mut WriteEnd {
        &mut self.writer
    }

    /// The two directions, for two owners.
    pub fn split(self) -> (ReadEnd, WriteEnd) {
        (self.reader, self.writer)
    }
}

impl ReadEnd {
    /// Whether the other end has accepted the connection; an error if it is over.
    pub fn is_open(&self) -> Result<bool, Error> {
        self.0.is_open()
    }

    /// Ends the connection at once, in both directions; what is on its way is lost, and the other end is told that
    /// the connection was reset.
    pub fn abort(&self) {
        self.0.connection.end(Error::Aborted);
    }

    /// Copies bytes of a stream to the start of `to`: how many; `None` if none have come. 0, unless `to` is empty,
    /// after the last ones. What came before a reset is read first.
    pub fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        self.0.must_be(Kind::Stream)?;
        let read = self.peek(to)?;
        if let Some(len) = read {
            self.consume(len);
        }
        Ok(read)
    }

    /// The same, and the bytes stay: for whoever may not get rid of all of them. To be followed by
    /// [`consume`](Self::consume).
    pub fn peek(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        let (half, most) = (&self.0, u32::try_from(to.len()).unwrap_or(u32::MAX));
        let state = half.connection.state.lock();
        let pipe = &state.pipes[1 - half.side];
        let (first, second) = pipe.bytes(most);
        to[..first.len()].copy_from_slice(first);
        to[first.len()..first.len() + second.len()].copy_from_slice(second);
        match first.len() + second.len() {
            0 if to.is_empty() || pipe.fin || pipe.shut => Ok(Some(0)),
            0 => state.error().map_or(Ok(None), Err),
            len => Ok(Some(len)),
        }
    }

    /// Bytes that were peeked at are dealt with.
    pub fn consume(&mut self, len: usize) {
        let (half, len) = (&self.0, u32::try_from(len).unwrap_or(u32::MAX));
        half.connection.with(|state, wakes| {
            state.pipes[1 - half.side].consume(len);
            state.tell_writer(1 - half.side, wakes);
        });
    }

    /// Copies the next message to the start of `to`; `None` if it has not come as a whole. What does not fit is lost.
    pub fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, Error> {
        let message = self.peek_message(to)?;
        if let Some(message) = message {
            self.consume(message.len);
        }
        Ok(message)
    }

    /// The same, and the message stays until [`consume`](Self::consume) is called with its length.
    pub fn peek_message(&mut self, to: &mut [u8]) -> Result<Option<Message>, Error> {
        self.0.must_be(Kind::Seqpacket)?;
        let half = &self.0;
        let found = {
            let state = half.connection.state.lock();
            let pipe = &state.pipes[1 - half.side];
            let piece = pipe.next(u32::MAX);
            match piece.end {
                Some(Record(ends_record)) => {
                    let (first, second) =
                        pipe.bytes(piece.len.min(u32::try_from(to.len()).unwrap_or(u32::MAX)));
                    to[..first.len()].copy_from_slice(first);
                    to[first.len()..first.len() + second.len()].copy_from_slice(second);
                    return Ok(Some(Message { len: piece.len as usize, ends_record }));
                }
                // The rest of a message that was begun does not come any more.
                None if pipe.fin || pipe.shut => return Ok(Some(Message::NONE)),
                None if pipe.is_stuck() => Err(Error::Broken),
                None => state.error().map_or(Ok(None), Err),
            }
        };
        if found == Err(Error::Broken) {
            half.connection.end(Error::Broken);
        }
        found
    }

    /// [`read`](Self::read) in the form that futures need.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<usize, Error>> {
        self.register(cx);
        self.read(to)?.map_or(Poll::Pending, |len| Poll::Ready(Ok(len)))
    }

    /// [`receive`](Self::receive) in the form that futures need.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Result<Message, Error>> {
        self.register(cx);
        self.receive(to)?.map_or(Poll::Pending, |message| Poll::Ready(Ok(message)))
    }

    /// The task is woken once something comes, or the connection ends.
    pub fn register(&mut self, cx: &mut Context<'_>) {
        self.0.connection.state.lock().set_reader(self.0.side, cx.waker());
    }

    /// Says that no more is wanted: what comes from now on is thrown away.
    pub fn close(&mut self) {
        let half = &self.0;
        half.connection.with(|state, wakes| {
            let from = 1 - half.side;
            if !core::mem::replace(&mut state.pipes[from].shut, true) {
                state.pipes[from].discard();
                state.tell(from, wakes);
            }
        });
    }
}

impl WriteEnd {
    /// Sends the start of `from`, bytes of a stream: how many; `None` if there is no room. Never blocks.
    pub fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Error> {
        self.0.must_be(Kind::Stream)?;
        self.put(
            from,
            |_, space, len| if space == 0 && len > 0 { Ok(None) } else { Ok(Some(space.min(len))) },
            None,
        )
    }

    /// Sends a message as a whole; `false` if there is no room for it now. One without bytes is not sent: nobody could
    /// tell it from the end.
    pub fn send(&mut self, message: &[u8], ends_record: bool) -> Result<bool, Error> {
        self.0.must_be(Kind::Seqpacket)?;
        let fits = |longest, space, len| {
            if len > longest {
                Err(Error::TooLong { most: longest })
            } else {
                Ok((len <= space).then_some(len))
            }
        };
        Ok(self.put(message, fits, Some(Record(ends_record)))?.is_some())
    }

    fn put(
        &mut self,
        from: &[u8],
        fits: impl FnOnce(usize, usize, usize) -> Result<Option<usize>, Error>,
        end: Option<Record>,
    ) -> Result<Option<usize>, Error> {
        let half = &self.0;
        half.connection.with(|state, wakes| {
            let pipe = &mut half.open(state)?.pipes[half.side];
            if pipe.fin || pipe.shut {
                return Err(Error::Closed);
            }
            let Some(len) = fits(pipe.longest() as usize, pipe.space() as usize, from.len())? else {
                return Ok(None);
            };
            let mut done = 0;
            pipe.push(len as u32, |to| {
                to.copy_from_slice(&from[done..done + to.len()]);
                done += to.len();
                true
            });
            if len > 0 {
                if let Some(end) = end {
                    pipe.end_message(end);
                }
                state.tell_reader(1 - half.side, wakes);
            }
            Ok(Some(len))
        })
    }

    /// Bytes that can be written now; an error if none can ever be.
    pub fn room(&self) -> Result<usize, Error> {
        let half = &self.0;
        let mut state = half.connection.state.lock();
        let pipe = &half.open(&mut state)?.pipes[half.side];
        if pipe.fin || pipe.shut { Err(Error::Closed) } else { Ok(pipe.space() as usize) }
    }

    /// The longest message that can be sent: what the other end can take whole.
    pub fn longest(&self) -> usize {
        self.0.connection.state.lock().pipes[self.0.side].longest() as usize
    }

    /// Whether everything that was written has gone out, or never will.
    pub fn is_flushed(&self) -> bool {
        let state = self.0.connection.state.lock();
        state.pipes[self.0.side].len() == 0 || state.error().is_some()
    }

    /// [`write`](Self::write) in the form that futures need.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, Error>> {
        self.register(cx);
        self.write(from)?.map_or(Poll::Pending, |len| Poll::Ready(Ok(len)))
    }

    /// [`send`](Self::send) in the form that futures need.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &[u8],
        ends_record: bool,
    ) -> Poll<Result<(), Error>> {
        self.register(cx);
        if self.send(message, ends_record)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when everything that was written has gone out; an error if the connection ended first.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.register(cx);
        let state = self.0.connection.state.lock();
        match (state.pipes[self.0.side].len(), state.error()) {
            (0, _) => Poll::Ready(Ok(())),
            (_, Some(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    /// The task is woken once there is room, or the connection ends.
    pub fn register(&mut self, cx: &mut Context<'_>) {
        self.0.connection.state.lock().set_writer(self.0.side, cx.waker());
    }

    /// Says that no more will come; what was written still goes out.
    pub fn close(&mut self) {
        let half = &self.0;
        half.connection.with(|state, wakes| {
            if !core::mem::replace(&mut state.pipes[half.side].fin, true) {
                state.tell_reader(1 - half.side, wakes);
            }
        });
    }
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.close();
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", self.connection.kind, self.near, self.far)
    }
}

impl fmt::Debug for ReadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadEnd({:?})", self.0)
    }
}

impl fmt::Debug for WriteEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteEnd({:?})", self.0)
    }
}
