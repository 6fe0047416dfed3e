//! The protocol towards one remote end.

use super::address::{Address, Kind, Kinds};
use super::connection::Connection;
use super::end::End;
use super::outbox::Outbox;
use super::packet::{Payload, refusal};
use super::route::{Request, Router};
use super::slot::{Heard, Next, Slot};
use super::wakes::Scratch;
use super::{Error, PORT_ANY};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Waker;
use spin::{Mutex, MutexGuard};
use virtio_kit_spec::vsock::{Header, Op, Type};

/// Bounds of a link's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time, those that are being closed among them.
    pub connections: usize,
    /// Bytes that are kept of a connection in each direction: a power of two from 64 to 2^30; others are rounded.
    pub buffer: usize,
    /// Most refusals that wait to be sent.
    pub refusals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, buffer: 64 << 10, refusals: 256 }
    }
}

impl Limits {
    fn capacity(&self) -> u32 {
        self.buffer.clamp(64, 1 << 30).next_power_of_two() as u32
    }
}

/// The protocol towards one remote end: a driver's device, a device's guest.
pub struct Link {
    limits: Limits,
    router: Arc<dyn Router>,
    outbox: Arc<Outbox>,
    counters: Tallies,
    inner: Mutex<Inner>,
}

struct Inner {
    kinds: Kinds,
    /// Where this end's addresses are, or the remote one's, if there is only one place.
    near: Option<u64>,
    far: Option<u64>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// By this end's address and the remote one's.
    index: BTreeMap<(Address, Address), u32>,
    refusals: VecDeque<Header>,
    next_port: u32,
}

#[derive(Default)]
struct Tallies {
    ignored: AtomicUsize,
    refused: AtomicUsize,
    broken: AtomicUsize,
}

/// What a link has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were thrown away: too short, from or to where nobody is, of a meaning that nobody knows.
    pub ignored: usize,
    /// Packets that were answered by a reset since they belong to no connection, and requests beyond the limits.
    pub refused: usize,
    /// Connections that were reset since the remote end broke the rules.
    pub broken: usize,
}

/// The first port that is given to connections made here.
const FIRST_PORT: u32 = 1 << 30;

impl Link {
    /// A link whose remote end's requests go to `router`.
    pub fn new(limits: Limits, kinds: Kinds, router: Arc<dyn Router>) -> Arc<Self> {
        let inner = Inner {
            kinds,
            near: None,
            far: None,
            slots: Vec::new(),
            free: Vec::new(),
            index: BTreeMap::new(),
            refusals: VecDeque::with_capacity(limits.refusals),
            next_port: FIRST_PORT,
        };
        Arc::new(Self {
            limits,
            router,
            outbox: Arc::default(),
            counters: Tallies::default(),
            inner: Mutex::new(inner),
        })
    }

    /// Packets that are not for this context id are thrown away from now on.
    pub fn set_near(&self, cid: u64) {
        self.inner.lock().near = Some(cid);
    }

    /// Packets that are not from this context id are thrown away from now on.
    pub fn set_far(&self, cid: u64) {
        self.inner.lock().far = Some(cid);
    }

    /// These kinds were agreed on; packets of others are refused.
    pub fn set_kinds(&self, kinds: Kinds) {
        self.inner.lock().kinds = kinds;
    }

    /// Which kinds were agreed on.
    pub fn kinds(&self) -> Kinds {
        self.inner.lock().kinds
    }

    /// Is woken when there is something to send, after there was nothing. Called with nothing locked.
    pub fn set_waker(&self, waker: Option<Waker>) {
        self.outbox.set_waker(waker);
    }

    /// Whether there may be something to send.
    pub fn has_outgoing(&self) -> bool {
        self.outbox.has_some()
    }

    /// What was seen so far.
    pub fn counters(&self) -> Counters {
        let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Counters {
            ignored: get(&self.counters.ignored),
            refused: get(&self.counters.refused),
            broken: get(&self.counters.broken),
        }
    }

    /// Connections that there are, those that are being closed among them.
    pub fn connections(&self) -> usize {
        self.inner.lock().index.len()
    }

