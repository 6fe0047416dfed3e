//! A queue runs when its device wakes it: in the thread that does, from within itself, and by another thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};
use virtio_kit::device::{Chain, Device, DeviceError, Queue, Service, Serving, Submitted, Worker};
use virtio_kit::driver::{self, Found, Virtqueue, VqOptions};
use virtio_kit::in_process::{DeviceEnd, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, Chain as Buffers, DeviceId, DmaBuf, Features};

mod common;
use common::StdClock;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Bytes on their way to a device's receive queue.
#[derive(Default)]
struct Mailbox {
    bytes: Mutex<VecDeque<u8>>,
    waker: Mutex<Option<Waker>>,
    /// Where whoever takes a byte from here puts the next higher one, up to [`LAST_ANSWER`].
    answer: Mutex<Weak<Self>>,
    /// How many take from here at the moment, and at most did.
    depth: AtomicUsize,
    deepest: AtomicUsize,
}

/// The last byte that is put as an answer.
const LAST_ANSWER: u8 = 60;

impl Mailbox {
    fn take(&self) -> u8 {
        self.deepest.fetch_max(self.depth.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let byte = self.bytes.lock().unwrap().pop_front().unwrap();
        let answer = self.answer.lock().unwrap().upgrade();
        if let Some(answer) = answer.filter(|_| byte < LAST_ANSWER) {
            answer.put(byte + 1);
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
        byte
    }

    fn put(&self, byte: u8) {
        self.bytes.lock().unwrap().push_back(byte);
        let waker = self.waker.lock().unwrap().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What is sent goes into one mailbox; what comes in is taken from another.
struct Mail {
    inbox: Arc<Mailbox>,
    outbox: Arc<Mailbox>,
}

impl Device for Mail {
    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }
    fn features(&self) -> Features {
        Features::EMPTY
    }
    fn queue_count(&self) -> u16 {
        2
    }
    fn read_config(&self, _: usize, to: &mut [u8]) {
        to.fill(0);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        if index == RECEIVE {
            return Ok(Box::new(Serving::new(queue, Receive(self.inbox.clone()))));
        }
        Ok(Box::new(Serving::new(queue, Transmit(self.outbox.clone()))))
    }
    fn reset(&mut self) {}
    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        *self.inbox.waker.lock().unwrap() = Some(wakers[usize::from(RECEIVE)].clone());
    }
}

struct Receive(Arc<Mailbox>);

impl Service for Receive {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let byte = self.0.take();
        chain.write(&[byte]).unwrap();
        Submitted::Done(chain)
    }
    fn capacity(&self) -> usize {
        usize::from(!self.0.bytes.lock().unwrap().is_empty())
    }
}

struct Transmit(Arc<Mailbox>);

impl Service for Transmit {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        self.0.put(chain.read_value().unwrap());
        Submitted::Done(chain)
    }
}

struct End {
    receive: Virtqueue<Buffers<(), DmaBuf>, ()>,
    transmit: Virtqueue<Buffers<DmaBuf>, ()>,
    arena: Arena,
    device_end: DeviceEnd,
    _device: driver::Device,
}

impl End {
    fn new(inbox: &Arc<Mailbox>, outbox: &Arc<Mailbox>, inline: bool) -> Self {
        let arena = Arena::new(HeapMemory::new(1 << 18).unwrap()).unwrap();
        let options = Options::inline(arena.clone(), Arc::new(StdClock(Instant::now())));
        let device = Mail { inbox: inbox.clone(), outbox: outbox.clone() };
        let (transport, device_end) =
            InProcess::new(Box::new(device), Options { inline, ..options }).unwrap();
        let mut setup = Found::new(Box::new(transport)).negotiate(Features::EMPTY).unwrap();
        let transmit = setup.new_vq(TRANSMIT, VqOptions::default()).unwrap();
        let mut receive: Virtqueue<Buffers<(), DmaBuf>, _> =
            setup.new_vq(RECEIVE, VqOptions::default()).unwrap();
        let device = setup.start().unwrap();
        for _ in 0..64 {
            receive.add_buf(Buffers::writable(arena.alloc(1).unwrap()), ()).unwrap();
        }
        receive.kick().unwrap();
        Self { receive, transmit, arena, device_end, _device: device }
    }

    fn send(&mut self, byte: u8) {
        let mut buffer = self.arena.alloc(1).unwrap();
        buffer.write(0, &[byte]).unwrap();
        self.transmit.add_buf(Buffers::readable(buffer), ()).unwrap();
        self.transmit.kick().unwrap();
        while self.transmit.get_buf().unwrap().is_some() {}
    }

    fn received(&mut self) -> Vec<u8> {
        core::iter::from_fn(|| self.receive.get_buf().unwrap())
            .map(|used| used.chain.writable.read_value(0).unwrap())
            .collect()
    }
}

