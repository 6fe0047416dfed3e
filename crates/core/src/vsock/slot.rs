//! One connection as its link sees it: what the remote end has been told and has said.

use super::connection::{Connection, Phase, State};
use super::credit::Credit;
use super::packet::{Payload, header};
use super::pipe::Record;
use super::wakes::Wakes;
use super::{Address, Error, Kind};
use alloc::sync::Arc;
use virtio_kit_spec::vsock::{Header, Op, Seq, Shutdown};

/// A connection's place in a link.
pub(super) struct Slot {
    /// `None` once it is over, and the remote end is to be told that and nothing else.
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) kind: Kind,
    /// Which side of the connection the link is at: it sends what the other side sends.
    pub(super) side: usize,
    /// This end, and the remote one.
    pub(super) near: Address,
    pub(super) far: Address,
    credit: Credit,
    /// The request was sent, or came from the remote end.
    asked: bool,
    /// The request was answered.
    answered: bool,
    /// What SHUTDOWN packets have said, either way.
    said: Shutdown,
    heard: Shutdown,
    /// The remote end wants to know where its credit stands.
    update: bool,
    /// It was asked for its credit, and has not said anything since.
    waiting: bool,
}

/// What is to become of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has nothing to send.
    Idle,
    /// A packet was written.
    Sent,
    /// A packet was written, and it was the last.
    Last,
    /// There is nothing to send, ever.
    Gone,
}

/// What came of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was taken. The slot may have something to send now.
    Taken,
    /// The remote end is to be told that the connection is over.
    Reset,
    /// The remote end said so itself.
    Over,
}

impl Slot {
    pub(super) fn new(
        connection: Arc<Connection>,
        side: usize,
        near: Address,
        far: Address,
        asked: bool,
    ) -> Self {
        let kind = connection.kind;
        Self {
            connection: Some(connection),
            kind,
            side,
            near,
            far,
            credit: Credit::default(),
            asked,
            answered: false,
            said: Shutdown::empty(),
            heard: Shutdown::empty(),
            update: false,
            waiting: false,
        }
    }

    /// This end has closed it in both directions, and waits for the remote one to say that it knows.
    pub(super) fn is_closing(&self) -> bool {
        self.said == Shutdown::all_known()
    }

    fn header(&self, op: Op) -> Header {
        header(self.kind, self.near, self.far, op)
    }

    /// Takes note of the credit that every packet carries; `false` if it makes no sense.
    pub(super) fn hear_credit(&mut self, packet: &Header, pipe: &mut super::pipe::Pipe) -> bool {
        let sense = self.credit.heard(packet.buf_alloc.get(), packet.fwd_cnt.get());
        if sense {
            pipe.set_longest(self.credit.buffer());
            self.waiting &= self.credit.free() == 0;
        }
        sense
    }

    /// Takes a packet of this connection.
    pub(super) fn hear(
        &mut self,
        state: &mut State,
        packet: &Header,
        payload: &mut impl Payload,
        wakes: &mut Wakes,
    ) -> Heard {
        let (side, other) = (self.side, 1 - self.side);
        let open = state.phase == Phase::Open && self.asked;
        match Op(packet.op.get()) {
            Op::RESPONSE if side == 1 && self.asked && !self.answered && state.phase == Phase::Connecting => {
                self.answered = true;
                state.phase = Phase::Open;
                state.tell(other, wakes);
            }
            Op::RST => {
                let refused = state.phase == Phase::Connecting && side == 1;
                if !state.is_closed() {
                    state.end(if refused { Error::Refused } else { Error::Reset }, wakes);
                }
                return Heard::Over;
            }
            Op::SHUTDOWN if open => return self.hear_shutdown(state, packet, wakes),
            Op::RW if open => return self.hear_bytes(state, packet, payload, wakes),
            Op::CREDIT_UPDATE if open => {}
            Op::CREDIT_REQUEST if open => self.update = true,
            _ => {
                state.end(Error::Broken, wakes);
                return Heard::Reset;
            }
        }
        Heard::Taken
    }

    fn hear_shutdown(&mut self, state: &mut State, packet: &Header, wakes: &mut Wakes) -> Heard {
        let (side, other) = (self.side, 1 - self.side);
        // What was said once holds.
        self.heard |= Shutdown::from_bits_retain(packet.flags.get()) & Shutdown::all_known();
        if self.heard.contains(Shutdown::SEND) {
            state.pipes[side].fin = true;
        }
        if self.heard.contains(Shutdown::RECEIVE) {
            state.pipes[other].shut = true;
            state.pipes[other].discard();
        }
        state.tell(other, wakes);
        // What has come stays in its pipe; the remote end may forget the connection.
        if self.heard == Shutdown::all_known() { Heard::Reset } else { Heard::Taken }
    }

