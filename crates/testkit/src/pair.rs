//! Both ends of a queue, joined in memory in one thread, with every choice drawn from a seed.

use crate::ground::{Ground, regions};
use crate::model::{Model, Record};
use crate::rng::Rng;
use crate::shape::Shape;
use std::fmt::Debug;
use virtio_kit_ring::device::{self, RingAddrs};
use virtio_kit_ring::driver::{AddErrorKind, Evidence, Indirect, Queue, Quiesced, RingMemory, Storage, Used};
use virtio_kit_ring::{Chain, DmaBuf};

mod device_side;

/// Most segments of a chain on the device's side.
const SEGMENTS: u16 = 24;
/// What a schedule is made of, as it is printed when one fails.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names of the operations that they stand for")]
pub enum Op {
    Add { parts: usize, readable: usize },
    AddBatch { chains: usize },
    AddBad(AddErrorKind),
    DriverPublish,
    Get,
    GetBatch { max: usize },
    DriverRestart,
    DriverDisable,
    Take,
    ServeBatch { max: usize },
    PutBack { token: u64 },
    Complete { token: u64 },
    DevicePublish,
    DeviceRestart,
    DeviceDisable,
    SetMemory,
    Recreate,
    Reset,
}

/// Chains of any shape.
type Lists = Chain<Vec<DmaBuf>, Vec<DmaBuf>>;

/// A chain that the device has taken.
struct Held {
    token: u64,
    chain: device::Chain,
    /// Where the queue stood before, if that could be seen.
    before: Option<device::Position>,
}

/// A driver's and a device's queue over one ring, a model of both, and a generator that decides what happens.
pub struct Pair<'g> {
    ground: &'g Ground,
    shape: Shape,
    seed: u64,
    rng: Rng,
    driver: Queue<Lists, u64>,
    device: device::Queue,
    held: Vec<Held>,
    model: Model,
    limits: Indirect,
    next_token: u64,
    trace: Vec<Op>,
    reaped: u64,
    free_before: u64,
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.trace.len().saturating_sub(400);
            eprintln!("schedule of {} with {:?}, the last operations:", self.shape, self.limits);
            self.trace[last..].iter().for_each(|op| eprintln!("    {op:?}"));
            eprintln!("to replay it: VIRTIO_KIT_SEED={}", self.seed);
        }
    }
}

/// Runs one schedule of `steps` operations, then completes everything and gives all memory back.
///
/// # Panics
///
/// If the queues differ from the model; then the seed and the schedule are printed.
pub fn run(ground: &Ground, shape: Shape, seed: u64, steps: usize) {
    let mut pair = Pair::new(ground, shape, seed);
    (0..steps).for_each(|_| pair.step());
    pair.finish();
}

impl<'g> Pair<'g> {
    /// Makes a pair.
    ///
    /// # Panics
    ///
    /// If the queues cannot be made.
    pub fn new(ground: &'g Ground, shape: Shape, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let free_before = ground.arena.free_bytes();
        let memory = RingMemory::alloc(&ground.arena, shape.packed, shape.size).expect("ring memory");
        let limits = Indirect {
            max_parts: rng.within(2, 9) as u16,
            direct_up_to: [0, 1, 2, 5, u16::MAX][rng.below(5)],
            keep_free: if rng.below(2) == 0 { 0 } else { rng.within(0, usize::from(shape.size)) as u16 },
        };
        let options = shape.options(limits);
        let driver = Queue::new(memory, Storage::boxed(shape.size), options, &ground.arena).expect("a queue");
        let addrs = device_addrs(&driver);
        let regions = regions(ground, &mut rng, shape, addrs);
        let storage = device::Storage::boxed(shape.size, SEGMENTS);
        let device = device::Queue::new(shape.config(), addrs, regions, None, storage).expect("a queue");
        let model = Model::new(shape, limits);
        Self {
            ground,
            shape,
            seed,
            rng,
            driver,
            device,
            held: Vec::new(),
            model,
            limits,
            next_token: 1,
            trace: Vec::new(),
            reaped: 0,
            free_before,
        }
    }

    /// Chains that the driver got back so far.
    pub fn reaped(&self) -> u64 {
        self.reaped
    }

    /// Does one thing, whatever the generator says.
    ///
    /// # Panics
    ///
    /// If the queues differ from the model.
    pub fn step(&mut self) {
        match self.rng.below(64) {
            0..14 => self.add(),
            14..16 => self.add_batch(),
            16..18 => self.add_bad(),
            18..25 => self.driver_publish(),
            25..31 => self.get(),
            31..33 => self.get_batch(),
            33..36 => self.driver_restart(),
            36 => self.driver_disable(),
            37..44 => self.take(),
            44..46 => self.serve(),
            46 => self.put_back(),
            47..53 => self.complete(),
            53..58 => self.device_publish(),
            58..61 => self.device_restart(),
            61 => self.device_disable(),
            62 => self.set_memory(),
            _ => match self.rng.below(8) {
                0 => self.reset(),
                _ => self.recreate(),
            },
        }
        self.check();
    }