    /// Counts a packet that was too short to be one.
    pub fn ignore(&self) {
        self.counters.ignored.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the remote end for a connection, from a free port if none is given. It opens when the answer is there.
    pub fn connect(&self, kind: Kind, near: (u64, Option<u32>), far: Address) -> Result<End, Error> {
        let (cid, port) = near;
        let port = match port {
            Some(port) => port,
            None => self.inner.lock().free_port(cid, far).ok_or(Error::Refused)?,
        };
        let near = Address::new(cid, port);
        let connection = Connection::new(kind, self.limits.capacity());
        if !self.ask(connection.clone(), 1, near, far) {
            return Err(Error::Refused);
        }
        Ok(End::new(connection, 0, near, far))
    }

    /// Joins a side of a connection to the link, for the remote end to be asked; `false` if there is no room, the
    /// address is in use, or the kind was not agreed on.
    pub(super) fn ask(&self, connection: Arc<Connection>, side: usize, near: Address, far: Address) -> bool {
        let mut scratch = Scratch::default();
        self.run(&mut scratch, |batch| {
            let kinds = batch.inner.kinds;
            kinds.has(connection.kind)
                && !batch.inner.index.contains_key(&(near, far))
                && batch.make_room()
                && batch.insert(Slot::new(connection, side, near, far, false)).is_some_and(|slot| {
                    self.outbox.push(slot, &mut batch.scratch.wakes);
                    true
                })
        })
    }

    /// Does work with the link locked. Then, with nothing locked, wakes whom it concerns, and has requests decided.
    pub fn run<R>(&self, scratch: &mut Scratch, work: impl FnOnce(&mut Batch<'_>) -> R) -> R {
        let result = work(&mut Batch { link: self, inner: self.inner.lock(), scratch });
        scratch.wakes.wake();
        scratch.requests.drain(..).for_each(|request| self.router.route(request));
        result
    }

    /// Forgets every connection without a word to the remote end, which is not there any more or knows it.
    pub fn reset(&self) {
        let slots = {
            let mut inner = self.inner.lock();
            inner.index.clear();
            inner.free.clear();
            inner.refusals.clear();
            core::mem::take(&mut inner.slots)
        };
        for slot in slots.into_iter().flatten() {
            if let Some(connection) = slot.connection {
                connection.with(|state, wakes| {
                    state.set_link(slot.side, None);
                    state.end(Error::Transport, wakes);
                });
            }
        }
    }
}

impl Inner {
    /// A port from which nobody talks to this address.
    fn free_port(&mut self, cid: u64, far: Address) -> Option<u32> {
        // One of so many is free.
        for _ in 0..=self.index.len() {
            let port = self.next_port;
            self.next_port = if port == PORT_ANY - 1 { FIRST_PORT } else { port + 1 };
            if !self.index.contains_key(&(Address::new(cid, port), far)) {
                return Some(port);
            }
        }
        None
    }
}

/// A link while it is locked.
pub struct Batch<'l> {
    link: &'l Link,
    inner: MutexGuard<'l, Inner>,
    scratch: &'l mut Scratch,
}

impl Batch<'_> {
    /// Whether so many refusals wait to be sent that no packet should be taken that might need another.
    pub fn is_full(&self) -> bool {
        self.inner.refusals.len() >= self.link.limits.refusals
    }

    /// Takes a packet.
    pub fn receive(&mut self, packet: &Header, payload: &mut impl Payload) {
        let from = Address::new(packet.src_cid.get(), packet.src_port.get());
        let to = Address::new(packet.dst_cid.get(), packet.dst_port.get());
        let inner = &mut *self.inner;
        if inner.near.is_some_and(|near| near != to.cid) || inner.far.is_some_and(|far| far != from.cid) {
            return self.link.ignore();
        }
        let kind = Kind::of(Type(packet.kind.get())).filter(|&kind| inner.kinds.has(kind));
        let Some(index) = inner.index.get(&(to, from)).copied() else {
            return self.receive_first(packet, kind, from, to);
        };
        let Some(slot) = inner.slots.get_mut(slot_of(index)).and_then(Option::as_mut) else { return };
        if kind != Some(slot.kind) {
            return self.refuse(packet);
        }
        let Some(connection) = slot.connection.clone() else {
            // It is over, and all that is left of it is to say so, unless the remote end knows.
            if Op(packet.op.get()) == Op::RST {
                self.remove(index);
            }
            return;
        };
        let mut state = connection.state.lock();
        let op = Op(packet.op.get());
        // The last packet of a connection has none to give.
        if op != Op::RST && !slot.hear_credit(packet, &mut state.pipes[1 - slot.side]) {
            self.link.ignore();
        }
        let heard = slot.hear(&mut state, packet, payload, &mut self.scratch.wakes);
        match heard {
            Heard::Taken if slot.is_due(&state) => self.link.outbox.push(index, &mut self.scratch.wakes),
            Heard::Taken => {}
            Heard::Reset => {
                if state.error() == Some(Error::Broken) {
                    self.link.counters.broken.fetch_add(1, Ordering::Relaxed);
                }
                state.set_link(slot.side, None);
                slot.connection = None;
                self.link.outbox.push(index, &mut self.scratch.wakes);
            }
            Heard::Over => {
                state.set_link(slot.side, None);
                drop(state);
                self.remove(index);
            }
        }
    }

