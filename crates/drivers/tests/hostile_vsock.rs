//! Socket devices and drivers whose other end lies. Both ends speak alike, so that one table is for both: what the other
//! end says is ignored, refused, or ends that connection, and others go on.

mod common;

use common::{join, layouts};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use virtio_kit::device::{Chain as Taken, Device, DeviceError, Queue, Service, Serving, Submitted, Worker};
use virtio_kit::driver::{Virtqueue, VqOptions};
use virtio_kit::spec::vsock::{
    Config, EVENT_QUEUE, F as VsockF, Header, Op, RX_QUEUE, Seq, Shutdown, TX_QUEUE, Type,
};
use virtio_kit::vsock::{Address, Counters, End, Error, Kind, Limits};
use virtio_kit::{Arena, Chain, DeviceId, DmaBuf, F, Features};
use virtio_kit_devices::vsock::{Handle, Listener as HostListener, Listeners, Message, Vsock as RealDevice};
use virtio_kit_drivers::vsock::{
    ConnectionError, Listener, Options, Socket, SocketError, Vsock, VsockDevice, open,
};
use virtio_kit_testkit::Rng;
use zerocopy::{FromBytes, IntoBytes};

const LIMITS: Limits = Limits { connections: 16, buffer: 4096, refusals: 8 };
const GUEST: u64 = 3;
const HOST: u64 = 2;
const PORT: u32 = 5;

/// Who is lied to, with a liar at the other end.
trait Victim {
    /// Where the victim is, and where the liar is.
    fn cids(&self) -> (u64, u64);
    /// `false` if the victim takes no more until it has been heard.
    fn say(&mut self, packet: &[u8]) -> bool;
    /// Packets of the victim since the last time.
    fn heard(&mut self) -> Vec<(Header, Vec<u8>)>;
    fn counters(&self) -> Counters;
    fn connections(&self) -> usize;
    fn accept(&mut self, kind: Kind) -> Option<Box<dyn Ended>>;
    fn connect(&mut self) -> Box<dyn Ended>;
}

/// The victim's end of a connection.
trait Ended {
    fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Error>;
    fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error>;
    fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, Error>;
}

impl Ended for End {
    fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Error> {
        self.writer().write(from)
    }
    fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        self.reader().read(to)
    }
    fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, Error> {
        self.reader().receive(to)
    }
}

fn connection(error: SocketError) -> ConnectionError {
    match error {
        SocketError::Connection(error) => error,
        other => panic!("{other}"),
    }
}

impl Ended for Socket {
    fn write(&mut self, from: &[u8]) -> Result<Option<usize>, Error> {
        self.write(from).map_err(connection)
    }
    fn read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        self.read(to).map_err(connection)
    }
    fn receive(&mut self, to: &mut [u8]) -> Result<Option<Message>, Error> {
        self.receive(to).map_err(connection)
    }
}

/// The device, and a driver that says what it likes.
struct DeviceVictim {
    handle: Handle,
    streams: HostListener,
    packets: HostListener,
    rx: Virtqueue<Chain<(), DmaBuf>, ()>,
    tx: Virtqueue<Chain<DmaBuf>, ()>,
    arena: Arena,
    _device: virtio_kit::driver::Device,
    _end: virtio_kit::in_process::DeviceEnd,
}

impl DeviceVictim {
    fn new(layout: Features) -> Self {
        let host = Listeners::new();
        let device = RealDevice::new(GUEST, LIMITS, Arc::new(host.clone())).unwrap();
        let handle = device.handle();
        let (found, end, arena) = join(device, layout);
        let wanted = VsockF::STREAM | VsockF::SEQPACKET | VsockF::NO_IMPLIED_STREAM;
        let mut setup = found.negotiate(wanted).unwrap();
        let options = || VqOptions { max_size: 32, ..VqOptions::default() };
        let mut rx: Virtqueue<Chain<(), DmaBuf>, ()> = setup.new_vq(RX_QUEUE, options()).unwrap();
        let tx = setup.new_vq(TX_QUEUE, options()).unwrap();
        for _ in 0..32 {
            rx.add_buf(Chain::writable(arena.alloc_zeroed(2048).unwrap()), ()).unwrap();
        }
        rx.kick().unwrap();
        let device = setup.start().unwrap();
        let streams = host.listen(Kind::Stream, PORT, 8).unwrap();
        let packets = host.listen(Kind::Seqpacket, PORT, 8).unwrap();
        Self { handle, streams, packets, rx, tx, arena, _device: device, _end: end }
    }
}

