//! Keeping a queue full: requests out of a pool of buffers, completions in any order.

use super::session::Want;
use crate::failure::{Failure, Result};
use crate::units::SECTOR;
use std::time::{Duration, Instant};
use virtio_kit::ring::mem::AllocError;
use virtio_kit::{Arena, DmaBuf, F, Features, Window};
use virtio_kit_drivers::blk::{BlkQueue, Completion, Kind, RequestError, SubmitErrorKind};
use virtio_kit_linux::clock::MonotonicClock;

/// How long a device may take for a request, flushes of slow disks included.
const PATIENCE: Duration = Duration::from_secs(30);

const SECOND: Duration = Duration::from_secs(1);

/// A request queue as all commands use it.
pub(crate) type Queue = BlkQueue<Vec<DmaBuf>, Ticket>;

/// What goes with a request, and comes back.
pub(crate) struct Ticket {
    spare: Vec<DmaBuf>,
    at: u64,
    len: u64,
    tag: u64,
    started: Instant,
}

/// The buffers of one request, of which it may use a part.
#[derive(Default)]
pub(crate) struct Buffers {
    used: Vec<DmaBuf>,
    spare: Vec<DmaBuf>,
}

impl Buffers {
    fn new(arena: &Arena, segments: u16, segment: usize) -> std::result::Result<Self, AllocError> {
        let used: Vec<DmaBuf> =
            (0..segments).map(|_| arena.alloc(segment)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { spare: Vec::with_capacity(used.len()), used })
    }

    /// Uses as few buffers as `len` bytes need, or more if `pieces` says so; each a multiple of 512 bytes.
    pub(crate) fn shape(&mut self, len: usize, pieces: usize) {
        let sector = SECTOR as usize;
        let most = self.used.len() + self.spare.len();
        let capacity = self.used.iter().chain(&self.spare).map(DmaBuf::capacity).next().unwrap_or(sector);
        let pieces = pieces.max(len.div_ceil(capacity)).min(len / sector).clamp(1, most.max(1));
        while self.used.len() > pieces {
            self.spare.extend(self.used.pop());
        }
        while self.used.len() < pieces && !self.spare.is_empty() {
            self.used.extend(self.spare.pop());
        }
        let even = (len / pieces / sector * sector).max(sector);
        let mut left = len;
        let mut to_come = self.used.len();
        for buffer in &mut self.used {
            to_come -= 1;
            // What does not divide evenly goes to those that have room, the last ones first to be full.
            let piece = if to_come == 0 { left } else { even.max(left.saturating_sub(to_come * capacity)) };
            // Never more than the capacity, since `pieces` are enough.
            let _ = buffer.set_len(piece);
            left -= piece;
        }
    }

    /// Bytes that a request can have at most.
    pub(crate) fn capacity(&self) -> usize {
        self.used.iter().chain(&self.spare).map(DmaBuf::capacity).sum()
    }

    /// Copies a request's data in; the shape is for as many bytes.
    pub(crate) fn fill(&mut self, mut from: &[u8]) {
        for buffer in &mut self.used {
            let (now, later) = from.split_at(buffer.len().min(from.len()));
            // Inside the window by the line above.
            let _ = buffer.write(0, now);
            from = later;
        }
    }

    /// Copies a request's data out; the shape is for as many bytes.
    pub(crate) fn copy_to(&self, mut to: &mut [u8]) {
        for buffer in &self.used {
            let (now, later) = to.split_at_mut(buffer.len().min(to.len()));
            // Inside the window by the line above.
            let _ = buffer.read(0, now);
            to = later;
        }
    }
}

/// A request that came back.
pub(crate) struct Done {
    pub(crate) buffers: Buffers,
    /// First byte on the device.
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// Whatever was given with it.
    pub(crate) tag: u64,
    pub(crate) started: Instant,
    pub(crate) result: std::result::Result<(), RequestError>,
}

impl Done {
    /// Its buffers, if it went well.
    pub(crate) fn ok(self) -> Result<Buffers> {
        match self.result {
            Ok(()) => Ok(self.buffers),
            Err(error) => Err(Failure::new(error)),
        }
    }
}

/// How to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Sleep until the device calls, after looking for up to so long.
    Sleep(Duration),
    /// Look all the time.
    Poll,
}