    /// A packet of a connection that is not known.
    fn receive_first(&mut self, packet: &Header, kind: Option<Kind>, from: Address, to: Address) {
        let op = Op(packet.op.get());
        if op == Op::RST {
            return;
        }
        let Some(kind) = kind.filter(|_| op == Op::REQUEST && from.port != PORT_ANY) else {
            return self.refuse(packet);
        };
        if !self.make_room() {
            return self.refuse(packet);
        }
        let connection = Connection::new(kind, self.link.limits.capacity());
        let mut slot = Slot::new(connection.clone(), 0, to, from, true);
        slot.hear_credit(packet, &mut connection.state.lock().pipes[1]);
        if self.insert(slot).is_some() {
            self.scratch.requests.push(Request::new(connection, from, to));
        }
    }

    fn refuse(&mut self, packet: &Header) {
        self.link.counters.refused.fetch_add(1, Ordering::Relaxed);
        // Beyond that the remote end finds out by itself.
        if Op(packet.op.get()) != Op::RST && !self.is_full() {
            self.inner.refusals.push_back(refusal(packet));
            self.link.outbox.push(REFUSALS, &mut self.scratch.wakes);
        }
    }

    /// Writes the next packet, of up to `room` bytes of payload: its header, and its payload in two parts. `false` if
    /// there is none.
    pub fn send(&mut self, room: usize, mut write: impl FnMut(&Header, &[u8], &[u8])) -> bool {
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // Bounded: who has nothing to send leaves the outbox.
        while let Some(index) = self.link.outbox.pop() {
            if index == REFUSALS {
                if let Some(packet) = self.inner.refusals.pop_front() {
                    if !self.inner.refusals.is_empty() {
                        self.link.outbox.push_own(REFUSALS);
                    }
                    write(&packet, &[], &[]);
                    return true;
                }
                continue;
            }
            let slot = self.inner.slots.get_mut(slot_of(index)).and_then(Option::as_mut);
            let Some(slot) = slot else { continue };
            let next = match slot.connection.clone() {
                None => slot.send_reset(&mut write),
                Some(connection) => {
                    let mut state = connection.state.lock();
                    let next = slot.next(&mut state, room, &mut self.scratch.wakes, &mut write);
                    match next {
                        // In turn with the others.
                        Next::Sent if slot.is_due(&state) => self.link.outbox.push_own(index),
                        Next::Last | Next::Gone => state.set_link(slot.side, None),
                        _ => {}
                    }
                    next
                }
            };
            match next {
                Next::Idle => continue,
                Next::Sent => {}
                Next::Last => self.remove(index),
                Next::Gone => {
                    self.remove(index);
                    continue;
                }
            }
            return true;
        }
        false
    }

    /// Finds room for another connection, at the cost of one that is closed here, if need be.
    fn make_room(&mut self) -> bool {
        if self.inner.index.len() < self.link.limits.connections {
            return true;
        }
        let closing = |slot: &Option<Slot>| slot.as_ref().is_some_and(Slot::is_closing);
        let Some(index) = self.inner.slots.iter().position(closing) else { return false };
        if self.is_full() {
            return false;
        }
        let Some(slot) = self.inner.slots[index].as_ref() else { return false };
        if let Some(connection) = &slot.connection {
            connection.state.lock().set_link(slot.side, None);
        }
        let mut farewell = None;
        slot.send_reset(&mut |packet, _, _| farewell = Some(*packet));
        self.inner.refusals.extend(farewell);
        self.link.outbox.push(REFUSALS, &mut self.scratch.wakes);
        self.remove(number_of(index));
        true
    }

    fn insert(&mut self, slot: Slot) -> Option<u32> {
        let inner = &mut *self.inner;
        let index = match inner.free.pop() {
            Some(index) => index,
            None => {
                inner.slots.push(None);
                number_of(inner.slots.len() - 1)
            }
        };
        let (connection, side) = (slot.connection.clone()?, slot.side);
        connection.state.lock().set_link(side, Some((self.link.outbox.clone(), index)));
        inner.index.insert((slot.near, slot.far), index);
        *inner.slots.get_mut(slot_of(index))? = Some(slot);
        Some(index)
    }

    fn remove(&mut self, index: u32) {
        let inner = &mut *self.inner;
        if let Some(slot) = inner.slots.get_mut(slot_of(index)).and_then(Option::take) {
            inner.index.remove(&(slot.near, slot.far));
            inner.free.push(index);
        }
    }
}

/// The number in the outbox under which refusals wait for their turn; slots have those after it.
const REFUSALS: u32 = 0;

fn number_of(slot: usize) -> u32 {
    slot as u32 + 1
}

fn slot_of(number: u32) -> usize {
    (number as usize).wrapping_sub(1)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} connections)", self.connections())
    }
}
