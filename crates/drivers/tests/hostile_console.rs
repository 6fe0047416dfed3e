//! Consoles and entropy sources whose other end lies: what one end says without meaning is ignored or is an error of
//! its type, and the other end goes on or stops, but never panics, hangs or shows what it should not.

mod common;

use common::{LIMIT, StdClock, join, layouts};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use virtio_kit::bus::ProbeError;
use virtio_kit::device::{Chain as Taken, Device, DeviceError, Queue, Service, Serving, Submitted, Worker};
use virtio_kit::driver::{Found, Setup, Virtqueue, VqOptions};
use virtio_kit::spec::console::{CONTROL_RX_QUEUE, CONTROL_TX_QUEUE, Config, Control, F as ConsoleF};
use virtio_kit::{Arena, Chain, DeviceId, DmaBuf, Features};
use virtio_kit_devices::console::{Console as RealDevice, Handle, Port as Plug, Transcript};
use virtio_kit_drivers::console::{
    BadMessage, Console, ConsoleDevice, Error, Event, Options, PortError, Size, open,
};
use zerocopy::IntoBytes;

/// A device that says whatever it is told to say, on whichever queue, and so many bytes of it as it likes.
#[derive(Clone)]
struct Liar {
    max_nr_ports: u32,
    queues: u16,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    /// What the next buffers of the control queue get.
    messages: Mutex<std::collections::VecDeque<Vec<u8>>>,
    /// How many bytes each buffer of port 0's receive queue is said to have, without any being written.
    received: Mutex<Option<usize>>,
    /// Control messages that came.
    heard: Mutex<Vec<Control>>,
    taken: AtomicUsize,
}

impl Liar {
    fn new(max_nr_ports: u32, queues: u16) -> Self {
        Self { max_nr_ports, queues, script: Arc::default() }
    }

    fn say(&self, id: u32, event: u16, value: u16, rest: &[u8]) {
        let mut message =
            Control { id: id.into(), event: event.into(), value: value.into() }.as_bytes().to_vec();
        message.extend(rest);
        self.say_bytes(message);
    }

    fn say_bytes(&self, bytes: Vec<u8>) {
        self.script.messages.lock().unwrap().push_back(bytes);
    }
}

impl Device for Liar {
    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }
    fn features(&self) -> Features {
        ConsoleF::MULTIPORT | ConsoleF::SIZE
    }
    fn queue_count(&self) -> u16 {
        self.queues
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        let config = Config { max_nr_ports: self.max_nr_ports.into(), ..Config::default() };
        virtio_kit::device::read_bytes(config.as_bytes(), offset, to);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, Lie(index, self.script.clone()))))
    }
    fn reset(&mut self) {}
}

struct Lie(u16, Arc<Script>);

impl Service for Lie {
    fn submit(&mut self, mut chain: Taken) -> Submitted {
        let script = &*self.1;
        match self.0 {
            0 => {
                let len = script.received.lock().unwrap().unwrap_or(0);
                chain.mark_written(0, len.min(chain.writable_len())).unwrap();
                script.taken.fetch_add(1, Ordering::Relaxed);
            }
            CONTROL_RX_QUEUE => {
                let message = script.messages.lock().unwrap().pop_front().unwrap();
                let len = message.len().min(chain.writable_len());
                chain.write(&message[..len]).unwrap();
            }
            CONTROL_TX_QUEUE => script.heard.lock().unwrap().push(chain.read_value().unwrap()),
            _ => {}
        }
        Submitted::Done(chain)
    }

    fn capacity(&self) -> usize {
        match self.0 {
            0 => usize::from(self.1.received.lock().unwrap().is_some()),
            CONTROL_RX_QUEUE => usize::from(!self.1.messages.lock().unwrap().is_empty()),
            index => usize::from(index % 2 == 1),
        }
    }
}

struct Victim {
    liar: Liar,
    console: Console,
    _device: ConsoleDevice,
    arena: Arena,
}

fn victim(liar: Liar, ring: Features) -> Victim {
    let (found, _end, arena) = join(liar.clone(), ring);
    let options = Options { ports: 8, buffers: 4, bytes: 100, ..Options::default() };
    let (console, device) = open(found, &options).unwrap();
    Victim { liar, console, _device: device, arena }
}

impl Victim {
    /// What comes of all that the device says.
    fn events(&mut self) -> Vec<Event> {
        let mut seen = vec![];
        loop {
            match self.console.poll().unwrap() {
                Some(event) => seen.push(event),
                None if self.liar.script.messages.lock().unwrap().is_empty() => return seen,
                None => assert!(self.console.wait(LIMIT).unwrap()),
            }
        }
    }
}

