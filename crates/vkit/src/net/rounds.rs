//! Test frames out and in: so many under way at once, each verified when it comes.

use super::frames::{Maker, Piece, look};
use crate::failure::{Failure, Result};
use crate::histogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use virtio_kit_drivers::net::{Frame, Received, RxQueue, SendError, SendErrorKind, TxQueue};

/// What one pair of queues sends, and what came of it, wherever it came.
pub(crate) struct Flow {
    began: Instant,
    /// Numbers given out.
    pub(crate) sent: AtomicU64,
    /// Pieces that came.
    pub(crate) got: AtomicU64,
    /// Pieces that are not waited for any more.
    given_up: AtomicU64,
    /// The number that comes next, if all come in order.
    next: AtomicU64,
    /// Pieces that came after one that was sent later, or twice.
    pub(crate) out_of_order: AtomicU64,
    /// When pieces were sent, by their numbers, in nanoseconds; 0 if nobody asks.
    times: Box<[AtomicU64]>,
}

impl Flow {
    /// For up to `window` pieces under way.
    pub(crate) fn new(window: u64) -> Self {
        Self {
            began: Instant::now(),
            sent: AtomicU64::new(0),
            got: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            next: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            times: (0..2 * window.max(1)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Pieces that are on their way.
    pub(crate) fn under_way(&self) -> u64 {
        let back = self.got.load(Relaxed) + self.given_up.load(Relaxed);
        self.sent.load(Relaxed).saturating_sub(back)
    }

    /// What is on its way will not come.
    pub(crate) fn give_up(&self) {
        self.given_up.fetch_add(self.under_way(), Relaxed);
    }

    /// Pieces that did not come.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.load(Relaxed).saturating_sub(self.got.load(Relaxed))
    }

    fn time(&self, number: u64) -> &AtomicU64 {
        &self.times[number as usize % self.times.len()]
    }

    fn nanos(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.began).as_nanos() as u64).max(1)
    }

    /// A piece came; how long it took, if that is known.
    fn arrived(&self, number: u64, now: Instant) -> Option<Duration> {
        self.got.fetch_add(1, Relaxed);
        if self.next.fetch_max(number + 1, Relaxed) > number {
            self.out_of_order.fetch_add(1, Relaxed);
        }
        let sent = self.time(number).swap(0, Relaxed);
        (sent != 0).then(|| Duration::from_nanos(self.nanos(now).saturating_sub(sent)))
    }
}

/// Sends the frames of a flow.
pub(crate) struct Sender<'a> {
    tx: &'a mut TxQueue,
    maker: Maker,
    flow: &'a Flow,
    idle: Vec<Frame>,
    bytes: Vec<u8>,
    pub(crate) frames: u64,
    pub(crate) sent_bytes: u64,
}

/// How much may be under way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Window {
    /// Pieces that have not come yet.
    Pieces(u64),
    /// Frames that the device is not through with: nobody waits for them.
    Frames(usize),
}

impl<'a> Sender<'a> {
    /// For frames of up to `longest` bytes.
    pub(crate) fn new(tx: &'a mut TxQueue, maker: Maker, flow: &'a Flow, longest: usize) -> Self {
        let (longest, _) = maker.shape(longest);
        Self { tx, maker, flow, idle: Vec::new(), bytes: vec![0; longest], frames: 0, sent_bytes: 0 }
    }