impl Victim for DeviceVictim {
    fn cids(&self) -> (u64, u64) {
        (HOST, GUEST)
    }
    fn say(&mut self, packet: &[u8]) -> bool {
        let mut buffer = self.arena.alloc_zeroed(packet.len().max(1)).unwrap();
        buffer.write(0, packet).unwrap();
        let said = self.tx.add_buf(Chain::readable(buffer), ()).is_ok();
        self.tx.kick().unwrap();
        while self.tx.get_buf().unwrap().is_some() {}
        said
    }
    fn heard(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut all = vec![];
        while let Some(used) = self.rx.get_buf().unwrap() {
            let buffer = used.chain.writable;
            let mut bytes = vec![0; used.written as usize];
            buffer.read(0, &mut bytes).unwrap();
            let (header, rest) = Header::read_from_prefix(&bytes).unwrap();
            assert_eq!(rest.len(), header.len.get() as usize);
            all.push((header, rest.to_vec()));
            self.rx.add_buf(Chain::writable(buffer), ()).unwrap();
            self.rx.kick().unwrap();
        }
        while self.tx.get_buf().unwrap().is_some() {}
        all
    }
    fn counters(&self) -> Counters {
        self.handle.counters()
    }
    fn connections(&self) -> usize {
        self.handle.connections()
    }
    fn accept(&mut self, kind: Kind) -> Option<Box<dyn Ended>> {
        let listener = if kind == Kind::Stream { &mut self.streams } else { &mut self.packets };
        listener.accept().map(|end| Box::new(end) as _)
    }
    fn connect(&mut self) -> Box<dyn Ended> {
        Box::new(self.handle.connect(Kind::Stream, Some(9), 100).unwrap())
    }
}

/// What a device that lies has to say, and has heard.
#[derive(Default)]
struct Script {
    say: Mutex<VecDeque<Vec<u8>>>,
    heard: Mutex<Vec<(Header, Vec<u8>)>>,
    wakers: Mutex<Vec<Waker>>,
}

struct Liar(Arc<Script>);

impl Device for Liar {
    fn id(&self) -> DeviceId {
        DeviceId::SOCKET
    }
    fn features(&self) -> Features {
        VsockF::STREAM | VsockF::SEQPACKET | VsockF::NO_IMPLIED_STREAM
    }
    fn queue_count(&self) -> u16 {
        3
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        // With something in the upper half, which is reserved.
        let config = Config { guest_cid: (GUEST | 7 << 32).into() };
        virtio_kit::device::read_bytes(config.as_bytes(), offset, to);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, Lie(index, self.0.clone()))))
    }
    fn reset(&mut self) {}
    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        *self.0.wakers.lock().unwrap() = wakers;
    }
}

struct Lie(u16, Arc<Script>);

impl Service for Lie {
    fn submit(&mut self, mut chain: Taken) -> Submitted {
        match self.0 {
            RX_QUEUE => {
                let said = self.1.say.lock().unwrap().pop_front().unwrap_or_default();
                chain.write(&said).unwrap();
            }
            TX_QUEUE => {
                let header: Header = chain.read_value().unwrap();
                let mut rest = vec![0; chain.readable_left()];
                chain.read(&mut rest).unwrap();
                assert_eq!(rest.len(), header.len.get() as usize);
                self.1.heard.lock().unwrap().push((header, rest));
            }
            _ => {}
        }
        Submitted::Done(chain)
    }
    fn capacity(&self) -> usize {
        match self.0 {
            RX_QUEUE => self.1.say.lock().unwrap().len(),
            EVENT_QUEUE => 0,
            _ => usize::MAX,
        }
    }
}