#[test]
fn inline_a_byte_is_in_the_other_drivers_ring_when_the_notification_returns() {
    let boxes = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
    let [mut a, mut b] = [0, 1].map(|i| End::new(&boxes[i], &boxes[1 - i], true));
    for byte in 0..50 {
        a.send(byte);
        assert_eq!(b.received(), [byte]);
        b.send(!byte);
        assert_eq!(a.received(), [!byte]);
    }
}

#[test]
fn inline_a_queue_that_wakes_itself_runs_again_and_not_within_itself() {
    let inbox = Arc::new(Mailbox::default());
    *inbox.answer.lock().unwrap() = Arc::downgrade(&inbox);
    let mut end = End::new(&inbox, &Arc::new(Mailbox::default()), true);
    inbox.put(0);
    assert_eq!(end.received(), (0..=LAST_ANSWER).collect::<Vec<_>>());
    assert_eq!(inbox.deepest.load(Ordering::Relaxed), 1);
}

#[test]
fn inline_two_devices_that_answer_each_other_nest_no_deeper_than_there_are_queues() {
    let [one, other] = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
    *one.answer.lock().unwrap() = Arc::downgrade(&other);
    *other.answer.lock().unwrap() = Arc::downgrade(&one);
    let [mut a, mut b] =
        [(&one, &other), (&other, &one)].map(|(inbox, outbox)| End::new(inbox, outbox, true));
    b.send(0);
    let (even, odd): (Vec<u8>, Vec<u8>) = (0..=LAST_ANSWER).partition(|byte| byte % 2 == 0);
    assert_eq!([a.received(), b.received()], [even, odd], "a wake was lost");
    assert!([one, other].iter().all(|mailbox| mailbox.deepest.load(Ordering::Relaxed) == 1));
}

#[test]
fn apart_a_thread_that_sleeps_with_empty_buffers_in_its_ring_is_woken() {
    let boxes = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
    let [mut a, mut b] = [0, 1].map(|i| End::new(&boxes[i], &boxes[1 - i], false));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = [(&a, TRANSMIT), (&b, RECEIVE)]
        .into_iter()
        .map(|(end, queue)| {
            let (end, stop) = (end.device_end.clone(), stop.clone());
            std::thread::spawn(move || end.serve(queue, Duration::ZERO, &stop))
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    for byte in 0..50 {
        a.send(byte);
        let mut got = b.received();
        while got.is_empty() {
            assert!(Instant::now() < deadline, "byte {byte} did not come");
            b.receive.wait(Duration::from_secs(1)).unwrap();
            got = b.received();
        }
        assert_eq!(got, [byte]);
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_wake_after_the_transport_is_gone_does_nothing() {
    let mailbox = Arc::new(Mailbox::default());
    drop(End::new(&mailbox, &Arc::new(Mailbox::default()), true));
    mailbox.put(1);
    assert_eq!(mailbox.bytes.lock().unwrap().len(), 1);
}

/// Has a byte ready only after a run that found none: it wakes its own queue at the end of that.
struct Late {
    waker: Waker,
    runs: usize,
}

impl Service for Late {
    fn begin_run(&mut self) {
        self.runs += 1;
    }
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        chain.write(&[self.runs as u8]).unwrap();
        Submitted::Done(chain)
    }
    fn capacity(&self) -> usize {
        usize::from(self.runs == 5)
    }
    fn end_run(&mut self) {
        if self.runs < 5 {
            self.waker.wake_by_ref();
        }
    }
}

struct LateDevice(Option<Waker>);

impl Device for LateDevice {
    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }
    fn features(&self) -> Features {
        Features::EMPTY
    }
    fn queue_count(&self) -> u16 {
        1
    }
    fn read_config(&self, _: usize, to: &mut [u8]) {
        to.fill(0);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, Late { waker: self.0.clone().unwrap(), runs: 0 })))
    }
    fn reset(&mut self) {}
    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.0 = wakers.into_iter().next();
    }
}

#[test]
fn inline_a_wake_at_the_end_of_a_run_that_did_nothing_is_not_lost() {
    let arena = Arena::new(HeapMemory::new(1 << 18).unwrap()).unwrap();
    let options = Options::inline(arena.clone(), Arc::new(StdClock(Instant::now())));
    let (transport, _end) = InProcess::new(Box::new(LateDevice(None)), options).unwrap();
    let mut setup = Found::new(Box::new(transport)).negotiate(Features::EMPTY).unwrap();
    let mut queue: Virtqueue<Buffers<(), DmaBuf>, ()> = setup.new_vq(0, VqOptions::default()).unwrap();
    queue.add_buf(Buffers::writable(arena.alloc(1).unwrap()), ()).unwrap();
    queue.kick().unwrap();
    let _device = setup.start().unwrap();
    let used = queue.get_buf().unwrap().expect("a byte after five runs");
    assert_eq!(used.chain.writable.read_value::<u8>(0), Ok(5));
}