    /// [`step`](Self::step) without the rare operations that begin anew: indices run on.
    ///
    /// # Panics
    ///
    /// If the queues differ from the model.
    pub fn step_onward(&mut self) {
        match self.rng.below(16) {
            0..4 => self.add(),
            4..6 => self.driver_publish(),
            6..8 => self.take(),
            8 => self.serve(),
            9..11 => self.complete(),
            11..13 => self.device_publish(),
            13 => self.get_batch(),
            14 => self.driver_restart(),
            _ => self.device_restart(),
        }
        self.check();
        self.trace.drain(..self.trace.len().saturating_sub(400));
    }

    fn check(&self) {
        assert_eq!(self.driver.room(), self.model.room(), "free descriptors");
        assert_eq!(usize::from(self.driver.in_flight()), self.model.in_flight().count(), "chains in flight");
        assert_eq!(self.driver.has_used(), self.model.used_count() > 0, "used chains wait");
        assert_eq!(self.device.has_available(), self.model.available_count() > 0, "available chains wait");
        assert_eq!(usize::from(self.device.in_flight()), self.held.len(), "chains held");
    }

    /// How long the next chain is: short as a rule, and now and then as long as the ring.
    fn draw_parts(&mut self) -> usize {
        let size = usize::from(self.shape.size);
        let longest = size.min(12);
        match self.rng.below(8) {
            0 => longest,
            1 => self.rng.within(1, longest),
            2 if self.shape.indirect => self.rng.within(1, self.limits.max_parts.into()),
            _ => self.rng.within(1, longest.min(3)),
        }
    }

    /// A chain of `parts` buffers, filled, and what the model should know of it.
    fn make(&mut self, parts: usize, readable: usize) -> (Lists, Record) {
        let token = self.next_token;
        self.next_token += 1;
        let mut record = Record {
            token,
            parts: Vec::with_capacity(parts),
            readable_parts: readable,
            readable: Vec::new(),
            writable: Vec::new(),
            written: 0,
            descs: 0,
        };
        let mut chain = Lists::new(Vec::with_capacity(parts), Vec::with_capacity(parts));
        for i in 0..parts {
            let longest = if self.rng.one_in(20) { 300 } else { 24 };
            let len = self.rng.within(1, longest);
            let mut buffer = self.ground.arena.alloc(len).expect("space for a buffer");
            let content: Vec<u8> = (0..len as u64).map(|at| pattern(token, i as u64 * 301 + at)).collect();
            buffer.write(0, &content).expect("inside the buffer");
            let side = if i < readable { &mut record.readable } else { &mut record.writable };
            side.extend_from_slice(&content);
            record.parts.push((buffer.device_addr().get(), len));
            let list = if i < readable { &mut chain.readable } else { &mut chain.writable };
            list.push(buffer);
        }
        (chain, record)
    }

    fn add(&mut self) {
        let parts = self.draw_parts();
        let readable = self.rng.within(0, parts);
        self.trace.push(Op::Add { parts, readable });
        let (chain, mut record) = self.make(parts, readable);
        let place = self.model.place(parts);
        match (self.driver.add_buf(chain, record.token), place) {
            (Ok(()), Ok(descs)) => {
                record.descs = descs;
                self.model.add(record);
            }
            (Err(e), Err(kind)) => {
                assert_eq!((e.kind(), e.token), (kind, record.token), "the refusal of a chain");
                same_buffers(&e.chain, &record);
            }
            (got, expected) => panic!("adding {parts} buffers: {got:?}, and should be {expected:?}"),
        }
    }

    fn add_batch(&mut self) {
        let chains = self.rng.within(0, 4);
        self.trace.push(Op::AddBatch { chains });
        let mut made = Vec::new();
        let mut records = Vec::new();
        for _ in 0..chains {
            let parts = self.draw_parts();
            let readable = self.rng.within(0, parts);
            let (chain, record) = self.make(parts, readable);
            made.push((chain, record.token));
            records.push(record);
        }
        let mut source = made.into_iter();
        let result =
            self.driver.add_batch(|place| source.next().map(|(chain, token)| place.put(chain, token)));
        let mut added = 0;
        for mut record in records {
            match self.model.place(record.parts.len()) {
                Ok(descs) => {
                    record.descs = descs;
                    self.model.add(record);
                    added += 1;
                }
                // Not even asked for.
                Err(_) if self.model.room() == 0 => break,
                Err(kind) => {
                    let e = result.expect_err("a chain that does not fit");
                    let (chain, token) = e.refused.expect("the chain itself");
                    assert_eq!((e.added, e.kind, token), (added, kind, record.token));
                    same_buffers(&chain, &record);
                    return;
                }
            }
        }
        assert_eq!(result.expect("all fit"), added);
    }