/// The driver, and a device that says what it likes.
struct DriverVictim {
    vsock: Vsock,
    streams: Listener,
    packets: Listener,
    script: Arc<Script>,
    _device: VsockDevice,
    _end: virtio_kit::in_process::DeviceEnd,
}

impl DriverVictim {
    fn new(layout: Features) -> Self {
        let script = Arc::<Script>::default();
        let (found, end, _) = join(Liar(script.clone()), layout);
        let options = Options { limits: LIMITS, bytes: 2048, ..Options::default() };
        let (vsock, device) = open(found, &options).unwrap();
        let streams = vsock.listen(Kind::Stream, PORT, 8).unwrap();
        let packets = vsock.listen(Kind::Seqpacket, PORT, 8).unwrap();
        Self { vsock, streams, packets, script, _device: device, _end: end }
    }
}

impl Victim for DriverVictim {
    fn cids(&self) -> (u64, u64) {
        (GUEST, HOST)
    }
    fn say(&mut self, packet: &[u8]) -> bool {
        self.script.say.lock().unwrap().push_back(packet.to_vec());
        let waker = self.script.wakers.lock().unwrap()[usize::from(RX_QUEUE)].clone();
        waker.wake();
        while self.vsock.poll().unwrap() > 0 {}
        true
    }
    fn heard(&mut self) -> Vec<(Header, Vec<u8>)> {
        while self.vsock.poll().unwrap() > 0 {}
        std::mem::take(&mut self.script.heard.lock().unwrap())
    }
    fn counters(&self) -> Counters {
        self.vsock.counters()
    }
    fn connections(&self) -> usize {
        self.vsock.connections()
    }
    fn accept(&mut self, kind: Kind) -> Option<Box<dyn Ended>> {
        let listener = if kind == Kind::Stream { &mut self.streams } else { &mut self.packets };
        listener.accept().map(|socket| Box::new(socket) as _)
    }
    fn connect(&mut self) -> Box<dyn Ended> {
        Box::new(self.vsock.connect_from(Kind::Stream, Some(9), Address::new(HOST, 100)).unwrap())
    }
}

fn victims(layout: Features) -> [Box<dyn Victim>; 2] {
    [Box::new(DeviceVictim::new(layout)), Box::new(DriverVictim::new(layout))]
}

/// A packet from the liar's port 100, as honest as it can be.
fn packet(victim: &dyn Victim, op: Op) -> Header {
    let (victim, liar) = victim.cids();
    Header {
        src_cid: liar.into(),
        dst_cid: victim.into(),
        src_port: 100.into(),
        dst_port: PORT.into(),
        kind: Type::STREAM.0.into(),
        op: op.0.into(),
        buf_alloc: 1000.into(),
        ..Header::default()
    }
}

fn say(victim: &mut dyn Victim, op: Op, change: impl FnOnce(&mut Header), payload: &[u8]) {
    assert!(try_to_say(victim, op, change, payload));
}

fn try_to_say(victim: &mut dyn Victim, op: Op, change: impl FnOnce(&mut Header), payload: &[u8]) -> bool {
    let mut header = packet(victim, op);
    header.len = (payload.len() as u32).into();
    change(&mut header);
    victim.say(&[header.as_bytes(), payload].concat())
}

/// What the victim says, as the operations.
fn ops(victim: &mut dyn Victim) -> Vec<Op> {
    victim.heard().iter().map(|(header, _)| Op(header.op.get())).collect()
}

/// A connection from the liar's port 100.
fn connected(victim: &mut dyn Victim, kind: Kind) -> Box<dyn Ended> {
    let code = if kind == Kind::Stream { Type::STREAM } else { Type::SEQPACKET };
    say(victim, Op::REQUEST, |header| header.kind = code.0.into(), b"");
    assert_eq!(ops(victim), [Op::RESPONSE]);
    victim.accept(kind).unwrap()
}

