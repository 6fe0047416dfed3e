//! A device on a bench: queues written by hand, run one at a time, stopped and started.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use virtio_kit::device::{ConfigNotice, Device, DeviceError, Machine, QueueState, Run, Slots, Stopped};
use virtio_kit::device::{Memory, Position, Region};
use virtio_kit::spec::net::Ack;
use virtio_kit::{F, Features, Status};
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

/// Counts how often each queue was woken.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One queue and the memory that its driver writes.
pub(crate) struct Line {
    pub(crate) driver: ForeignDriver,
    pub(crate) memory: SharedMemory,
    /// Where buffers are.
    pub(crate) data: u64,
}

pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) slots: Slots,
    pub(crate) lines: Vec<Line>,
    pub(crate) wakes: Vec<Arc<Wakes>>,
    shape: Shape,
}

const SPACE: usize = 1 << 20;

impl Bench {
    /// A device with its first `queues` queues started.
    pub(crate) fn new(device: impl Device + 'static, shape: Shape, features: Features, queues: u16) -> Self {
        let ring = F::INDIRECT_DESC | F::EVENT_IDX | F::RING_PACKED | F::IN_ORDER;
        let mut machine = Machine::new(Box::new(device), ring, Arc::new(ConfigNotice::default()));
        let slots = machine.slots();
        let wakes: Vec<Arc<Wakes>> = slots.iter().map(|_| Arc::default()).collect();
        machine.attach_wakers(wakes.iter().cloned().map(Waker::from).collect());
        let pick = |on, feature| if on { feature } else { Features::EMPTY };
        let layout = pick(shape.packed, F::RING_PACKED)
            | pick(shape.in_order, F::IN_ORDER)
            | pick(shape.event_idx, F::EVENT_IDX)
            | pick(shape.indirect, F::INDIRECT_DESC);
        let line = |index| {
            let memory = SharedMemory::new(0x4000_0000 + index * SPACE as u64, SPACE);
            let driver = ForeignDriver::new(shape, memory.clone());
            Line { data: driver.after_ring(), driver, memory }
        };
        let lines: Vec<Line> = (0..queues.into()).map(line).collect();
        machine.set_accepted(features | layout | F::VERSION_1);
        machine.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK).unwrap();
        assert!(machine.status().contains(Status::FEATURES_OK), "{features:?}");
        let mut bench = Self { machine, slots, lines, wakes, shape };
        bench.set_memory();
        (0..queues).for_each(|index| bench.start(index, None));
        bench.machine.set_status(bench.machine.status() | Status::DRIVER_OK).unwrap();
        bench
    }

    fn set_memory(&mut self) {
        let region = |line: &Line| Region::new(line.memory.start(), line.memory.clone()).unwrap();
        self.machine.set_memory(Memory::new(self.lines.iter().map(region)).unwrap());
    }

    /// Starts a queue where it stood.
    pub(crate) fn start(&mut self, index: u16, position: Option<Position>) {
        let addrs = self.lines[usize::from(index)].driver.ring();
        let state = QueueState { size: self.shape.size, addrs, position, enabled: false };
        self.machine.enable_queue(index, state).unwrap();
    }

    pub(crate) fn stop(&mut self, index: u16) -> Stopped {
        self.machine.reset_queue(index).expect("a queue that runs")
    }

    pub(crate) fn run(&self, index: u16) -> Result<Run, DeviceError> {
        self.slots[usize::from(index)].lock().as_mut().expect("a queue that runs").run()
    }

    /// Makes a chain of bytes available, in as many buffers as there are parts; its id.
    pub(crate) fn offer_bytes(&mut self, index: usize, parts: &[&[u8]]) -> u16 {
        let line = &mut self.lines[index];
        let mut at = line.data;
        let mut chain = vec![];
        for part in parts {
            line.memory.write_bytes(at, part);
            chain.push(Raw::new(at, part.len() as u32, 1));
            at += part.len() as u64;
        }
        chain.last_mut().unwrap().flags = 0;
        line.driver.offer(&chain)
    }

    /// Makes a buffer of so many bytes available; its id, and where it is.
    pub(crate) fn offer_space(&mut self, index: usize, len: u32) -> (u16, u64) {
        let line = &mut self.lines[index];
        let at = line.data;
        line.data += u64::from(len);
        line.memory.fill(at, len as usize, 0xa5);
        (line.driver.offer(&[Raw::new(at, len, 2)]), at)
    }

    pub(crate) fn read(&self, index: usize, at: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| self.lines[index].memory.read8(at + i)).collect()
    }
}

/// Where the answer to a command goes.
const ANSWER: u64 = 0x8000;

impl Bench {
    /// Makes a command available, with a byte for the answer.
    pub(crate) fn offer_command(&mut self, index: usize, bytes: &[u8]) {
        let line = &mut self.lines[index];
        line.memory.write_bytes(line.data, bytes);
        line.memory.write8(line.data + ANSWER, 0xa5);
        let chain = [Raw::new(line.data, bytes.len() as u32, 1), Raw::new(line.data + ANSWER, 1, 2)];
        line.driver.offer(&chain);
    }

    /// How the command ended; `None` if it has not.
    pub(crate) fn answer(&mut self, index: usize) -> Option<Ack> {
        let line = &mut self.lines[index];
        let (_, len) = line.driver.take_used(2)?;
        assert_eq!(len, 1, "length of an answer");
        Some(Ack(line.memory.read8(line.data + ANSWER)))
    }
}
