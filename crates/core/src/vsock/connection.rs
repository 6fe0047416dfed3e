//! A connection: two pipes, and what is at their sides.

use super::outbox::Outbox;
use super::pipe::Pipe;
use super::wakes::Wakes;
use super::{Error, Kind};
use alloc::sync::Arc;
use core::task::Waker;
use spin::Mutex;

/// A connection between side 0, which asked for it, and side 1.
pub(super) struct Connection {
    pub(super) kind: Kind,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// What each side sends.
    pub(super) pipes: [Pipe; 2],
    sides: [Side; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Side 1 has not answered.
    Connecting,
    /// Open, in both directions, one or none.
    Open,
    /// Over before it was closed by both sides.
    Over(Error),
}

/// Who is at a side.
#[derive(Default)]
struct Side {
    link: Option<(Arc<Outbox>, u32)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Connection {
    pub(super) fn new(kind: Kind, capacity: u32) -> Arc<Self> {
        let pipes = [Pipe::new(kind, capacity), Pipe::new(kind, capacity)];
        let state = State { phase: Phase::Connecting, pipes, sides: Default::default() };
        Arc::new(Self { kind, state: Mutex::new(state) })
    }

    /// Changes the connection, and then wakes whom that concerns.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State, &mut Wakes) -> R) -> R {
        let mut wakes = Wakes::default();
        let result = change(&mut self.state.lock(), &mut wakes);
        wakes.wake();
        result
    }

    /// Ends it, unless it is over already.
    pub(super) fn end(&self, error: Error) {
        self.with(|state, wakes| state.end(error, wakes));
    }
}

impl State {
    /// A link is at this side from now on, with this slot.
    pub(super) fn set_link(&mut self, side: usize, link: Option<(Arc<Outbox>, u32)>) {
        self.sides[side].link = link;
    }

    pub(super) fn set_reader(&mut self, side: usize, waker: &Waker) {
        renew(&mut self.sides[side].reader, waker);
    }

    pub(super) fn set_writer(&mut self, side: usize, waker: &Waker) {
        renew(&mut self.sides[side].writer, waker);
    }

    /// There is something to read for a side.
    pub(super) fn tell_reader(&mut self, side: usize, wakes: &mut Wakes) {
        let side = &mut self.sides[side];
        match &side.link {
            Some((outbox, slot)) => outbox.push(*slot, wakes),
            None => wakes.push(side.reader.take()),
        }
    }

    /// A side may send more than it knows of.
    pub(super) fn tell_writer(&mut self, side: usize, wakes: &mut Wakes) {
        let place = &mut self.sides[side];
        match &place.link {
            // Only so much room is worth a packet.
            Some((outbox, slot)) if self.pipes[side].is_news() => outbox.push(*slot, wakes),
            Some(_) => {}
            None => wakes.push(place.writer.take()),
        }
    }

    /// Something has happened that concerns both directions of a side.
    pub(super) fn tell(&mut self, side: usize, wakes: &mut Wakes) {
        let side = &mut self.sides[side];
        match &side.link {
            Some((outbox, slot)) => outbox.push(*slot, wakes),
            None => {
                wakes.push(side.reader.take());
                wakes.push(side.writer.take());
            }
        }
    }

    /// Whether both sides have closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.fin || pipe.shut)
    }

    pub(super) fn end(&mut self, error: Error, wakes: &mut Wakes) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(error);
            self.tell(0, wakes);
            self.tell(1, wakes);
        }
    }

    pub(super) fn error(&self) -> Option<Error> {
        match self.phase {
            Phase::Over(error) => Some(error),
            _ => None,
        }
    }
}

fn renew(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