/// One queue, kept full.
pub(crate) struct Pump<'q> {
    queue: &'q mut Queue,
    free: Vec<Buffers>,
    depth: usize,
    /// A request for which the ring had no room.
    stalled: Option<Request>,
    waiting: Waiting,
    window: Window,
    /// The device runs only inside the queue's calls.
    inline: bool,
}

/// A request to be added.
struct Request {
    kind: Kind,
    used: Option<Vec<DmaBuf>>,
    ticket: Ticket,
}

impl<'q> Pump<'q> {
    /// A pump with buffers for what is wanted; for less if the device takes only less.
    pub(crate) fn new(queue: &'q mut Queue, want: &Want, features: Features) -> Result<Self> {
        let limits = queue.info().limits;
        let segments = limits.segments.min(want.segments.into()) as u16;
        let most = limits.segment_size as usize / SECTOR as usize * SECTOR as usize;
        if most == 0 {
            return Err(Failure::new("the device takes no buffer of 512 bytes"));
        }
        let segment = want.segment.min(most);
        let depth = Self::depth(queue, want, features, segments);
        let arena = queue.arena().clone();
        let buffers = (0..depth).map(|_| Buffers::new(&arena, segments, segment));
        let free = buffers.collect::<std::result::Result<_, _>>().map_err(Failure::new)?;
        Ok(Self::with(queue, free, depth))
    }

    /// A pump for requests without data.
    pub(crate) fn without_data(queue: &'q mut Queue, want: &Want, features: Features) -> Self {
        let depth = Self::depth(queue, want, features, 1);
        Self::with(queue, Vec::new(), depth)
    }

    fn with(queue: &'q mut Queue, free: Vec<Buffers>, depth: usize) -> Self {
        let waiting = Waiting::Sleep(Duration::ZERO);
        Self {
            queue,
            free,
            depth,
            stalled: None,
            waiting,
            window: Window::new(Duration::ZERO),
            inline: false,
        }
    }

    /// How many requests the ring has room for, up to what is wanted: header and status take a descriptor
    /// each, unless there are indirect ones.
    fn depth(queue: &Queue, want: &Want, features: Features, segments: u16) -> usize {
        let each = if features.contains(F::INDIRECT_DESC) { 1 } else { segments + 2 };
        (queue.size() / each).clamp(1, want.depth).into()
    }

    /// Chooses how to wait; `inline` if the device runs only inside the queue's calls.
    pub(crate) fn wait_by(mut self, waiting: Waiting, inline: bool) -> Self {
        (self.waiting, self.inline) = (waiting, inline);
        if let Waiting::Sleep(most) = waiting {
            self.window = Window::new(most);
        }
        self
    }

    pub(crate) fn queue(&self) -> &Queue {
        self.queue
    }

    /// Bytes that a request can have at most.
    pub(crate) fn max_request(&self) -> usize {
        self.free.first().map_or(0, Buffers::capacity)
    }

    /// Requests that have not come back.
    pub(crate) fn in_flight(&self) -> usize {
        self.queue.in_flight() + usize::from(self.stalled.is_some())
    }

    /// Buffers for one more request, if there is room for it.
    pub(crate) fn buffers(&mut self) -> Option<Buffers> {
        if self.has_room() { self.free.pop() } else { None }
    }

    /// Whether there is room for one more request without data.
    pub(crate) fn has_room(&self) -> bool {
        self.stalled.is_none() && self.in_flight() < self.depth
    }

    /// Gives buffers back.
    pub(crate) fn give_back(&mut self, buffers: Buffers) {
        self.free.push(buffers);
    }

    fn ticket(spare: Vec<DmaBuf>, at: u64, len: u64, tag: u64) -> Ticket {
        Ticket { spare, at, len, tag, started: Instant::now() }
    }

    /// Adds a read into, or a write of, `len` bytes of `buffers`, which have that shape.
    pub(crate) fn transfer(
        &mut self,
        kind: Kind,
        at: u64,
        len: u64,
        tag: u64,
        buffers: Buffers,
    ) -> Result<()> {
        let ticket = Self::ticket(buffers.spare, at, len, tag);
        self.add(Request { kind, used: Some(buffers.used), ticket })
    }

