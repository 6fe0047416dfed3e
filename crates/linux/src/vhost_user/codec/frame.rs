//! From a byte stream to whole messages, not yet looked into.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use super::{Error, HEADER_SIZE, Header, MAX_FDS, MessageId};

/// One whole message.
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Cuts a stream into messages, and gives every message the descriptors that came with it.
///
/// A header that cannot be right (version, direction, size) ends the stream before any of its
/// payload is kept.
pub(super) struct Framer {
    name: fn(u32) -> MessageId,
    head: Vec<u8>,
    partial: Option<Frame>,
    fds: Vec<OwnedFd>,
    ready: VecDeque<Frame>,
    failed: Option<Error>,
}

impl Framer {
    /// `name` says which kind of messages comes this way.
    pub(super) fn new(name: fn(u32) -> MessageId) -> Self {
        Self {
            name,
            head: Vec::with_capacity(HEADER_SIZE),
            partial: None,
            fds: Vec::new(),
            ready: VecDeque::new(),
            failed: None,
        }
    }

    /// Bytes that the message in progress still lacks; never zero.
    pub(super) fn wants(&self) -> usize {
        match &self.partial {
            Some(frame) => frame.header.size as usize - frame.payload.len(),
            None => HEADER_SIZE - self.head.len(),
        }
    }

    /// Takes what one `recvmsg` returned.
    ///
    /// The kernel ends a read after the piece of stream that brought descriptors, so they belong to
    /// the last message that has a byte in `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        let mut completed = false;
        while !bytes.is_empty() && self.failed.is_none() {
            let (now, later) = bytes.split_at(self.wants().min(bytes.len()));
            bytes = later;
            completed = self.push(now);
        }
        if self.failed.is_some() {
            self.fds.clear();
            self.partial = None;
            return;
        }
        let owner = match self.ready.back_mut() {
            Some(frame) if completed => &mut frame.fds,
            _ => &mut self.fds,
        };
        owner.extend(fds);
        if owner.len() > MAX_FDS {
            self.failed = Some(Error::TooManyFds { count: owner.len() });
            owner.clear();
            if completed {
                self.ready.pop_back();
            }
        }
    }

    /// Takes bytes of one message, and says whether it is whole now.
    fn push(&mut self, bytes: &[u8]) -> bool {
        match &mut self.partial {
            Some(frame) => frame.payload.extend_from_slice(bytes),
            None => {
                self.head.extend_from_slice(bytes);
                let Some(head) = self.head.first_chunk().copied() else { return false };
                self.head.clear();
                match self.open(&head) {
                    Ok(header) => {
                        let payload = Vec::with_capacity(header.size as usize);
                        self.partial = Some(Frame { header, payload, fds: Vec::new() });
                    }
                    Err(error) => {
                        self.failed = Some(error);
                        return false;
                    }
                }
            }
        }
        let whole = self.partial.take_if(|frame| frame.payload.len() == frame.header.size as usize);
        match whole {
            Some(mut frame) => {
                frame.fds = std::mem::take(&mut self.fds);
                self.ready.push_back(frame);
                true
            }
            None => false,
        }
    }

    fn open(&self, head: &[u8; HEADER_SIZE]) -> Result<Header, Error> {
        let header = Header::from_bytes(head, self.name)?;
        let message = (self.name)(header.request);
        if header.reply != matches!(message, MessageId::Reply(_) | MessageId::BackendReply(_)) {
            return Err(Error::Direction { message });
        }
        let max = message.max_payload();
        if header.size > max {
            return Err(Error::TooLong { message, size: header.size, max });
        }
        Ok(header)
    }

    /// The oldest whole message. Once the stream has failed, its error, after all messages before it.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Error> {
        match (self.ready.pop_front(), self.failed) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Ends the stream: every later message is this error.
    pub(super) fn fail(&mut self, error: Error) {
        self.ready.clear();
        self.partial = None;
        self.fds.clear();
        self.failed = Some(error);
    }
}