#[test]
fn every_senseless_control_message_is_ignored_and_said_to_be() {
    let bad = |event| Event::Ignored(event);
    for layout in layouts() {
        let mut victim = victim(Liar::new(4, 10), layout);
        let liar = victim.liar.clone();
        let mut check = |expected: &[Event]| assert_eq!(victim.events(), expected, "{layout:?}");
        // Before a port is there: nothing can be said of it.
        for event in [2, 4, 6, 7] {
            liar.say(0, event, 1, b"name");
            check(&[bad(BadMessage::NotAdded(0))]);
        }
        liar.say(0, 5, 0, &[80, 0, 24, 0]);
        check(&[bad(BadMessage::NotAdded(0))]);
        for id in [4, 5, 31, 0xffff, 0x1_0000, u32::MAX] {
            for event in [1, 2, 4, 6, 7] {
                liar.say(id, event, 1, b"x");
                check(&[bad(BadMessage::UnknownPort(id))]);
            }
        }
        for len in 0..8 {
            liar.say_bytes(vec![1; len]);
            check(&[bad(BadMessage::TooShort(len))]);
        }
        for event in [0, 3, 8, 0x7fff, 0xffff] {
            liar.say(0, event, 1, b"");
            check(&[bad(BadMessage::UnknownEvent(event))]);
        }
        liar.say(2, 1, 1, b"");
        liar.say(2, 1, 1, b"");
        check(&[Event::Added(2), bad(BadMessage::Duplicate(2))]);
        for len in 8..12 {
            let mut message = vec![2, 0, 0, 0, 5, 0, 0, 0, 80, 0, 24, 0];
            message.truncate(len);
            liar.say_bytes(message);
            check(&[bad(BadMessage::TooShort(len))]);
        }
        liar.say(2, 7, 1, &[0xc3, 0x28]);
        liar.say(2, 7, 1, &[b'n'; 256]);
        // More than any buffer has: what fits is still too long.
        liar.say(2, 7, 1, &[b'n'; 5000]);
        liar.say(2, 7, 1, b"good");
        check(&[
            bad(BadMessage::NameNotUtf8(2)),
            bad(BadMessage::NameTooLong(2, 256)),
            bad(BadMessage::NameTooLong(2, 1016)),
            Event::Named(2),
        ]);
        liar.say(2, 5, 0, &[255, 255, 255, 255, 1, 2, 3]);
        check(&[Event::Resized(2, Size { cols: 0xffff, rows: 0xffff })]);
        liar.say(2, 2, 0, b"");
        liar.say(2, 2, 0, b"");
        check(&[Event::Removed(2), bad(BadMessage::NotAdded(2))]);
        assert_eq!(victim.console.named("good"), None);
        // It heard nothing but that the driver is ready, and ready for the one port.
        let heard: Vec<_> = liar
            .script
            .heard
            .lock()
            .unwrap()
            .iter()
            .map(|c| (c.id.get(), c.event.get(), c.value.get()))
            .collect();
        assert_eq!(heard, [(0, 0, 1), (2, 3, 1)]);
    }
}

#[test]
fn a_flood_of_ports_that_come_and_go_costs_no_memory() {
    let mut victim = victim(Liar::new(4, 10), Features::EMPTY);
    victim.liar.say(1, 1, 1, b"");
    victim.events();
    let free = victim.arena.free_bytes();
    for _ in 0..1000 {
        victim.liar.say(1, 2, 0, b"");
        victim.liar.say(1, 1, 1, b"");
        victim.liar.say(1, 6, 1, b"");
        assert_eq!(victim.events(), [Event::Removed(1), Event::Added(1), Event::Opened(1)]);
    }
    assert_eq!(victim.arena.free_bytes(), free);
}

#[test]
fn impossible_numbers_of_ports_are_refused_or_cut_down() {
    let (found, ..) = join(Liar::new(0, 10), Features::EMPTY);
    let error = open(found, &Options::default()).unwrap_err();
    assert!(matches!(error, ProbeError::BadConfig(_)), "{error}");
    // More ports than queues, than the driver goes along with, than can be counted.
    for (said, queues, expected) in
        [(100, 10, 4), (u32::MAX, 10, 4), (u32::MAX, 100, 8), (1, 4, 1), (3, 4, 1), (5, 9, 3)]
    {
        let victim = victim(Liar::new(said, queues), Features::EMPTY);
        assert_eq!(victim.console.max_ports(), expected, "{said} ports on {queues} queues");
    }
    // Without control queues there is no console of several ports.
    let (found, ..) = join(Liar::new(2, 2), Features::EMPTY);
    assert!(matches!(open(found, &Options::default()).unwrap_err(), ProbeError::Queue(_)));
}

