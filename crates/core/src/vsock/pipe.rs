//! One direction of a connection: a bounded buffer of bytes, with the ends of messages in it.

use super::Kind;
use alloc::boxed::Box;
use alloc::vec;

/// Bytes on their way from one side to the other.
pub(super) struct Pipe {
    bytes: Box<[u8]>,
    ends: Option<Ends>,
    /// Bytes that went out and in so far, modulo 2^32.
    head: u32,
    tail: u32,
    /// `head` and buffer size as the sender knows them, where that is a remote end.
    told: (u32, u32),
    /// The longest message that the far end can take whole.
    longest: u32,
    /// The sender sends no more.
    pub(super) fin: bool,
    /// The receiver takes no more: what is sent is lost.
    pub(super) shut: bool,
}

/// One bit for each byte that is the last of a message, or of a record. So the place they need is bounded, however
/// short messages are.
struct Ends {
    messages: Box<[u64]>,
    records: Box<[u64]>,
}

/// What is next to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) len: u32,
    /// It is the end of a message, and perhaps of a record.
    pub(super) end: Option<Record>,
}

/// Whether the end of a message is the end of a record too (MSG_EOR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(pub(super) bool);

impl Pipe {
    /// A pipe of `capacity` bytes, a power of two of at least 64.
    pub(super) fn new(kind: Kind, capacity: u32) -> Self {
        let bits = || vec![0; capacity as usize / 64].into_boxed_slice();
        let ends = (kind == Kind::Seqpacket).then(|| Ends { messages: bits(), records: bits() });
        Self {
            bytes: vec![0; capacity as usize].into(),
            ends,
            head: 0,
            tail: 0,
            told: (0, 0),
            longest: capacity,
            fin: false,
            shut: false,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub(super) fn len(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    pub(super) fn space(&self) -> u32 {
        self.capacity() - self.len()
    }

    pub(super) fn is_seqpacket(&self) -> bool {
        self.ends.is_some()
    }

    /// The longest message that gets through.
    pub(super) fn longest(&self) -> u32 {
        self.longest.min(self.capacity())
    }

    /// The far end takes messages of up to this length.
    pub(super) fn set_longest(&mut self, longest: u32) {
        self.longest = longest;
    }

    /// What a sender that counts is told of the pipe: the size of its buffer, and how much has gone out. A message
    /// that could not get out at the far end is not let in.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        let size = if self.is_seqpacket() { self.longest() } else { self.capacity() };
        self.told = (self.head, size);
        (size, self.head)
    }

    /// Whether the sender should be told that there is more room than it knows of.
    pub(super) fn is_news(&self) -> bool {
        let size = if self.is_seqpacket() { self.longest() } else { self.capacity() };
        let grown = size.saturating_sub(self.told.1);
        self.head.wrapping_sub(self.told.0).saturating_add(grown) >= (size / 4).max(1)
    }

    fn at(&self, position: u32) -> usize {
        (position & (self.capacity() - 1)) as usize
    }

    /// Puts `len` bytes in, at most [`space`](Self::space), by one or two calls of `fill`; `false`, and nothing was
    /// put in, if one of them fails.
    pub(super) fn push(&mut self, len: u32, mut fill: impl FnMut(&mut [u8]) -> bool) -> bool {
        let (start, len) = (self.at(self.tail), len.min(self.space()));
        let first = (len as usize).min(self.bytes.len() - start);
        let rest = len as usize - first;
        if (first > 0 && !fill(&mut self.bytes[start..start + first]))
            || (rest > 0 && !fill(&mut self.bytes[..rest]))
        {
            return false;
        }
        self.tail = self.tail.wrapping_add(len);
        true
    }

    /// What was put in last is the end of a message. One without bytes is none.
    pub(super) fn end_message(&mut self, record: Record) {
        let last = self.at(self.tail.wrapping_sub(1));
        if let Some(ends) = &mut self.ends
            && self.tail != self.head
        {
            ends.messages[last / 64] |= 1 << (last % 64);
            if record.0 {
                ends.records[last / 64] |= 1 << (last % 64);
            }
        }
    }

    /// The length of the message that is first, if all of it is there.
    pub(super) fn first_message(&self) -> Option<u32> {
        let ends = self.ends.as_ref()?;
        let mut at = self.head;
        while at != self.tail {
            let place = self.at(at);
            let bits = ends.messages[place / 64] >> (place % 64);
            let here = (64 - place as u32 % 64).min(self.tail.wrapping_sub(at));
            let clear = bits.trailing_zeros();
            if clear < here {
                return Some(at.wrapping_sub(self.head) + clear + 1);
            }
            at = at.wrapping_add(here);
        }
        None
    }

    /// Up to `most` bytes that are next, of one message only.
    pub(super) fn next(&self, most: u32) -> Piece {
        let message = self.first_message();
        let len = message.unwrap_or(self.len()).min(most);
        let ends = self.ends.as_ref().filter(|_| message == Some(len));
        let last = self.at(self.head.wrapping_add(len).wrapping_sub(1));
        Piece { len, end: ends.map(|ends| Record(ends.records[last / 64] >> (last % 64) & 1 != 0)) }
    }

    /// The next `len` bytes, at most [`len`](Self::len).
    pub(super) fn bytes(&self, len: u32) -> (&[u8], &[u8]) {
        let (start, len) = (self.at(self.head), len.min(self.len()) as usize);
        let first = len.min(self.bytes.len() - start);
        (&self.bytes[start..start + first], &self.bytes[..len - first])
    }

    /// The next `len` bytes have gone out. If a message ends among them, then with the last one.
    pub(super) fn consume(&mut self, len: u32) {
        let len = len.min(self.len());
        let last = self.at(self.head.wrapping_add(len).wrapping_sub(1));
        if let Some(ends) = &mut self.ends
            && len > 0
        {
            ends.messages[last / 64] &= !(1 << (last % 64));
            ends.records[last / 64] &= !(1 << (last % 64));
        }
        self.head = self.head.wrapping_add(len);
    }

    /// Throws away what is in it.
    pub(super) fn discard(&mut self) {
        if self.len() == 0 {
            return;
        }
        if let Some(ends) = &mut self.ends {
            ends.messages.fill(0);
            ends.records.fill(0);
        }
        self.head = self.tail;
    }

    /// Counts bytes as in and out again, which nobody wanted.
    pub(super) fn skip(&mut self, len: u32) {
        self.discard();
        (self.head, self.tail) = (self.head.wrapping_add(len), self.tail.wrapping_add(len));
    }

    /// A message is in it that can never be complete.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_seqpacket() && self.space() == 0 && self.first_message().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A pipe that has counted up to shortly before its counters wrap.
    fn late(kind: Kind) -> Pipe {
        let mut pipe = Pipe::new(kind, 64);
        let position = u32::MAX - 100;
        (pipe.head, pipe.tail, pipe.told.0) = (position, position, position);
        pipe
    }

    fn push(pipe: &mut Pipe, bytes: &[u8]) {
        let mut from = bytes;
        assert!(pipe.push(bytes.len() as u32, |to| {
            let (now, rest) = from.split_at(to.len());
            to.copy_from_slice(now);
            from = rest;
            true
        }));
    }

    fn pop(pipe: &mut Pipe, len: u32) -> Vec<u8> {
        let (first, second) = pipe.bytes(len);
        let bytes = [first, second].concat();
        pipe.consume(len);
        bytes
    }

    #[test]
    fn bytes_go_on_over_the_end_of_the_counters() {
        let mut pipe = late(Kind::Stream);
        let (mut sent, mut got) = (0..=255u8, 0..=255u8);
        for round in 0..10 {
            let bytes: Vec<u8> = sent.by_ref().take(20 + round).collect();
            push(&mut pipe, &bytes);
            assert_eq!(pipe.len(), 20 + round as u32);
            for byte in pop(&mut pipe, u32::MAX) {
                assert_eq!(Some(byte), got.next());
            }
        }
        assert!(pipe.head < 200, "round the end");
        assert!(pipe.is_news());
        assert_eq!(pipe.tell(), (64, pipe.head));
    }

    #[test]
    fn messages_keep_their_ends_over_the_end_of_the_counters() {
        let mut pipe = late(Kind::Seqpacket);
        for round in 0..10u8 {
            let (long, short) = ([round; 33], [round + 100; 7]);
            push(&mut pipe, &long);
            assert_eq!(pipe.first_message(), None);
            pipe.end_message(Record(round % 2 == 0));
            push(&mut pipe, &short);
            pipe.end_message(Record(false));
            assert_eq!(pipe.next(10), Piece { len: 10, end: None });
            assert_eq!(pipe.next(64), Piece { len: 33, end: Some(Record(round % 2 == 0)) });
            assert_eq!(pop(&mut pipe, 33), long);
            assert_eq!(pipe.next(64), Piece { len: 7, end: Some(Record(false)) });
            assert_eq!(pop(&mut pipe, 7), short);
        }
        assert!(pipe.head < 500, "round the end");
    }
}
