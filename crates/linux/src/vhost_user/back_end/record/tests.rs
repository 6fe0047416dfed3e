//! A server that stops between any two writes to its record: the memory as it is before each of them is what a successor
//! finds. Whatever the driver has made available and has not seen used is then used, once; nothing else is touched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use virtio_kit::device::{
    Chain, Device, DeviceError, Queue, Service, Serving, Submitted, Worker, read_bytes,
};
use virtio_kit_spec::{DeviceId, F, Features};

use crate::vhost_user::back_end::{BackEnd, Options};
use crate::vhost_user::codec::{
    F_PROTOCOL_FEATURES, Inflight, MemoryRegion, ProtocolFeatures, Request, SharedRegion, VringAddr, VringFd,
    VringState,
};
use crate::vhost_user::wire;

thread_local! {
    static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// Called before each write to a record.
pub(super) fn about_to_store() {
    HOOK.with_borrow_mut(|hook| hook.iter_mut().for_each(|hook| hook()));
}

const USER: u64 = 0x7000_0000_0000;
const LEN: u64 = 0x4000;
const SIZE: u16 = 8;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x3000;

/// What a device has been asked to do, by the numbers in its chains, and which of it it may finish now.
#[derive(Default)]
struct Script {
    begun: Vec<u64>,
    /// Finishes what is at these places among those that it holds; all of it if there is none.
    finish: Option<Vec<usize>>,
}

struct Scripted(Arc<Mutex<Script>>);

struct Holding {
    script: Arc<Mutex<Script>>,
    held: Vec<Chain>,
    done: Vec<Chain>,
}

impl Device for Scripted {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }
    fn features(&self) -> Features {
        Features::EMPTY
    }
    fn queue_count(&self) -> u16 {
        1
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        read_bytes(&[], offset, to);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let holding = Holding { script: self.0.clone(), held: Vec::new(), done: Vec::new() };
        Ok(Box::new(Serving::new(queue, holding)))
    }
    fn reset(&mut self) {}
}

impl Service for Holding {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        self.script.lock().unwrap().begun.push(chain.read_value().unwrap());
        self.held.push(chain);
        Submitted::Pending
    }
    fn flush(&mut self) -> Result<(), DeviceError> {
        let finish = self.script.lock().unwrap().finish.take();
        for place in finish.unwrap_or_else(|| vec![0; self.held.len()]) {
            let mut chain = self.held.remove(place);
            chain.write(&[1]).unwrap();
            self.done.push(chain);
        }
        Ok(())
    }
    fn poll(&mut self) -> Option<Chain> {
        (!self.done.is_empty()).then(|| self.done.remove(0))
    }
    fn pending(&self) -> usize {
        self.held.len() + self.done.len()
    }
    fn wait(&mut self) -> Result<(), DeviceError> {
        self.flush()
    }
}

/// A driver by hand. Each chain is two descriptors, one to read and one to write.
#[derive(Clone)]
struct Driver {
    packed: bool,
    next: u16,
    next_wrap: bool,
    used: u16,
    used_wrap: bool,
    /// Numbers of what is in flight, by head or buffer id.
    flying: BTreeMap<u16, u64>,
    number: u64,
}

impl Driver {
    fn new(packed: bool) -> Self {
        let flying = BTreeMap::new();
        Self { packed, next: 0, next_wrap: true, used: 0, used_wrap: true, flying, number: 0 }
    }

    /// Makes one more chain available, under a free id.
    fn add(&mut self, memory: &OwnedFd) {
        let id = (0..SIZE / 2).map(|id| 2 * id).find(|id| !self.flying.contains_key(id)).unwrap();
        self.number += 1;
        self.flying.insert(id, self.number);
        let data = DATA + 32 * u64::from(id);
        put(memory, data, &self.number.to_le_bytes());
        let desc = |addr: u64, len: u32, tail: [u16; 2]| {
            let mut bytes = addr.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            tail.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
            bytes
        };
        if self.packed {
            let lap = if self.next_wrap { 1 << 7 } else { 1 << 15 };
            let at = 16 * u64::from(self.next);
            put(memory, at + 16, &desc(data + 8, 1, [id, lap | 2]));
            put(memory, at, &desc(data, 8, [id, lap | 1]));
            step(&mut self.next, &mut self.next_wrap, 2);
        } else {
            put(memory, 16 * u64::from(id), &desc(data, 8, [1, id + 1]));
            put(memory, 16 * u64::from(id + 1), &desc(data + 8, 1, [2, 0]));
            put(memory, AVAIL + 4 + 2 * u64::from(self.next % SIZE), &id.to_le_bytes());
            self.next = self.next.wrapping_add(1);
            put(memory, AVAIL + 2, &self.next.to_le_bytes());
        }
    }