#[test]
fn input_that_was_never_written_shows_nobody_what_was_there_before() {
    for layout in layouts() {
        let mut victim = victim(Liar::new(1, 4), layout);
        let mut stale: Vec<_> = std::iter::from_fn(|| victim.arena.alloc(100).ok()).collect();
        stale.iter_mut().for_each(|buffer| buffer.fill(0xee));
        drop(stale);
        victim.liar.say(0, 1, 1, b"");
        victim.liar.say(0, 6, 1, b"");
        victim.events();
        *victim.liar.script.received.lock().unwrap() = Some(usize::MAX);
        let mut port = victim.console.port(0).unwrap().blocking(StdClock::new(), LIMIT);
        for _ in 0..20 {
            let mut got = [0xff; 100];
            let len = port.read(&mut got).unwrap();
            assert!(got[..len].iter().all(|&byte| byte == 0), "{layout:?}");
        }
    }
}

#[test]
fn a_device_that_returns_empty_buffers_does_not_keep_the_driver() {
    for layout in layouts() {
        let mut victim = victim(Liar::new(1, 4), layout);
        victim.liar.say(0, 1, 1, b"");
        victim.liar.say(0, 6, 1, b"");
        victim.events();
        let mut port = victim.console.port(0).unwrap();
        *victim.liar.script.received.lock().unwrap() = Some(0);
        for _ in 0..100 {
            let before = victim.liar.script.taken.load(Ordering::Relaxed);
            assert_eq!(port.read(&mut [0; 10]), Ok(None));
            // No more than a few of them in one call, however many the device has.
            assert!(victim.liar.script.taken.load(Ordering::Relaxed) - before <= 20);
        }
        let limit = std::time::Duration::from_millis(5);
        let mut port = port.blocking(StdClock::new(), limit);
        assert_eq!(port.read(&mut [0; 10]), Err(PortError::Timeout(limit)));
    }
}

/// A queue that takes buffers of either kind.
type AnyQueue = Virtqueue<Chain<Option<DmaBuf>, Option<DmaBuf>>, ()>;

/// A driver that puts anything on any queue of our device.
struct Rogue {
    queues: Vec<AnyQueue>,
    _device: virtio_kit::driver::Device,
    handle: Handle,
    arena: Arena,
    scripts: Vec<Transcript>,
}

fn rogue(ring: Features) -> Rogue {
    let device = RealDevice::multiport(3);
    let handle = device.handle();
    let scripts: Vec<_> = (0..2).map(|_| Transcript::new(1000)).collect();
    handle.plug(0, Plug::new(scripts[0].clone()).console()).unwrap();
    handle.plug(1, Plug::new(scripts[1].clone()).named("one")).unwrap();
    let (found, _end, arena): (Found, _, _) = join(device, ring);
    let mut setup: Setup = found.negotiate(ConsoleF::MULTIPORT).unwrap();
    let queues = (0..8).map(|index| setup.new_vq(index, VqOptions::default()).unwrap()).collect();
    Rogue { queues, _device: setup.start().unwrap(), handle, arena, scripts }
}

impl Rogue {
    fn put(&mut self, queue: u16, readable: Option<&[u8]>, writable: Option<usize>) -> (u32, Option<DmaBuf>) {
        let readable = readable.map(|bytes| {
            let mut buffer = self.arena.alloc(bytes.len()).unwrap();
            buffer.write(0, bytes).unwrap();
            buffer
        });
        let writable = writable.map(|len| self.arena.alloc_zeroed(len).unwrap());
        let vq = &mut self.queues[usize::from(queue)];
        vq.add_buf(Chain::new(readable, writable), ()).unwrap();
        vq.kick().unwrap();
        match vq.get_buf() {
            Ok(Some(used)) => (used.written, used.chain.writable),
            other => panic!("{other:?}"),
        }
    }

    /// A control message, from the raw bytes of it.
    fn say(&mut self, bytes: &[u8]) {
        self.put(CONTROL_TX_QUEUE, Some(bytes), None);
    }

    fn control(&mut self, id: u32, event: u16, value: u16) {
        let message = Control { id: id.into(), event: event.into(), value: value.into() };
        self.say(message.as_bytes());
    }

    /// The next message of the device, into a buffer of so many bytes.
    fn hear(&mut self, len: usize) -> Vec<u8> {
        let (written, buffer) = self.put(CONTROL_RX_QUEUE, None, Some(len));
        let mut bytes = vec![0; written as usize];
        if written > 0 {
            buffer.unwrap().read(0, &mut bytes).unwrap();
        }
        bytes
    }
}

