//! Many connections between guests and their host in an order of steps that comes from a seed: each byte that is read
//! must be the one that was written there, each message whole, and each end where it was written.

mod common;

use common::{join, layouts};
use std::sync::Arc;
use virtio_kit::Features;
use virtio_kit::vsock::{Address, End, Error, Kind, Limits, Message};
use virtio_kit_devices::vsock::{Hub, Listener as HostListener, Listeners};
use virtio_kit_drivers::vsock::{Listener, Options, Socket, SocketError, Vsock, VsockDevice, open};
use virtio_kit_testkit::Rng;

const HOST: u64 = 2;
const PORT: u32 = 5;

/// An end of a connection, wherever it is.
enum Any {
    Guest(Box<Socket>),
    Host(Box<End>),
}

fn connection(error: SocketError) -> Error {
    match error {
        SocketError::Connection(error) => error,
        other => panic!("{other}"),
    }
}

impl Any {
    /// Two addresses: who asked, and who was asked.
    fn addresses(&self, asked: bool) -> (Address, Address) {
        let (near, far) = match self {
            Self::Guest(socket) => (socket.near(), socket.far()),
            Self::Host(end) => (end.near(), end.far()),
        };
        if asked { (far, near) } else { (near, far) }
    }

    fn is_open(&self) -> Result<bool, Error> {
        match self {
            Self::Guest(socket) => socket.is_open().map_err(connection),
            Self::Host(end) => end.is_open(),
        }
    }

    fn write(&mut self, kind: Kind, from: &[u8]) -> Result<usize, Error> {
        let whole = |sent| if sent { from.len() } else { 0 };
        match (self, kind) {
            (Self::Guest(socket), Kind::Stream) => {
                socket.write(from).map(|len| len.unwrap_or(0)).map_err(connection)
            }
            (Self::Host(end), Kind::Stream) => end.writer().write(from).map(|len| len.unwrap_or(0)),
            (Self::Guest(socket), Kind::Seqpacket) => socket.send(from, false).map(whole).map_err(connection),
            (Self::Host(end), Kind::Seqpacket) => end.writer().send(from, false).map(whole),
        }
    }

    /// How many bytes; 0 at the end.
    fn read(&mut self, kind: Kind, to: &mut [u8]) -> Result<Option<usize>, Error> {
        let len = |message: Option<Message>| message.map(|message| message.len);
        match (self, kind) {
            (Self::Guest(socket), Kind::Stream) => socket.read(to).map_err(connection),
            (Self::Host(end), Kind::Stream) => end.reader().read(to),
            (Self::Guest(socket), Kind::Seqpacket) => socket.receive(to).map(len).map_err(connection),
            (Self::Host(end), Kind::Seqpacket) => end.reader().receive(to).map(len),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Guest(socket) => socket.writer().shutdown(),
            Self::Host(end) => end.writer().close(),
        }
    }

    fn abort(self) {
        match self {
            Self::Guest(socket) => socket.abort(),
            Self::Host(end) => end.abort(),
        }
    }
}

/// One direction: how far it has come, and where it ends if it has.
#[derive(Clone, Copy, Default)]
struct Way {
    written: usize,
    read: usize,
    finished: bool,
    ended: bool,
}

/// A connection, with what must come of it.
struct Pair {
    kind: Kind,
    seed: usize,
    addresses: (Address, Address),
    /// Who asked, and who was asked, once both are known. `None` for an end that is gone.
    ends: [Option<Any>; 2],
    ways: [Way; 2],
    aborted: bool,
}

fn byte_at(seed: usize, at: usize) -> u8 {
    (at * 31 + at / 251 + seed * 7) as u8
}

/// How long the message is that begins here.
fn message_at(seed: usize, at: usize) -> usize {
    1 + (at * 7 + seed * 13) % 3000
}

struct Guest {
    vsock: Vsock,
    _device: VsockDevice,
    listeners: [Listener; 2],
    host: [HostListener; 2],
    handle: virtio_kit_devices::vsock::Handle,
    _end: virtio_kit::in_process::DeviceEnd,
}

const KINDS: [Kind; 2] = [Kind::Stream, Kind::Seqpacket];

fn guest(hub: &Hub, cid: u64, ring: Features, rng: &mut Rng) -> Guest {
    let limits = |rng: &mut Rng| Limits { connections: 64, buffer: 4096 << rng.below(4), refusals: 4 };
    let host = Listeners::new();
    let device = hub.device(cid, limits(rng), Arc::new(host.clone())).unwrap();
    let handle = device.handle();
    let (found, end, _) = join(device, ring);
    let options = Options {
        buffers: 1 + rng.below(20) as u16,
        bytes: 64 << rng.below(7),
        limits: limits(rng),
        ..Options::default()
    };
    let (vsock, device) = open(found, &options).unwrap();
    let listeners = KINDS.map(|kind| vsock.listen(kind, PORT, 64).unwrap());
    let host = KINDS.map(|kind| host.listen(kind, PORT, 64).unwrap());
    Guest { vsock, _device: device, listeners, host, handle, _end: end }
}