    /// Adds a request without data. `len` is at most what the device allows.
    pub(crate) fn without_transfer(&mut self, kind: Kind, at: u64, len: u64) -> Result<()> {
        let ticket = Self::ticket(Vec::new(), at, len, 0);
        self.add(Request { kind, used: None, ticket })
    }

    /// Adds a request, now or when there is room for it.
    fn add(&mut self, request: Request) -> Result<()> {
        let Request { kind, used, ticket } = request;
        let sector = ticket.at / SECTOR;
        // The caller has looked at the device's limits.
        let count = (ticket.len / SECTOR).min(u32::MAX.into()) as u32;
        let added = match (kind, used) {
            (Kind::Read, Some(used)) => self.queue.read(sector, used, ticket),
            (_, Some(used)) => self.queue.write(sector, used, ticket),
            (Kind::Discard, None) => self.queue.discard(sector, count, ticket),
            (Kind::WriteZeroes, None) => self.queue.write_zeroes(sector, count, true, ticket),
            (_, None) => self.queue.flush(ticket),
        };
        match added {
            Ok(()) => Ok(()),
            Err(error) if error.kind == SubmitErrorKind::Full && self.queue.in_flight() > 0 => {
                self.stalled = Some(Request { kind, used: error.data, ticket: error.token });
                Ok(())
            }
            Err(error) => Err(Failure::new(error.kind)),
        }
    }

    /// Shows the device what was added, and hands over what it has done; waits until there is something.
    pub(crate) fn turn(&mut self, mut each: impl FnMut(&mut Self, Done) -> Result<()>) -> Result<()> {
        self.queue.kick().map_err(Failure::new)?;
        let began = Instant::now();
        loop {
            let mut got = false;
            while let Some(completion) = self.queue.complete().map_err(Failure::new)? {
                got = true;
                let done = done(completion);
                each(self, done)?;
            }
            if got || self.in_flight() == 0 {
                return self.stalled.take().map_or(Ok(()), |request| self.add(request));
            }
            self.wait(began)?;
        }
    }

    fn wait(&mut self, began: Instant) -> Result<()> {
        let waited = began.elapsed();
        if waited > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(Failure::new(format_args!("the device has not answered for {seconds} seconds")));
        }
        match self.waiting {
            Waiting::Poll if !self.inline => std::hint::spin_loop(),
            waiting if self.inline => {
                // Lets the device run: once, or until something is done.
                let limit = if waiting == Waiting::Poll { Duration::ZERO } else { SECOND };
                self.queue.wait(limit).map_err(Failure::new)?;
            }
            _ => {
                self.queue.wait_looking(SECOND, &mut self.window, &MonotonicClock).map_err(Failure::new)?;
            }
        }
        Ok(())
    }

    /// Makes everything durable that was completed, if the device can lose it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.queue.info().flush {
            return Ok(());
        }
        self.without_transfer(Kind::Flush, 0, 0)?;
        while self.in_flight() > 0 {
            self.turn(|_, done| done.ok().map(|_| ()))?;
        }
        Ok(())
    }
}

fn done(completion: Completion<Vec<DmaBuf>, Ticket>) -> Done {
    let Ticket { spare, at, len, tag, started } = completion.token;
    let buffers = Buffers { used: completion.data.unwrap_or_default(), spare };
    Done { buffers, at, len, tag, started, result: completion.result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_kit::ring::mem::HeapMemory;

    #[test]
    fn shapes_have_the_length_asked_for_in_sectors_and_lose_no_buffer() {
        let arena = Arena::new(HeapMemory::new(1 << 20).unwrap()).unwrap();
        let mut buffers = Buffers::new(&arena, 4, 8192).unwrap();
        assert_eq!(buffers.capacity(), 32768);
        for len in (512..=32768).step_by(512) {
            for pieces in 0..6 {
                buffers.shape(len, pieces);
                assert_eq!(buffers.used.iter().map(DmaBuf::len).sum::<usize>(), len, "{len} in {pieces}");
                assert!(buffers.used.iter().all(|b| b.len() >= 512 && b.len().is_multiple_of(512)));
                assert_eq!(buffers.used.len() + buffers.spare.len(), 4);
                let data: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
                let mut back = vec![0; len];
                buffers.fill(&data);
                buffers.copy_to(&mut back);
                assert_eq!(data, back);
            }
        }
    }
}