/// The victim serves somebody who keeps the rules.
#[track_caller]
fn goes_on(victim: &mut dyn Victim) {
    ops(victim);
    let port = |header: &mut Header| header.src_port = 7000.into();
    say(victim, Op::REQUEST, port, b"");
    assert_eq!(ops(victim), [Op::RESPONSE]);
    let mut end = victim.accept(Kind::Stream).unwrap();
    say(victim, Op::RW, port, b"hello");
    let mut got = [0; 9];
    assert_eq!(end.read(&mut got), Ok(Some(5)));
    assert_eq!(end.write(b"there"), Ok(Some(5)));
    let heard = victim.heard();
    assert_eq!(heard.iter().map(|(_, rest)| &rest[..]).collect::<Vec<_>>().concat(), b"there");
    say(victim, Op::RST, port, b"");
    assert_eq!(ops(victim), []);
}

/// A name, what the liar says on an open connection, what it is told, and whether the connection lives.
type Case = (&'static str, fn(&mut dyn Victim), &'static [Op], bool);

const CASES: &[Case] = &[
    (
        "a length beyond the packet",
        |v| say(v, Op::RW, |h| h.len = 11.into(), b"0123456789"),
        &[Op::RST],
        false,
    ),
    ("an enormous length", |v| say(v, Op::RW, |h| h.len = u32::MAX.into(), b"0123456789"), &[Op::RST], false),
    (
        "more than there is credit for",
        |v| (0..3).for_each(|_| say(v, Op::RW, |_| {}, &[1; 1500])),
        &[Op::RST],
        false,
    ),
    (
        "bytes after the end",
        |v| {
            say(v, Op::SHUTDOWN, |h| h.flags = Shutdown::SEND.bits().into(), b"");
            say(v, Op::RW, |_| {}, b"x");
        },
        &[Op::RST],
        false,
    ),
    ("an operation that nobody knows", |v| say(v, Op(99), |_| {}, b""), &[Op::RST], false),
    ("the operation that is not valid", |v| say(v, Op::INVALID, |_| {}, b""), &[Op::RST], false),
    ("an answer to nothing", |v| say(v, Op::RESPONSE, |_| {}, b""), &[Op::RST], false),
    ("a request for what there is", |v| say(v, Op::REQUEST, |_| {}, b""), &[Op::RST], false),
    ("a type that nobody knows", |v| say(v, Op::RW, |h| h.kind = 7.into(), b"x"), &[Op::RST], true),
    ("another type", |v| say(v, Op::RW, |h| h.kind = Type::SEQPACKET.0.into(), b"x"), &[Op::RST], true),
    ("a packet from somebody else", |v| say(v, Op::RW, |h| h.src_port = 101.into(), b"x"), &[Op::RST], true),
    ("a packet for somebody else", |v| say(v, Op::RW, |h| h.dst_port = 6.into(), b"x"), &[Op::RST], true),
    ("a reset of what there is not", |v| say(v, Op::RST, |h| h.dst_port = 6.into(), b""), &[], true),
    ("nothing at all", |v| assert!(v.say(b"")), &[], true),
    ("a header that is too short", |v| assert!(v.say(&[1; 43])), &[], true),
    ("bytes beyond the length", |v| say(v, Op::CREDIT_UPDATE, |h| h.len = 0.into(), b"xxx"), &[], true),
    (
        "every bit of a shutdown",
        |v| say(v, Op::SHUTDOWN, |h| h.flags = u32::MAX.into(), b""),
        &[Op::RST],
        false,
    ),
    ("a shutdown of nothing", |v| say(v, Op::SHUTDOWN, |h| h.flags = 0xfff0.into(), b""), &[], true),
    (
        "a request from no port",
        |v| say(v, Op::REQUEST, |h| h.src_port = u32::MAX.into(), b""),
        &[Op::RST],
        true,
    ),
    ("a question about credit", |v| say(v, Op::CREDIT_REQUEST, |_| {}, b""), &[Op::CREDIT_UPDATE], true),
];