struct Scene {
    rng: Rng,
    guests: Vec<Guest>,
    pairs: Vec<Pair>,
    made: usize,
    verified: usize,
    refused: usize,
}

impl Scene {
    fn new(seed: u64, ring: Features) -> Self {
        let (mut rng, hub) = (Rng::new(seed), Hub::new());
        let guests = (3..6).map(|cid| guest(&hub, cid, ring, &mut rng)).collect();
        Self { rng, guests, pairs: vec![], made: 0, verified: 0, refused: 0 }
    }

    fn connect(&mut self) {
        let kind = KINDS[self.rng.below(2)];
        let guest = self.rng.below(3);
        let asker = match self.rng.below(3) {
            0 => self.guests[guest].handle.connect(kind, None, PORT).map(|end| Any::Host(Box::new(end))),
            one => {
                let other = (guest + one) % 3;
                let to = if one == 1 { HOST } else { other as u64 + 3 };
                let socket = self.guests[guest].vsock.connect(kind, Address::new(to, PORT));
                socket.map(|socket| Any::Guest(Box::new(socket))).map_err(connection)
            }
        };
        match asker {
            Ok(asker) => {
                let addresses = asker.addresses(false);
                let ends = [Some(asker), None];
                self.pairs.push(Pair {
                    kind,
                    seed: self.made,
                    addresses,
                    ends,
                    ways: Default::default(),
                    aborted: false,
                });
                self.made += 1;
            }
            Err(error) => {
                assert_eq!(error, Error::Refused);
                self.refused += 1;
            }
        }
    }

    /// Takes whom somebody has asked for.
    fn accept(&mut self) {
        for guest in &mut self.guests {
            for (number, kind) in KINDS.into_iter().enumerate() {
                let at_guest = guest.listeners[number].accept().map(|socket| Any::Guest(Box::new(socket)));
                let at_host = guest.host[number].accept().map(|end| Any::Host(Box::new(end)));
                for end in at_guest.into_iter().chain(at_host) {
                    let addresses = end.addresses(true);
                    let same = |pair: &&mut Pair| {
                        pair.kind == kind && pair.addresses == addresses && pair.ends[1].is_none()
                    };
                    match self.pairs.iter_mut().rev().find(same) {
                        // Whoever asked may have gone already.
                        Some(pair) if pair.ways[1].finished => {}
                        Some(pair) => pair.ends[1] = Some(end),
                        None => {}
                    }
                }
            }
        }
    }

    fn poll(&mut self) {
        let at = self.rng.below(3);
        self.guests[at].vsock.poll().unwrap();
    }