#[test]
fn the_device_ignores_what_has_no_meaning_and_goes_on() {
    for layout in layouts() {
        let mut rogue = rogue(layout);
        let mut ignored = 0;
        let mut check = |rogue: &Rogue, what: &str| {
            ignored += 1;
            assert_eq!(rogue.handle.ignored(), ignored, "{layout:?}: {what}");
        };
        for len in 1..8 {
            rogue.say(&vec![0; len]);
            check(&rogue, "too short");
        }
        rogue.put(CONTROL_TX_QUEUE, None, Some(64));
        check(&rogue, "nothing to read");
        for event in [1, 2, 4, 5, 7, 8, 0xffff] {
            rogue.control(0, event, 1);
            check(&rogue, "what only a device says");
        }
        for id in [3, 4, 0xffff, 0x1_0000, u32::MAX] {
            for event in [3, 6] {
                rogue.control(id, event, 1);
                check(&rogue, "a port beyond the device's");
            }
        }
        // Before the device was told that the driver is ready, no port is known to it.
        for id in [0, 1, 2] {
            rogue.control(id, 3, 1);
            check(&rogue, "ready for a port that was not added");
            rogue.control(id, 6, 1);
            check(&rogue, "open of a port that is not ready");
        }
        // The one message that means something, more than once.
        for _ in 0..3 {
            rogue.control(77, 0, 1);
        }
        assert_eq!(rogue.hear(64), [0, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(rogue.hear(64), [1, 0, 0, 0, 1, 0, 1, 0]);
        rogue.control(2, 3, 1);
        check(&rogue, "ready for a port that is not there");
        rogue.control(1, 3, 1);
        // A buffer that is too short for a message comes back empty, and the message is gone.
        assert_eq!(rogue.hear(10), []);
        check(&rogue, "no room for the name");
        assert_eq!(rogue.hear(64), [1, 0, 0, 0, 6, 0, 1, 0]);
        // Data on a port that is not open, and buffers of the wrong kind.
        rogue.scripts[1].type_in(b"held back");
        rogue.control(1, 6, 1);
        let (written, buffer) = rogue.put(4, Some(b"readable bytes say nothing"), Some(5));
        assert_eq!((written, buffer.unwrap().read_value(0)), (5, Ok(*b"held ")));
        let (written, _) = rogue.put(4, Some(b"only readable"), None);
        assert_eq!(written, 0);
        let (written, buffer) = rogue.put(4, None, Some(50));
        assert_eq!((written, buffer.unwrap().read_value(0)), (4, Ok(*b"back")));
        let (written, _) = rogue.put(5, Some(b"out"), Some(10));
        assert_eq!((written, rogue.scripts[1].take()), (0, b"out".to_vec()));
        let (written, _) = rogue.put(5, None, Some(10));
        assert_eq!((written, rogue.scripts[1].take()), (0, vec![]));
        // What goes to a port that is not there is thrown away.
        rogue.put(7, Some(b"nobody"), None);
        assert_eq!(rogue.handle.ignored(), ignored);
    }
}

#[test]
fn a_flood_of_messages_leaves_no_more_to_say_than_there_are_things_to_say() {
    let mut rogue = rogue(Features::EMPTY);
    rogue.control(0, 0, 1);
    for _ in 0..500 {
        for id in [0, 1] {
            rogue.control(id, 3, 1);
        }
    }
    // Both are added, the console is one, and each is connected; the one with a name has it.
    let messages: Vec<_> = (0..6).map(|_| rogue.hear(64)).collect();
    let events: Vec<_> = messages.iter().map(|bytes| (bytes[0], bytes[4])).collect();
    assert_eq!(events, [(0, 1), (0, 4), (0, 6), (1, 1), (1, 7), (1, 6)]);
    let more = rogue.arena.alloc_zeroed(64).unwrap();
    let queue = &mut rogue.queues[usize::from(CONTROL_RX_QUEUE)];
    queue.add_buf(Chain::new(None, Some(more)), ()).unwrap();
    queue.kick().unwrap();
    assert!(matches!(queue.get_buf(), Ok(None)), "and nothing more");
}

#[test]
fn a_queue_that_breaks_is_an_error_and_the_port_says_so() {
    let mut victim = victim(Liar::new(1, 4), Features::EMPTY);
    victim.liar.say(0, 1, 1, b"");
    victim.liar.say(0, 6, 1, b"");
    victim.events();
    let mut port = victim.console.port(0).unwrap();
    drop(victim._device);
    assert!(matches!(port.read(&mut [0; 10]), Err(PortError::Queue(Error::Queue(_)))));
    assert!(matches!(port.write(b"x"), Err(PortError::Queue(Error::Queue(_)))));
    assert!(matches!(victim.console.poll(), Err(Error::Queue(_))));
}