    /// Chains that must be refused whatever space there is, and leave no trace in the ring.
    fn add_bad(&mut self) {
        let parts = self.draw_parts();
        let readable = self.rng.within(0, parts);
        let kinds = [AddErrorKind::ForeignBuffer, AddErrorKind::NoBuffers, AddErrorKind::TooLong];
        let kind = kinds[self.rng.below(kinds.len())];
        self.trace.push(Op::AddBad(kind));
        let at = self.rng.below(parts);
        let (mut chain, mut record) = match kind {
            AddErrorKind::NoBuffers => self.make(0, 0),
            AddErrorKind::TooLong => {
                let direct = if self.shape.indirect { self.limits.direct_up_to } else { u16::MAX };
                let table = if self.shape.indirect { self.limits.max_parts } else { 0 };
                let longest = usize::from(direct.min(self.shape.size).max(table));
                self.make(longest + 1, 0)
            }
            _ => self.make(parts, readable),
        };
        if kind == AddErrorKind::ForeignBuffer {
            let mut buffers = chain.readable.iter_mut().chain(&mut chain.writable);
            let buffer = buffers.nth(at).expect("a buffer of the chain");
            assert!(buffer.set_len(0).is_err(), "a window is never empty");
            *buffer = self.ground.foreign.alloc(7).expect("space for a buffer");
            record.parts[at] = (buffer.device_addr().get(), 7);
        }
        // Of two reasons either may be given.
        let other = self.model.place(record.parts.len()).err();
        let e = self.driver.add_buf(chain, record.token).expect_err("a bad chain");
        assert!(e.kind() == kind || Some(e.kind()) == other, "{kind:?} or {other:?}: {:?}", e.kind());
        assert_eq!(e.token, record.token, "the token of a bad chain");
        same_buffers(&e.chain, &record);
    }

    fn driver_publish(&mut self) {
        self.trace.push(Op::DriverPublish);
        self.model.driver_publish(self.driver.publish());
    }

    fn got(&mut self, used: &Used<Lists, u64>) {
        let record = self.model.get().expect("a used chain");
        assert_eq!(used.token, record.token, "the token");
        assert_eq!(used.written as usize, record.written, "the length written");
        same_buffers(&used.chain, &record);
        let [readable, writable] = [&used.chain.readable, &used.chain.writable]
            .map(|l| l.iter().flat_map(bytes).collect::<Vec<u8>>());
        assert!(readable == record.readable, "the readable part changed");
        assert!(writable == record.writable, "the writable part is not what the device wrote");
        self.reaped += 1;
    }

    fn get(&mut self) {
        self.trace.push(Op::Get);
        match self.driver.get_buf().expect("an honest device") {
            Some(used) => self.got(&used),
            None => assert_eq!(self.model.used_count(), 0, "a used chain was not found"),
        }
    }

    fn get_batch(&mut self) {
        let max = self.rng.below(6);
        self.trace.push(Op::GetBatch { max });
        let expected = self.model.used_count().min(max);
        let mut all = Vec::new();
        let n = self.driver.get_batch(max, |used| all.push(used)).expect("an honest device");
        assert_eq!((n, all.len()), (expected, expected), "the size of a batch");
        all.iter().for_each(|used| self.got(used));
    }

    fn driver_restart(&mut self) {
        self.trace.push(Op::DriverRestart);
        self.model.driver_restart(self.driver.restart());
    }

    fn driver_disable(&mut self) {
        self.trace.push(Op::DriverDisable);
        self.driver.disable_callbacks();
        self.model.driver_disable();
    }

    fn device_publish(&mut self) {
        self.trace.push(Op::DevicePublish);
        self.model.device_publish(self.device.publish());
    }

    fn device_restart(&mut self) {
        self.trace.push(Op::DeviceRestart);
        self.model.device_restart(self.device.restart());
    }

    fn device_disable(&mut self) {
        self.trace.push(Op::DeviceDisable);
        self.device.disable_notifications();
        self.model.device_disable();
    }

    fn set_memory(&mut self) {
        self.trace.push(Op::SetMemory);
        let addrs = device_addrs(&self.driver);
        let pinned = self.device.uses_old_memory();
        let regions = regions(self.ground, &mut self.rng, self.shape, device_addrs(&self.driver));
        let result = self.device.set_memory(addrs, regions, None);
        if pinned {
            assert_eq!(result, Err(device::NewError::Busy));
        } else {
            assert_eq!(result, Ok(()));
            assert_eq!(self.device.uses_old_memory(), !self.held.is_empty(), "old memory is pinned");
            self.model.device_publish_quietly();
        }
    }