    /// Takes what was used: its numbers.
    fn take(&mut self, memory: &OwnedFd) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let id = if self.packed {
                let at = 16 * u64::from(self.used);
                let flags = get16(memory, at + 14);
                let lap = if self.used_wrap { 1 << 7 | 1 << 15 } else { 0 };
                if flags & (1 << 7 | 1 << 15) != lap {
                    return numbers;
                }
                step(&mut self.used, &mut self.used_wrap, 2);
                get16(memory, at + 12)
            } else {
                if self.used == get16(memory, USED + 2) {
                    return numbers;
                }
                let at = USED + 4 + 8 * u64::from(self.used % SIZE);
                self.used = self.used.wrapping_add(1);
                get16(memory, at)
            };
            numbers.push(self.flying.remove(&id).expect("in flight, and used once"));
        }
    }
}

fn step(at: &mut u16, wrap: &mut bool, by: u16) {
    *at += by;
    if *at >= SIZE {
        *at -= SIZE;
        *wrap = !*wrap;
    }
}

fn put(memory: &OwnedFd, at: u64, bytes: &[u8]) {
    assert_eq!(pwrite(memory, bytes, at), Ok(bytes.len()));
}

fn get16(memory: &OwnedFd, at: u64) -> u16 {
    let mut bytes = [0; 2];
    assert_eq!(pread(memory, &mut bytes, at), Ok(2));
    u16::from_le_bytes(bytes)
}

fn memory_of(bytes: &[u8]) -> OwnedFd {
    let fd = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes.len() as u64).unwrap();
    put(&fd, 0, bytes);
    fd
}

fn bytes_of(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; rustix::fs::fstat(fd).unwrap().st_size as usize];
    pread(fd, &mut bytes, 0).unwrap();
    bytes
}

/// A server and its front-end, in this thread.
struct Served {
    back: BackEnd,
    stream: UnixStream,
    script: Arc<Mutex<Script>>,
}

impl Served {
    fn new(packed: bool) -> Self {
        let script = Arc::default();
        let mut back = BackEnd::new(Box::new(Scripted(Arc::clone(&script))), Options::default()).unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        back.connect(theirs).unwrap();
        let mut this = Self { back, stream, script };
        let rings = if packed { F::RING_PACKED } else { Features::EMPTY };
        this.say(&Request::SetProtocolFeatures(ProtocolFeatures::INFLIGHT_SHMFD));
        this.say(&Request::SetFeatures((F::VERSION_1 | rings).low() | F_PROTOCOL_FEATURES));
        this
    }

    fn say(&mut self, request: &Request<BorrowedFd<'_>>) {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        request.encode(false, &mut bytes, &mut fds).unwrap();
        assert_eq!(wire::send(&self.stream, &bytes, &fds), Ok(bytes.len()));
        assert!(self.back.process().is_none(), "{request:?}");
    }

    fn make_record(&mut self) -> (Inflight, OwnedFd) {
        let wish = Inflight { mmap_size: 0, mmap_offset: 0, num_queues: 1, queue_size: SIZE };
        self.say(&Request::GetInflightFd(wish));
        let mut reply = [0; 64];
        let (_, mut fds) = wire::receive(&self.stream, &mut reply).unwrap();
        let mmap_size = u64::from_ne_bytes(reply[12..20].try_into().unwrap());
        (Inflight { mmap_size, ..wish }, fds.pop().unwrap())
    }