    /// Something happens at one end of one connection.
    fn step(&mut self) {
        if self.pairs.is_empty() {
            return;
        }
        let at = self.rng.below(self.pairs.len());
        let what = self.rng.below(100);
        let side = self.rng.below(2);
        let most = self.rng.within(1, 9000);
        let pair = &mut self.pairs[at];
        let both = pair.ends[1].is_some();
        let Some(end) = &mut pair.ends[side] else { return };
        match end.is_open() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                if error == Error::Refused {
                    self.refused += 1;
                    pair.aborted = true;
                }
                assert!(pair.aborted, "connection {}: {error}", pair.seed);
                pair.ends[side] = None;
                return;
            }
        }
        match what {
            0 => {
                pair.aborted = true;
                pair.ends[side].take().unwrap().abort();
            }
            1 | 2 if both => {
                end.finish();
                pair.ways[side].finished = true;
            }
            3..50 => self.write(at, side, most),
            _ => self.read(at, side, most),
        }
    }

    fn write(&mut self, at: usize, side: usize, most: usize) {
        let pair = &mut self.pairs[at];
        let way = &mut pair.ways[side];
        let Some(end) = &mut pair.ends[side] else { return };
        let len = if pair.kind == Kind::Stream { most } else { message_at(pair.seed + side, way.written) };
        let bytes: Vec<u8> =
            (way.written..way.written + len).map(|at| byte_at(pair.seed + side, at)).collect();
        match end.write(pair.kind, &bytes) {
            Ok(len) => way.written += len,
            Err(Error::Closed) if way.finished || pair.ends[1 - side].is_none() => {}
            Err(Error::Reset) if pair.aborted => {}
            Err(error) => panic!("connection {}, {side}: {error}", pair.seed),
        }
    }

    fn read(&mut self, at: usize, side: usize, most: usize) {
        let pair = &mut self.pairs[at];
        let way = &mut pair.ways[1 - side];
        let Some(end) = &mut pair.ends[side] else { return };
        let mut bytes = vec![0; if pair.kind == Kind::Stream { most } else { 5000 }];
        match end.read(pair.kind, &mut bytes) {
            Ok(None) => {}
            Ok(Some(0)) => {
                assert!(way.finished, "connection {} ended by itself", pair.seed);
                assert!(
                    way.read == way.written || pair.aborted,
                    "connection {} lost its last bytes",
                    pair.seed
                );
                way.ended = true;
            }
            Ok(Some(len)) => {
                assert!(!way.ended, "something after the end");
                if pair.kind == Kind::Seqpacket {
                    assert_eq!(len, message_at(pair.seed + 1 - side, way.read), "connection {}", pair.seed);
                }
                let good = bytes[..len]
                    .iter()
                    .enumerate()
                    .all(|(i, &byte)| byte == byte_at(pair.seed + 1 - side, way.read + i));
                assert!(good, "connection {}: wrong bytes after {}", pair.seed, way.read);
                way.read += len;
                self.verified += len;
            }
            Err(Error::Reset | Error::Aborted) if pair.aborted => pair.ends[side] = None,
            Err(error) => panic!("connection {}, {side}: {error}", pair.seed),
        }
    }

    /// Everything that was begun comes to its end.
    fn finish(&mut self) {
        for pair in &mut self.pairs {
            for (side, end) in pair.ends.iter_mut().enumerate() {
                if let Some(end) = end {
                    end.finish();
                    pair.ways[side].finished = true;
                }
            }
        }
        for _ in 0..2000 {
            self.accept();
            for pair in &mut self.pairs {
                // Those that were accepted only now.
                if let (Some(end), false) = (&mut pair.ends[1], pair.ways[1].finished) {
                    end.finish();
                    pair.ways[1].finished = true;
                }
            }
            for at in 0..self.pairs.len() {
                for side in 0..2 {
                    self.read(at, side, 9000);
                }
            }
            self.guests.iter().for_each(|guest| while guest.vsock.poll().unwrap() > 0 {});
            // Over: both directions have ended where they were finished.
            self.pairs.retain_mut(|pair| {
                for side in 0..2 {
                    let failed = pair.ends[side].as_ref().is_some_and(|end| end.is_open().is_err());
                    if failed {
                        pair.aborted = true;
                        pair.ends[side] = None;
                    }
                }
                let ended = pair.ways.iter().all(|way| way.ended) || pair.ends.iter().all(Option::is_none);
                let one_sided = pair.aborted || (pair.ends[1].is_none() && pair.ways[1].finished);
                !(ended || one_sided && pair.ends.iter().flatten().count() == 0)
            });
            if self.pairs.is_empty() {
                break;
            }
        }
        let left: Vec<_> = self
            .pairs
            .iter()
            .map(|pair| {
                (
                    pair.seed,
                    pair.kind,
                    pair.aborted,
                    pair.ways.map(|way| (way.written, way.read, way.finished, way.ended)),
                )
            })
            .collect();
        assert!(left.iter().all(|(_, _, aborted, _)| *aborted), "{left:?}");
        self.pairs.clear();
        for _ in 0..20 {
            self.guests.iter().for_each(|guest| while guest.vsock.poll().unwrap() > 0 {});
        }
        for guest in &self.guests {
            assert_eq!((guest.vsock.connections(), guest.handle.connections()), (0, 0));
            let counters = [guest.vsock.counters(), guest.handle.counters()];
            assert_eq!(counters.map(|seen| (seen.ignored, seen.broken)), [(0, 0), (0, 0)]);
        }
    }
}

#[test]
fn many_connections_carry_what_was_written_in_every_layout_and_order_of_steps() {
    let seeds = std::env::var("VKIT_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let (mut made, mut verified) = (0, 0);
    for seed in 0..seeds {
        for (index, layout) in layouts().enumerate() {
            let run = std::panic::catch_unwind(|| {
                let mut scene = Scene::new(seed * 16 + index as u64, layout);
                for _ in 0..3000 {
                    match scene.rng.below(10) {
                        0 if scene.rng.one_in(4) => scene.connect(),
                        0 | 1 => scene.accept(),
                        2..5 => scene.poll(),
                        _ => scene.step(),
                    }
                }
                scene.finish();
                assert!(scene.verified > 100_000, "only {} bytes", scene.verified);
                (scene.made, scene.verified)
            });
            let (connections, bytes) = run.unwrap_or_else(|_| panic!("seed {seed}, {layout:?}"));
            (made, verified) = (made + connections, verified + bytes);
        }
    }
    println!("{made} connections, {verified} bytes verified");
}