#[test]
fn what_makes_no_sense_ends_a_connection_at_most_and_others_go_on() {
    for layout in layouts() {
        for mut victim in victims(layout) {
            let victim = &mut *victim;
            for (name, lie, answer, lives) in CASES {
                let mut end = connected(victim, Kind::Stream);
                lie(victim);
                assert_eq!(ops(victim), *answer, "{name}, {layout:?}");
                let wrote = end.write(b"x");
                assert_eq!(wrote.is_ok(), *lives, "{name}: {wrote:?}");
                goes_on(victim);
                say(victim, Op::RST, |_| {}, b"");
                drop(end);
                ops(victim);
                assert_eq!(victim.connections(), 0, "{name}");
            }
        }
    }
}

#[test]
fn packets_from_and_to_other_machines_are_thrown_away() {
    let mut victim = DeviceVictim::new(F::EVENT_IDX);
    let mut end = connected(&mut victim, Kind::Stream);
    for cid in [0, 1, 2, 4, GUEST | 1 << 32, u64::MAX] {
        say(&mut victim, Op::RW, |header| header.src_cid = cid.into(), b"x");
        say(&mut victim, Op::RST, |header| header.src_cid = cid.into(), b"");
    }
    assert_eq!((ops(&mut victim), end.read(&mut [0])), (vec![], Ok(None)));
    assert_eq!(victim.counters().ignored, 12);
    let mut victim = DriverVictim::new(F::EVENT_IDX);
    let mut end = connected(&mut victim, Kind::Stream);
    for cid in [0, 1, 2, 4, GUEST | 1 << 32, u64::MAX] {
        say(&mut victim, Op::RW, |header| header.dst_cid = cid.into(), b"x");
    }
    assert_eq!((ops(&mut victim), end.read(&mut [0])), (vec![], Ok(None)));
    assert_eq!((victim.counters().ignored, victim.vsock.cid()), (6, GUEST));
}

#[test]
fn credit_that_goes_back_or_wraps_lets_nothing_through() {
    for layout in layouts() {
        for mut victim in victims(layout) {
            let victim = &mut *victim;
            let mut end = connected(victim, Kind::Stream);
            let sent = |victim: &mut dyn Victim| {
                victim.heard().iter().map(|(header, _)| header.len.get()).sum::<u32>()
            };
            assert_eq!(end.write(&[1; 4000]), Ok(Some(4000)));
            assert_eq!(sent(victim), 1000, "as far as the credit goes");
            // It has received what was never sent; it has un-received what it had.
            for forwarded in [1001, u32::MAX, 1 << 31, 5000] {
                say(
                    victim,
                    Op::CREDIT_UPDATE,
                    |header| {
                        (header.fwd_cnt, header.buf_alloc) = (forwarded.into(), u32::MAX.into());
                    },
                    b"",
                );
                assert_eq!(sent(victim), 0, "{forwarded}");
            }
            say(victim, Op::CREDIT_UPDATE, |header| header.fwd_cnt = 600.into(), b"");
            assert_eq!(sent(victim), 600);
            say(victim, Op::CREDIT_UPDATE, |header| header.fwd_cnt = 599.into(), b"");
            assert_eq!(sent(victim), 0);
            // A smaller buffer, and none.
            say(
                victim,
                Op::CREDIT_UPDATE,
                |header| {
                    (header.fwd_cnt, header.buf_alloc) = (1600.into(), 10.into());
                },
                b"",
            );
            assert_eq!(sent(victim), 10);
            say(
                victim,
                Op::CREDIT_UPDATE,
                |header| {
                    (header.fwd_cnt, header.buf_alloc) = (1610.into(), 0.into());
                },
                b"",
            );
            assert_eq!(sent(victim), 0);
            // As much as there is, and no more.
            say(
                victim,
                Op::CREDIT_UPDATE,
                |header| {
                    (header.fwd_cnt, header.buf_alloc) = (1610.into(), u32::MAX.into());
                },
                b"",
            );
            assert_eq!(sent(victim), 4000 - 1610);
            goes_on(victim);
        }
    }
}