    /// Starts the queue, as QEMU does it: of a packed ring it never knows where it stands.
    fn start(&mut self, memory: &OwnedFd, record: (&Inflight, &OwnedFd), packed: bool) {
        let region = MemoryRegion { guest_addr: 0, size: LEN, user_addr: USER, mmap_offset: 0, xen: None };
        let base = if packed { 0x8000_8000 } else { get16(memory, USED + 2).into() };
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let addr = VringAddr {
            index: 0,
            flags: 0,
            descriptor: USER,
            used: USER + USED,
            available: USER + AVAIL,
            log: 0,
        };
        for request in [
            Request::SetInflightFd(*record.0, record.1.as_fd()),
            Request::SetMemTable(vec![SharedRegion { region, fd: memory.as_fd() }]),
            Request::SetVringNum(VringState { index: 0, num: SIZE.into() }),
            Request::SetVringBase(VringState { index: 0, num: base }),
            Request::SetVringAddr(addr),
            Request::SetVringKick(VringFd { index: 0, fd: Some(event.as_fd()) }),
            Request::SetVringEnable { index: 0, enable: true },
        ] {
            self.say(&request);
        }
        assert!(self.back.queues()[0].is_running());
    }

    /// The queue has a turn; of what it holds it finishes what is at these places, or all.
    fn turn(&self, finish: Option<&[usize]>) {
        self.script.lock().unwrap().finish = finish.map(Into::into);
        self.back.queues()[0].turn();
    }
}

/// What there was at one moment.
struct Moment {
    memory: Vec<u8>,
    record: Vec<u8>,
    driver: Driver,
}

/// Goes through a history of many turns: every moment before a write to the record.
fn history(packed: bool) -> (Inflight, Vec<Moment>) {
    let memory = memory_of(&vec![0; LEN as usize]);
    let mut served = Served::new(packed);
    let (description, record) = served.make_record();
    let moments = Arc::new(Mutex::new(Vec::new()));
    let driver = Arc::new(Mutex::new(Driver::new(packed)));
    let hook = {
        let (memory, record) = (memory.try_clone().unwrap(), record.try_clone().unwrap());
        let (moments, driver) = (moments.clone(), driver.clone());
        move || {
            let driver = driver.lock().unwrap().clone();
            let moment = Moment { memory: bytes_of(&memory), record: bytes_of(&record), driver };
            moments.lock().unwrap().push(moment);
        }
    };
    HOOK.set(Some(Box::new(hook)));
    served.start(&memory, (&description, &record), packed);
    // How many come, and which are finished, turn by turn: in order, out of order, none, several at once.
    let turns: [(usize, &[usize]); 12] = [
        (4, &[]),
        (0, &[2]),
        (1, &[0, 0]),
        (2, &[1]),
        (1, &[2, 1, 0]),
        (3, &[0]),
        (1, &[]),
        (0, &[3, 0]),
        (2, &[1, 1]),
        (2, &[3]),
        (1, &[0, 2, 1]),
        (3, &[3, 2, 1, 0]),
    ];
    for (come, finish) in turns {
        for _ in 0..come {
            driver.lock().unwrap().add(&memory);
        }
        served.turn(Some(finish));
        driver.lock().unwrap().take(&memory);
    }
    HOOK.set(None);
    assert!(driver.lock().unwrap().flying.is_empty());
    drop(served);
    (description, std::mem::take(&mut *moments.lock().unwrap()))
}

fn stop_anywhere(packed: bool) {
    let (description, moments) = history(packed);
    assert!(moments.len() > 100, "{} moments", moments.len());
    for (number, moment) in moments.into_iter().enumerate() {
        let (memory, record) = (memory_of(&moment.memory), memory_of(&moment.record));
        let mut driver = moment.driver;
        // What the driver has been shown is done.
        driver.take(&memory);
        let expected: Vec<u64> = driver.flying.values().copied().collect();
        let mut served = Served::new(packed);
        served.start(&memory, (&description, &record), packed);
        served.turn(None);
        served.turn(None);
        let mut begun = served.script.lock().unwrap().begun.clone();
        begun.sort_unstable();
        let mut used = driver.take(&memory);
        used.sort_unstable();
        let mut sorted = expected;
        sorted.sort_unstable();
        assert_eq!((&begun, &used), (&sorted, &sorted), "packed: {packed}, moment {number}");
        // And it goes on.
        driver.add(&memory);
        served.turn(None);
        assert_eq!(driver.take(&memory), [driver.number], "packed: {packed}, moment {number}");
    }
}

#[test]
fn a_server_of_a_split_ring_may_stop_between_any_two_writes() {
    stop_anywhere(false);
}

#[test]
fn a_server_of_a_packed_ring_may_stop_between_any_two_writes() {
    stop_anywhere(true);
}
