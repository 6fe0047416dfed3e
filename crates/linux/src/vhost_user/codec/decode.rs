//! Incremental decoders: feed what the socket gave, take typed messages out.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use super::frame::Framer;
use super::input::Input;
use super::{BackendRequest, Channel, Error, ExpectedReply, Header, MessageId, Reply, Request};

/// Decodes what a front-end sends on the main socket.
pub type RequestDecoder = Decoder<Request>;

/// Decodes what a back-end sends on its channel.
pub type BackendRequestDecoder = Decoder<BackendRequest>;

/// One request as it came: with its header, which a reply needs, even if its content was refused.
#[derive(Debug)]
pub struct Received<M> {
    /// The header.
    pub header: Header,
    /// The request, or what is wrong with it. The stream is in step all the same, so the error can
    /// be answered; the descriptors are closed.
    pub message: Result<M, Error>,
}

/// A message that [`Decoder`] decodes: [`Request`] or [`BackendRequest`].
pub trait Incoming: sealed::Read {}

mod sealed {
    use super::{Error, Input, MessageId};

    pub trait Read: Sized {
        #[doc(hidden)]
        fn name(id: u32) -> MessageId;
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "sealed: nobody else calls or implements it")]
        fn read(input: Input<'_>) -> Result<Self, Error>;
    }
}

impl Incoming for Request {}

#[allow(private_interfaces, reason = "sealed")]
impl sealed::Read for Request {
    fn name(id: u32) -> MessageId {
        MessageId::Request(id)
    }

    fn read(input: Input<'_>) -> Result<Self, Error> {
        Self::read(input)
    }
}

impl Incoming for BackendRequest {}

#[allow(private_interfaces, reason = "sealed")]
impl sealed::Read for BackendRequest {
    fn name(id: u32) -> MessageId {
        MessageId::BackendRequest(id)
    }

    fn read(input: Input<'_>) -> Result<Self, Error> {
        Self::read(input)
    }
}

/// Decodes a stream of requests.
pub struct Decoder<M: Incoming> {
    framer: Framer,
    requests: PhantomData<fn() -> M>,
}

impl<M: Incoming> Decoder<M> {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self { framer: Framer::new(M::name), requests: PhantomData }
    }

    /// How many bytes the message in progress still lacks. Never zero; reading no more than this at
    /// a time keeps messages apart even if the sender joined several that carry descriptors.
    pub fn wants(&self) -> usize {
        self.framer.wants()
    }

    /// Takes the bytes and descriptors of one `recvmsg`. Descriptors that come without bytes are closed.
    pub fn feed(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        self.framer.feed(bytes, fds);
    }

    /// The next request. An error here is final: the stream cannot be followed any further.
    #[allow(
        clippy::should_implement_trait,
        reason = "an error ends the stream, the lack of a message does not"
    )]
    pub fn next(&mut self) -> Result<Option<Received<M>>, Error> {
        let Some(frame) = self.framer.next()? else { return Ok(None) };
        let input = Input::new(M::name(frame.header.request), &frame.payload, frame.fds);
        Ok(Some(Received { header: frame.header, message: M::read(input) }))
    }
}

impl<M: Incoming> Default for Decoder<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Decodes a stream of replies, each against the request it answers.
pub struct ReplyDecoder {
    framer: Framer,
    channel: Channel,
    expected: VecDeque<ExpectedReply>,
}

impl ReplyDecoder {
    /// A decoder at the start of a stream.
    pub fn new(channel: Channel) -> Self {
        let name = match channel {
            Channel::Main => MessageId::Reply,
            Channel::Backend => MessageId::BackendReply,
        };
        Self { framer: Framer::new(name), channel, expected: VecDeque::new() }
    }

    /// Says what will be answered. To be called in the order in which requests are sent, before the
    /// reply can come.
    pub fn expect(&mut self, reply: ExpectedReply) {
        self.expected.push_back(reply);
    }

    /// Replies that are still to come.
    pub fn outstanding(&self) -> usize {
        self.expected.len()
    }

    /// How many bytes the reply in progress still lacks; never zero.
    pub fn wants(&self) -> usize {
        self.framer.wants()
    }

    /// Takes the bytes and descriptors of one `recvmsg`. Descriptors that come without bytes are closed.
    pub fn feed(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        self.framer.feed(bytes, fds);
    }

    /// The reply to the oldest outstanding request. An error is final: the connection has to end.
    #[allow(
        clippy::should_implement_trait,
        reason = "an error ends the stream, the lack of a message does not"
    )]
    pub fn next(&mut self) -> Result<Option<Reply>, Error> {
        let Some(frame) = self.framer.next()? else { return Ok(None) };
        let message = self.channel.reply(frame.header.request);
        let input = Input::new(message, &frame.payload, frame.fds);
        let reply = match self.expected.pop_front() {
            None => Err(Error::Unsolicited { message }),
            Some(ExpectedReply { request, .. }) if request != frame.header.request => Err(Error::Mismatch {
                message,
                field: "request",
                value: frame.header.request.into(),
                expected: request.into(),
            }),
            Some(ExpectedReply { kind, .. }) => Reply::read(input, kind),
        };
        reply.map(Some).inspect_err(|error| self.framer.fail(*error))
    }
}