    fn hear_bytes(
        &mut self,
        state: &mut State,
        packet: &Header,
        payload: &mut impl Payload,
        wakes: &mut Wakes,
    ) -> Heard {
        let (side, other) = (self.side, 1 - self.side);
        let (len, pipe) = (packet.len.get(), &mut state.pipes[side]);
        let there = len as usize <= payload.len();
        if !there || pipe.fin || len > pipe.space() {
            state.end(Error::Broken, wakes);
            return Heard::Reset;
        }
        if pipe.shut {
            pipe.skip(len);
            return Heard::Taken;
        }
        if !pipe.push(len, |to| payload.read(to)) {
            state.end(Error::Broken, wakes);
            return Heard::Reset;
        }
        let flags = Seq::from_bits_retain(packet.flags.get());
        if self.kind == Kind::Seqpacket && flags.contains(Seq::EOM) {
            pipe.end_message(Record(flags.contains(Seq::EOR)));
        }
        state.tell_reader(other, wakes);
        Heard::Taken
    }

    /// Writes the packet that is next, of up to `room` bytes of payload.
    pub(super) fn next(
        &mut self,
        state: &mut State,
        room: u32,
        wakes: &mut Wakes,
        write: &mut impl FnMut(&Header, &[u8], &[u8]),
    ) -> Next {
        let (side, other) = (self.side, 1 - self.side);
        if let Phase::Over(_) = state.phase {
            // Nobody has heard of it if nobody was asked.
            return if self.asked { self.send_reset(write) } else { Next::Gone };
        }
        let mut packet = self.header(Op::INVALID);
        let mut len = 0;
        let op = if !self.asked {
            if state.pipes[other].fin && state.pipes[side].shut {
                return Next::Gone;
            }
            self.asked = true;
            Op::REQUEST
        } else if state.phase == Phase::Connecting {
            if state.pipes[other].fin && state.pipes[side].shut {
                // Whoever asked does not wait for the answer.
                state.end(Error::Aborted, wakes);
                return self.send_reset(write);
            }
            return Next::Idle;
        } else if side == 0 && !self.answered {
            self.answered = true;
            Op::RESPONSE
        } else {
            let piece = state.pipes[other].next(self.credit.free().min(room));
            if piece.len > 0 {
                len = piece.len;
                packet.len = len.into();
                let flag = |yes, flag: Seq| if yes { flag } else { Seq::empty() };
                let flags =
                    flag(piece.end.is_some(), Seq::EOM) | flag(piece.end == Some(Record(true)), Seq::EOR);
                packet.flags = flags.bits().into();
                Op::RW
            } else if let Some(flags) = self.shutdown_due(state) {
                self.said = flags;
                packet.flags = flags.bits().into();
                Op::SHUTDOWN
            } else if self.is_update_due(state) {
                Op::CREDIT_UPDATE
            } else if state.pipes[other].len() > 0 && self.credit.free() == 0 && !self.waiting {
                self.waiting = true;
                Op::CREDIT_REQUEST
            } else {
                return Next::Idle;
            }
        };
        packet.op = op.0.into();
        // Every packet says where the credit stands.
        let (size, forwarded) = state.pipes[side].tell();
        (packet.buf_alloc, packet.fwd_cnt) = (size.into(), forwarded.into());
        self.update = false;
        let (first, second) = state.pipes[other].bytes(len);
        write(&packet, first, second);
        if len > 0 {
            state.pipes[other].consume(len);
            self.credit.spend(len);
            state.tell_writer(other, wakes);
        }
        Next::Sent
    }

    /// Whether there is something to send.
    pub(super) fn is_due(&self, state: &State) -> bool {
        let (sends, receives) = (&state.pipes[1 - self.side], &state.pipes[self.side]);
        match state.phase {
            Phase::Over(_) => true,
            Phase::Connecting => !self.asked || (sends.fin && receives.shut),
            Phase::Open => {
                (self.side == 0 && !self.answered)
                    || (sends.len() > 0 && (self.credit.free() > 0 || !self.waiting))
                    || self.shutdown_due(state).is_some()
                    || self.is_update_due(state)
            }
        }
    }

    fn is_update_due(&self, state: &State) -> bool {
        self.update || (state.pipes[self.side].is_news() && !self.said.contains(Shutdown::RECEIVE))
    }

    /// What a SHUTDOWN packet would say that the remote end does not know.
    fn shutdown_due(&self, state: &State) -> Option<Shutdown> {
        let (sends, receives) = (&state.pipes[1 - self.side], &state.pipes[self.side]);
        let mut flags = self.said;
        // What is still on its way goes first, if it is wanted.
        flags.set(Shutdown::SEND, self.said.contains(Shutdown::SEND) || (sends.fin && sends.len() == 0));
        flags.set(Shutdown::RECEIVE, self.said.contains(Shutdown::RECEIVE) || receives.shut);
        (flags != self.said).then_some(flags)
    }

    /// Tells the remote end that the connection is over.
    pub(super) fn send_reset(&self, write: &mut impl FnMut(&Header, &[u8], &[u8])) -> Next {
        write(&self.header(Op::RST), &[], &[]);
        Next::Last
    }
}

trait AllKnown {
    fn all_known() -> Self;
}

impl AllKnown for Shutdown {
    fn all_known() -> Self {
        Self::SEND | Self::RECEIVE
    }
}
