//! What a pair of queues must do, written from the rules: lists of chains and two wishes to be notified.
//!
//! The model knows nothing of rings, slots or descriptors beyond their number. Chains move from list to list;
//! each operation on a real queue is followed by the same one here, and any difference panics.

use crate::shape::Shape;
use std::collections::VecDeque;
use virtio_kit_ring::driver::{AddErrorKind, Indirect};

/// A chain, as its driver made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its token.
    pub token: u64,
    /// Device address and length of each buffer.
    pub parts: Vec<(u64, usize)>,
    /// How many of them the device reads.
    pub readable_parts: usize,
    /// What the device must read.
    pub readable: Vec<u8>,
    /// What the driver must find in the writable part.
    pub writable: Vec<u8>,
    /// Bytes written without a gap from the first writable one.
    pub written: usize,
    /// Descriptors taken.
    pub descs: u16,
}

impl Record {
    /// Notes that the device wrote `bytes` at `at` of the writable part.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.writable[at..end].copy_from_slice(bytes);
        if at <= self.written {
            self.written = self.written.max(end);
        }
    }
}

/// What one side wants to be told of (2.7.7, 2.7.10, 2.8.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Of nothing.
    Never,
    /// Of everything.
    Always,
    /// Of the next thing.
    Next,
    /// The next thing was told; an event index that comes round may tell of another.
    Spent,
}

impl Wish {
    /// In zeroed memory: no flag is set, and an event index of 0 is yet to be passed.
    pub fn initial(shape: &Shape) -> Self {
        if shape.event_idx && !shape.packed { Self::Next } else { Self::Always }
    }

    /// After a `restart`.
    pub fn restarted(shape: &Shape, armed: bool) -> Self {
        match (armed, shape.event_idx) {
            (false, _) => Self::Never,
            (true, true) => Self::Next,
            (true, false) => Self::Always,
        }
    }

    /// Something came that this side may wish to be told of: whether it has to be, if that is certain.
    fn arrival(&mut self) -> Option<bool> {
        match *self {
            Self::Never => Some(false),
            Self::Always => Some(true),
            Self::Next => {
                *self = Self::Spent;
                Some(true)
            }
            Self::Spent => None,
        }
    }
}

/// A chain that the device has.
struct Held {
    record: Record,
    complete: bool,
}

/// Both ends of a queue.
pub struct Model {
    shape: Shape,
    limits: Indirect,
    added: VecDeque<Record>,
    available: VecDeque<Record>,
    held: Vec<Held>,
    /// Tokens of chains that can be put back, the last taken last: none of these, nor any taken since, is complete.
    returnable: Vec<u64>,
    finished: VecDeque<Record>,
    used: VecDeque<Record>,
    driver_wish: Wish,
    device_wish: Wish,
    /// Whether the device owes a notification, of chains that became visible without an answer, if certain.
    owed: Option<bool>,
}

impl Model {
    /// A new queue.
    pub fn new(shape: Shape, limits: Indirect) -> Self {
        Self {
            shape,
            limits,
            added: VecDeque::new(),
            available: VecDeque::new(),
            held: Vec::new(),
            returnable: Vec::new(),
            finished: VecDeque::new(),
            used: VecDeque::new(),
            driver_wish: Wish::initial(&shape),
            device_wish: Wish::initial(&shape),
            owed: Some(false),
        }
    }

    /// Every chain that the driver has not got back.
    pub fn in_flight(&self) -> impl Iterator<Item = &Record> {
        let held = self.held.iter().map(|h| &h.record);
        self.added.iter().chain(&self.available).chain(held).chain(&self.finished).chain(&self.used)
    }

    /// Free descriptors.
    pub fn room(&self) -> u16 {
        self.shape.size - self.in_flight().map(|r| r.descs).sum::<u16>()
    }

    /// How many descriptors a chain of `parts` buffers takes, or why it cannot be added.
    pub fn place(&self, parts: usize) -> Result<u16, AddErrorKind> {
        let (size, room) = (usize::from(self.shape.size), usize::from(self.room()));
        let (direct, table) = if self.shape.indirect {
            (usize::from(self.limits.direct_up_to).min(size), usize::from(self.limits.max_parts))
        } else {
            (size, 0)
        };
        let keep_free = usize::from(self.limits.keep_free);
        match parts {
            0 => Err(AddErrorKind::NoBuffers),
            _ if parts > direct.max(table) => Err(AddErrorKind::TooLong),
            _ if parts <= table && room > 0 && parts + keep_free > room => Ok(1),
            _ if parts <= direct.min(room) => Ok(parts as u16),
            _ if parts <= table && room > 0 => Ok(1),
            _ => Err(AddErrorKind::Full),
        }
    }