#[test]
fn who_wants_credit_asks_once_and_answers_are_not_questions() {
    for mut victim in victims(F::RING_PACKED) {
        let victim = &mut *victim;
        let mut end = connected(victim, Kind::Stream);
        assert_eq!(end.write(&[1; 1000]), Ok(Some(1000)));
        assert_eq!(ops(victim), [Op::RW]);
        assert_eq!(end.write(&[1; 1000]), Ok(Some(1000)));
        assert_eq!(ops(victim), [Op::CREDIT_REQUEST]);
        for _ in 0..100 {
            say(victim, Op::CREDIT_UPDATE, |_| {}, b"");
            assert_eq!(ops(victim), [], "there is none, and it need not be said again");
        }
    }
}

#[test]
fn a_flood_of_requests_and_of_packets_for_nobody_is_bounded() {
    for layout in layouts() {
        for mut victim in victims(layout) {
            let victim = &mut *victim;
            let mut ends = vec![];
            for port in 0..3000 {
                say(victim, Op::REQUEST, |header| header.src_port = (10_000 + port).into(), b"");
                let heard = ops(victim);
                assert_eq!(heard, [if port < 8 { Op::RESPONSE } else { Op::RST }], "{port}");
                assert!(victim.connections() <= LIMITS.connections);
                ends.extend(
                    (port == 7)
                        .then(|| (0..8).map(|_| victim.accept(Kind::Stream).unwrap()).collect::<Vec<_>>()),
                );
                if port == 7 {
                    // Taken, and yet there.
                    for extra in 0..8 {
                        say(victim, Op::REQUEST, |header| header.src_port = (20_000 + extra).into(), b"");
                        assert_eq!(ops(victim), [Op::RESPONSE]);
                    }
                    assert_eq!(victim.connections(), LIMITS.connections);
                }
            }
            // A liar that never listens: answers are not kept for ever, nor are they lost while somebody listens. A
            // device takes no more until its driver has room, and a driver lets them go.
            let mut said = 0;
            while said < 3000
                && try_to_say(victim, Op::RW, |header| header.dst_port = 99.into(), b"for nobody")
            {
                said += 1;
            }
            let is_device = victim.cids().0 == HOST;
            assert_eq!(said < 100, is_device, "{said}");
            let heard = ops(victim);
            assert!(heard.iter().all(|op| *op == Op::RST));
            assert!(!is_device || heard.len() == said, "{} of {said}", heard.len());
            drop(ends);
            for port in (10_000..10_008).chain(20_000..20_008) {
                say(victim, Op::RST, |header| header.src_port = port.into(), b"");
            }
            while victim.accept(Kind::Stream).is_some() {}
            goes_on(victim);
        }
    }
}

#[test]
fn messages_that_are_empty_or_never_end_take_no_memory() {
    for mut victim in victims(F::IN_ORDER) {
        let victim = &mut *victim;
        let mut end = connected(victim, Kind::Seqpacket);
        let seqpacket = |flags: Seq| {
            move |header: &mut Header| {
                (header.kind, header.flags) = (Type::SEQPACKET.0.into(), flags.bits().into());
            }
        };
        for _ in 0..10_000 {
            say(victim, Op::RW, seqpacket(Seq::EOM), b"");
        }
        let mut got = [0; 9];
        assert_eq!(end.receive(&mut got), Ok(None));
        // As many messages as there are bytes.
        for _ in 0..4096 {
            say(victim, Op::RW, seqpacket(Seq::EOM | Seq::EOR), b"m");
        }
        for _ in 0..4096 {
            assert_eq!(end.receive(&mut got), Ok(Some(Message { len: 1, ends_record: true })));
        }
        assert_eq!(end.receive(&mut got), Ok(None));
        ops(victim);
        for _ in 0..4 {
            say(victim, Op::RW, seqpacket(Seq::empty()), &[1; 1024]);
        }
        assert_eq!(end.receive(&mut got), Err(Error::Broken));
        assert_eq!(ops(victim), [Op::RST]);
        goes_on(victim);
    }
}