    /// Stops the device's queue and goes on with another one where it stood.
    fn recreate(&mut self) {
        if !self.held.is_empty() {
            return;
        }
        self.trace.push(Op::Recreate);
        let (position, in_flight) = self.device.stop();
        assert_eq!(in_flight, 0, "chains in flight of a stopped queue");
        assert!(self.device.take().expect("no error").is_none(), "a stopped queue yields nothing");
        assert!(!self.device.restart(), "a stopped queue does not restart");
        self.model.device_publish_quietly();
        self.model.device_publish(self.device.publish());
        self.device = self.new_device(position);
    }

    fn new_device(&mut self, position: device::Position) -> device::Queue {
        let config = device::Config { position, ..self.shape.config() };
        let storage = device::Storage::boxed(self.shape.size, SEGMENTS);
        let regions = regions(self.ground, &mut self.rng, self.shape, device_addrs(&self.driver));
        device::Queue::new(config, device_addrs(&self.driver), regions, None, storage).expect("a queue")
    }

    /// Takes the device away, gets every buffer back, and begins anew (2.6.1).
    fn reset(&mut self) {
        self.trace.push(Op::Reset);
        self.shutdown();
        assert!(self.driver.revive(), "an empty stopped queue revives");
        self.device = self.new_device(device::Position::fresh(self.shape.packed));
        self.model = Model::new(self.shape, self.limits);
    }

    fn shutdown(&mut self) {
        self.device.stop();
        for Held { chain, .. } in self.held.drain(..) {
            let chain = self.device.put_back(chain).expect_err("a stopped queue takes nothing back");
            self.device.complete(chain).expect("a chain of this queue");
        }
        assert_eq!(self.device.in_flight(), 0);
        let mut expected: Vec<&Record> = self.model.in_flight().collect();
        expected.sort_by_key(|r| r.token);
        let some = self.rng.within(0, expected.len());
        let mut back: Vec<_> = self.driver.shutdown(gone()).take(some).collect();
        assert!(expected.len() == some || !self.driver.revive(), "a queue that is not empty revived");
        assert!(self.driver.get_buf().expect("no error").is_none(), "a stopped queue yields nothing");
        back.extend(self.driver.shutdown(gone()));
        back.sort_by_key(|(_, token)| *token);
        let tokens: Vec<u64> = back.iter().map(|(_, token)| *token).collect();
        assert_eq!(tokens, expected.iter().map(|r| r.token).collect::<Vec<_>>(), "what came back");
        back.iter().zip(expected).for_each(|((chain, _), record)| same_buffers(chain, record));
    }

    /// Lets both ends work until nothing is left to do, and gives all memory back.
    ///
    /// # Panics
    ///
    /// If the queues differ from the model, or memory is lost.
    pub fn finish(mut self) {
        if self.rng.one_in(4) {
            self.shutdown();
        } else {
            self.driver_publish();
            while self.model.available_count() > 0 {
                self.take();
            }
            while !self.held.is_empty() {
                self.complete();
            }
            self.device_publish();
            while self.model.used_count() > 0 {
                self.get();
            }
            self.check();
            assert_eq!(self.model.in_flight().count() + self.model.held_count(), 0, "everything came back");
            assert_eq!(self.driver.room(), self.shape.size, "everything is free");
            assert_eq!(self.driver.shutdown(gone()).count(), 0);
        }
        let (arena, before) = (self.ground.arena.clone(), self.free_before);
        drop(self);
        assert_eq!(arena.free_bytes(), before, "all memory came back");
    }
}

fn gone() -> Quiesced {
    Quiesced::on(Evidence::DeviceHalfReturned)
}

pub(crate) fn pattern(token: u64, at: u64) -> u8 {
    (token.wrapping_mul(0x9e37_79b9) >> 3).wrapping_add(at.wrapping_mul(13)) as u8
}

fn bytes(buffer: &DmaBuf) -> Vec<u8> {
    let mut content = vec![0; buffer.len()];
    buffer.read(0, &mut content).expect("inside the buffer");
    content
}

fn same_buffers(chain: &Lists, record: &Record) {
    let parts = chain.readable.iter().chain(&chain.writable).map(|b| (b.device_addr().get(), b.len()));
    assert!(parts.eq(record.parts.iter().copied()), "other buffers came back than were added");
    assert_eq!(chain.readable.len(), record.readable_parts);
}

/// Where a device finds the ring of a driver's queue.
pub fn device_addrs<C, T: Debug>(driver: &Queue<C, T>) -> RingAddrs {
    let addrs = driver.addrs();
    RingAddrs { desc: addrs.desc.get(), driver: addrs.driver.get(), device: addrs.device.get() }
}