    /// The driver added a chain.
    pub fn add(&mut self, record: Record) {
        self.added.push_back(record);
    }

    /// The driver published; `notify` was the answer.
    pub fn driver_publish(&mut self, notify: bool) {
        if self.added.is_empty() {
            assert!(!notify, "a notification of nothing");
            return;
        }
        self.available.append(&mut self.added);
        if let Some(must) = self.device_wish.arrival() {
            assert_eq!(notify, must, "available buffer notification");
        }
    }

    /// The device takes the next chain: which, if there is one.
    pub fn take(&mut self) -> Option<&Record> {
        let record = self.available.pop_front()?;
        self.returnable.push(record.token);
        self.held.push(Held { record, complete: false });
        self.held.last().map(|h| &h.record)
    }

    /// A chain that the device has taken.
    pub fn held(&mut self, token: u64) -> &mut Record {
        &mut self.held.iter_mut().find(|h| h.record.token == token).expect("a chain that is held").record
    }

    /// The device puts a chain back: whether it may, since every one taken after it was put back too.
    pub fn put_back(&mut self, token: u64) -> bool {
        if self.returnable.last() != Some(&token) {
            return false;
        }
        self.returnable.pop();
        let at = self.held.iter().position(|h| h.record.token == token).expect("a chain that is held");
        let record = self.held.remove(at).record;
        self.available.push_front(Record { written: 0, ..record });
        true
    }

    /// The device completed a chain.
    pub fn complete(&mut self, token: u64) {
        // No chain taken before it can be the last again.
        if let Some(at) = self.returnable.iter().position(|&t| t == token) {
            self.returnable.drain(..=at);
        }
        let at = self.held.iter().position(|h| h.record.token == token).expect("a chain that is held");
        self.held[at].complete = true;
        if !self.shape.in_order {
            self.finished.push_back(self.held.remove(at).record);
            return;
        }
        while self.held.first().is_some_and(|h| h.complete) {
            self.finished.push_back(self.held.remove(0).record);
        }
    }

    /// Chains that the device has taken, whether complete or not.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// The device published; `notify` was the answer.
    pub fn device_publish(&mut self, notify: bool) {
        let owed = self.owed.replace(false);
        let mut must = Some(false);
        if !self.finished.is_empty() {
            self.used.append(&mut self.finished);
            must = self.driver_wish.arrival();
        }
        match (must, owed) {
            (Some(true), _) | (_, Some(true)) => assert!(notify, "a used buffer notification was lost"),
            (Some(false), Some(false)) => assert!(!notify, "a used buffer notification that is not wanted"),
            _ => {}
        }
    }

    /// The device published as part of something else: the answer comes with the next publish.
    pub fn device_publish_quietly(&mut self) {
        if !self.finished.is_empty() {
            self.used.append(&mut self.finished);
            let must = self.driver_wish.arrival();
            if self.owed != Some(true) && must != Some(false) {
                self.owed = must;
            }
        }
    }

    /// The driver takes the next used chain back: which, if there is one.
    pub fn get(&mut self) -> Option<Record> {
        self.used.pop_front()
    }

    /// Chains that wait for the driver.
    pub fn used_count(&self) -> usize {
        self.used.len()
    }

    /// Chains that wait for the device.
    pub fn available_count(&self) -> usize {
        self.available.len()
    }

    /// The driver asked to be told, and was answered.
    pub fn driver_restart(&mut self, armed: bool) {
        assert_eq!(armed, self.used.is_empty(), "restart of callbacks");
        self.driver_wish = Wish::restarted(&self.shape, armed);
    }

    /// The driver asked not to be told.
    pub fn driver_disable(&mut self) {
        self.driver_wish = Wish::Never;
    }

    /// The device asked to be told, and was answered.
    pub fn device_restart(&mut self, armed: bool) {
        assert_eq!(armed, self.available.is_empty(), "restart of notifications");
        self.device_wish = Wish::restarted(&self.shape, armed);
    }

    /// The device asked not to be told.
    pub fn device_disable(&mut self) {
        self.device_wish = Wish::Never;
    }
}