#[test]
fn an_answer_that_comes_late_or_wrongly_opens_nothing() {
    for mut victim in victims(F::EVENT_IDX) {
        let victim = &mut *victim;
        for (op, payload) in
            [(Op::RW, &b"early"[..]), (Op::SHUTDOWN, b""), (Op::REQUEST, b""), (Op::CREDIT_UPDATE, b"")]
        {
            let mut end = victim.connect();
            assert_eq!(ops(victim), [Op::REQUEST]);
            say(victim, op, |header| header.dst_port = 9.into(), payload);
            assert_eq!(ops(victim), [Op::RST], "{op:?}");
            assert_eq!(end.read(&mut [0]), Err(Error::Broken));
            say(victim, Op::RESPONSE, |header| header.dst_port = 9.into(), b"");
            assert_eq!(ops(victim), [Op::RST], "too late");
        }
        let mut end = victim.connect();
        assert_eq!(ops(victim), [Op::REQUEST]);
        say(victim, Op::RST, |header| header.dst_port = 9.into(), b"");
        assert_eq!(end.write(b"x"), Err(Error::Refused));
        assert_eq!(victim.connections(), 0);
        goes_on(victim);
    }
}

#[test]
fn packets_without_any_sense_are_survived() {
    let seeds = std::env::var("VKIT_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        for (index, layout) in layouts().enumerate() {
            for mut victim in victims(layout) {
                let victim = &mut *victim;
                let mut rng = Rng::new(seed * 16 + index as u64);
                let mut ends: Vec<Box<dyn Ended>> = vec![];
                for _ in 0..1500 {
                    let mut header = packet(victim, Op(rng.below(9) as u16));
                    header.src_port = (100 + rng.below(4) as u32).into();
                    header.kind = (rng.below(4) as u16).into();
                    header.flags = (rng.below(5) as u32).into();
                    header.buf_alloc = [0, 1, 1000, 70_000, u32::MAX][rng.below(5)].into();
                    header.fwd_cnt = [0, rng.below(3000) as u32, u32::MAX][rng.below(3)].into();
                    let payload = vec![7; rng.below(1200)];
                    header.len = [payload.len() as u32, payload.len() as u32, 0, rng.bits() as u32]
                        [rng.below(4)]
                    .into();
                    if rng.one_in(20) {
                        header.dst_port = (rng.bits() as u32).into();
                    }
                    if rng.one_in(50) {
                        header.dst_cid = rng.bits().into();
                    }
                    victim.say(&[header.as_bytes(), &payload].concat());
                    if rng.one_in(3) {
                        victim.heard();
                    }
                    ends.extend(victim.accept(Kind::Stream));
                    ends.extend(victim.accept(Kind::Seqpacket));
                    let mut buffer = [0; 700];
                    if !ends.is_empty() {
                        let at = rng.below(ends.len());
                        match rng.below(5) {
                            0 => drop(ends.swap_remove(at)),
                            1 => drop(ends[at].write(&buffer)),
                            2 => drop(ends[at].read(&mut buffer)),
                            _ => drop(ends[at].receive(&mut buffer)),
                        }
                    }
                    assert!(victim.connections() <= LIMITS.connections, "seed {seed}");
                }
                ends.clear();
                victim.heard();
                for (port, kind) in
                    (100..104).flat_map(|port| [(port, Type::STREAM), (port, Type::SEQPACKET)])
                {
                    say(
                        victim,
                        Op::RST,
                        |header| (header.src_port, header.kind) = (u32::into(port), kind.0.into()),
                        b"",
                    );
                }
                while victim.accept(Kind::Stream).is_some() || victim.accept(Kind::Seqpacket).is_some() {}
                goes_on(victim);
            }
        }
    }
}