    /// Sends until the window is full, or `limit` pieces were sent. Returns whether any frame went, or came back from
    /// the device.
    pub(crate) fn turn(
        &mut self,
        window: Window,
        limit: u64,
        now: Instant,
        len_of: impl Fn(u64) -> usize,
    ) -> Result<bool> {
        let before = self.frames;
        let mut number = self.flow.sent.load(Relaxed);
        while number < limit && self.has_room(window) {
            let (len, pieces) = self.maker.shape(len_of(number).min(self.bytes.len()));
            let idle = self.idle.pop().filter(|frame| frame.capacity() >= self.bytes.len());
            let mut frame = match idle {
                Some(frame) => frame,
                // None yet, or one that somebody else has sent before.
                None => self.tx.frame(self.bytes.len()).map_err(Failure::new)?,
            };
            let offload = self.maker.fill(number, &mut self.bytes[..len]);
            // Every frame here holds the longest.
            let fits = frame.set_len(len).and_then(|()| frame.write(0, &self.bytes[..len]));
            fits.map_err(|_| Failure::new("a frame is longer than its buffer"))?;
            // Before the frame goes, since it may be back at once.
            self.flow.time(number).store(self.flow.nanos(now), Relaxed);
            self.flow.sent.store(number + pieces, Relaxed);
            if let Err(SendError { kind, frame }) = self.tx.send(frame, &offload) {
                self.flow.sent.store(number, Relaxed);
                self.flow.time(number).store(0, Relaxed);
                self.idle.push(frame);
                match kind {
                    SendErrorKind::Full => break,
                    kind => return Err(Failure::new(kind)),
                }
            }
            number += pieces;
            self.frames += 1;
            self.sent_bytes += len as u64;
        }
        if self.frames > before {
            self.tx.kick().map_err(Failure::new)?;
        }
        let idle = &mut self.idle;
        let back = self.tx.complete_batch(256, |frame| idle.push(frame)).map_err(Failure::new)?;
        Ok(self.frames > before || back > 0)
    }

    fn has_room(&self, window: Window) -> bool {
        self.tx.room() > 0
            && match window {
                Window::Pieces(most) => self.flow.under_way() < most,
                Window::Frames(most) => self.tx.in_flight() < most,
            }
    }

    /// Frames that the device has.
    pub(crate) fn in_flight(&self) -> usize {
        self.tx.in_flight()
    }

    /// Waits for the device to be through with one.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<bool> {
        self.tx.wait(limit).map_err(Failure::new)
    }
}

/// Receives frames, and verifies them.
pub(crate) struct Receiver<'a> {
    rx: &'a mut RxQueue,
    /// By the pairs that sent them.
    flows: &'a [Flow],
    came: Vec<Received>,
    bytes: Vec<u8>,
    pub(crate) latency: Histogram,
    pub(crate) frames: u64,
    pub(crate) bytes_got: u64,
    pub(crate) corrupt: u64,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(rx: &'a mut RxQueue, flows: &'a [Flow]) -> Self {
        let latency = Histogram::new();
        Self {
            rx,
            flows,
            came: Vec::new(),
            bytes: vec![0; 128],
            latency,
            frames: 0,
            bytes_got: 0,
            corrupt: 0,
        }
    }

    /// Takes what has come; whether anything has.
    pub(crate) fn turn(&mut self) -> Result<bool> {
        let (came, corrupt) = (&mut self.came, &mut self.corrupt);
        let got = self.rx.recv_batch(64, |received| match received {
            Ok(received) => came.push(received),
            Err(_) => *corrupt += 1,
        });
        let got = got.map_err(Failure::new)?;
        if got == 0 {
            return Ok(false);
        }
        let now = Instant::now();
        for Received { frame, offload } in self.came.drain(..) {
            let len = frame.len();
            if self.bytes.len() < len {
                self.bytes.resize(len, 0);
            }
            frame.copy_to(&mut self.bytes[..len]);
            self.rx.recycle(frame);
            let (flows, latency) = (self.flows, &mut self.latency);
            let mut strange = false;
            let looked = look(&self.bytes[..len], &offload, |Piece { pair, number }| {
                match flows.get(usize::from(pair)).filter(|flow| number < flow.sent.load(Relaxed)) {
                    Some(flow) => flow.arrived(number, now).into_iter().for_each(|time| latency.add(time)),
                    None => strange = true,
                }
            });
            match looked {
                Ok(true) if !strange => {
                    self.frames += 1;
                    self.bytes_got += len as u64;
                }
                // Whatever else is said on the wire.
                Ok(false) => {}
                _ => self.corrupt += 1,
            }
        }
        self.rx.refill().map_err(Failure::new)?;
        Ok(true)
    }

    /// Waits for a frame.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<bool> {
        self.rx.wait(limit).map_err(Failure::new)
    }
}
