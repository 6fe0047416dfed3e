//! The server is killed under load, again and again: no acknowledged write is lost, every request completes once, and
//! nothing that is done again lands on top of what was written later.
//!
//! Every sector that is written carries its number and a stamp that only grows. A sector is never written twice at
//! the same time, so what was acknowledged last is what must be there.

mod common;

use common::Folder;
use common::kill::{Victim, in_flight, qemu};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};
use virtio_kit::driver::Found;
use virtio_kit::pci::Address;
use virtio_kit::{DeviceId, DmaBuf, F, Features};
use virtio_kit_drivers::blk::{self, BlkQueue, Kind, SubmitErrorKind};
use virtio_kit_linux::qtest::{self, Machine};
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures as P;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

const LIMIT: Duration = Duration::from_secs(60);
const SECTOR: usize = 512;
/// Sectors that one queue writes to: few, so that each is written many times.
const SPAN: u64 = 512;
const DEPTH: usize = 24;

type Queue = BlkQueue<Vec<DmaBuf>, u64>;

/// What all threads know.
#[derive(Default)]
struct Load {
    end: AtomicBool,
    completed: AtomicU64,
}

/// A small generator, so that runs can be repeated.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn stamp(sector: u64, stamp: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for chunk in bytes.chunks_exact_mut(16) {
        chunk[..8].copy_from_slice(&sector.to_le_bytes());
        chunk[8..].copy_from_slice(&stamp.to_le_bytes());
    }
    bytes
}

/// A request in flight: what it writes, if it writes.
struct Flight {
    first: u64,
    count: u64,
    stamp: Option<u64>,
}

/// One queue's load, until it is told to end: what was acknowledged last for each of its sectors.
fn work(mut queue: Queue, index: u64, load: &Load, seed: u64) -> Vec<u64> {
    let base = index * SPAN;
    let mut rng = Rng(seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut acknowledged = vec![0; SPAN as usize];
    let mut busy = vec![false; SPAN as usize];
    let mut flights: HashMap<u64, Flight> = HashMap::new();
    let (mut next, mut deadline) = (1, Instant::now() + LIMIT);
    loop {
        let ends = load.end.load(Acquire);
        if ends && flights.is_empty() {
            return acknowledged;
        }
        while !ends && flights.len() < DEPTH {
            let count = 1 + rng.below(12);
            let first = rng.below(SPAN - count);
            let range = first as usize..(first + count) as usize;
            if busy[range.clone()].iter().any(|&b| b) {
                continue;
            }
            let writes = rng.below(4) != 0;
            // Not always at the start of a page, and not always in one piece.
            let cut = if count > 1 && rng.below(2) == 0 { 1 + rng.below(count - 1) } else { count };
            let pieces = [cut, count - cut].into_iter().filter(|&n| n > 0);
            let mut data: Vec<DmaBuf> = Vec::new();
            let mut at = first;
            for piece in pieces {
                let mut buffer = queue.arena().alloc(piece as usize * SECTOR).unwrap();
                for i in 0..piece {
                    let content = if writes { stamp(base + at, next) } else { [0xee; SECTOR] };
                    buffer.write(i as usize * SECTOR, &content).unwrap();
                    at += 1;
                }
                data.push(buffer);
            }
            let begun = if writes {
                queue.write(base + first, data, next)
            } else {
                queue.read(base + first, data, next)
            };
            match begun {
                Ok(()) => {}
                Err(error) if error.kind == SubmitErrorKind::Full => break,
                Err(error) => panic!("queue {index}: {error:?}"),
            }
            busy[range].fill(true);
            flights.insert(next, Flight { first, count, stamp: writes.then_some(next) });
            next += 1;
        }
        queue.kick().unwrap();
        while let Some(done) = queue.complete().unwrap() {
            deadline = Instant::now() + LIMIT;
            let flight = flights.remove(&done.token).expect("a request that is in flight, once");
            assert_eq!(done.result, Ok(()), "queue {index} request {}", done.token);
            let range = flight.first as usize..(flight.first + flight.count) as usize;
            busy[range.clone()].fill(false);
            match flight.stamp {
                Some(stamp) => {
                    assert_eq!(done.kind, Kind::Write);
                    acknowledged[range].fill(stamp);
                }
                None => {
                    let mut bytes = Vec::new();
                    for buffer in done.data.unwrap() {
                        let mut piece = vec![0; buffer.len()];
                        buffer.read(0, &mut piece).unwrap();
                        bytes.extend(piece);
                    }
                    for (at, found) in range.zip(bytes.chunks_exact(SECTOR)) {
                        check(base + at as u64, acknowledged[at], found);
                    }
                }
            }
            load.completed.fetch_add(1, Relaxed);
        }
        if !flights.is_empty() {
            assert!(Instant::now() < deadline, "queue {index}: {} requests never completed", flights.len());
            queue.wait(LIMIT).unwrap();
        }
    }
}

#[track_caller]
fn check(sector: u64, acknowledged: u64, found: &[u8]) {
    let expected = if acknowledged == 0 { [0; SECTOR] } else { stamp(sector, acknowledged) };
    let word = |at: usize| u64::from_le_bytes(found[at..at + 8].try_into().unwrap());
    assert!(
        found == expected,
        "sector {sector}: write {acknowledged} was acknowledged last, and sector {} of write {} is there",
        word(0),
        word(8)
    );
}

/// The front-end, and the driver on it.
enum Via {
    Own,
    Qemu(Machine),
}

impl Via {
    /// What is opened, with the process that holds the record.
    fn open(&self, socket: &str, rings: Features, queues: u64) -> (Found, String) {
        match self {
            Self::Own => {
                let options = Options {
                    arena_len: 16 << 20,
                    timeout: LIMIT,
                    reconnect: Some(LIMIT),
                    queue_size: 128,
                    features: !(F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC) | rings,
                    ..Options::new(DeviceId::BLOCK)
                };
                let front = FrontEnd::connect(socket, options).unwrap();
                assert!(front.protocol_features().contains(P::INFLIGHT_SHMFD));
                assert_eq!(u64::from(front.queue_count()), queues);
                (Found::new(Box::new(front)), "self".into())
            }
            Self::Qemu(machine) => {
                let transport = machine.transport_at(Address::new(0, 4, 0)).unwrap();
                (Found::new(Box::new(transport)), qemu(socket))
            }
        }
    }

    fn qemu(socket: &str, rings: Features, queues: u64) -> Self {
        let has = |feature| if rings.contains(feature) { "on" } else { "off" };
        let device = format!(
            "vhost-user-blk-pci,chardev=c,addr=4,num-queues={queues},queue-size=128,packed={},event_idx={},\
             indirect_desc={}",
            has(F::RING_PACKED),
            has(F::EVENT_IDX),
            has(F::INDIRECT_DESC)
        );
        let options = qtest::Options::default()
            .argument("-chardev")
            .argument(format!("socket,id=c,path={socket},reconnect-ms=5"))
            .virtio(&device);
        Self::Qemu(Machine::start(&options).unwrap_or_else(|error| panic!("{error}: run ./ci.sh")))
    }
}

/// What is killed, how often, and under what.
#[derive(Clone, Copy, Debug)]
struct Case {
    qemu: bool,
    rings: Features,
    queues: u64,
    direct: bool,
    qcow2: bool,
}

/// A short wait, for what happens in between.
fn moment(rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.below(300))
}

fn kill_under_load(case: Case, kills: usize) {
    let Case { qemu, rings, queues, direct, qcow2 } = case;
    let folder = Folder::new();
    let (socket, image) = (folder.at("s"), folder.empty("disk", 4 << 20));
    let seed = std::env::var("VKIT_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    let context = format!("{case:?}, VKIT_SEED={seed}");
    println!("{context}");
    let mut args: Vec<String> = ["blk", "--socket", &socket, "--image", &image].map(Into::into).into();
    args.extend(["--queues".into(), queues.to_string()]);
    args.extend(direct.then(|| "--direct".into()));
    if qcow2 {
        qemu_img(&["create", "-q", "-f", "qcow2", &image, "4M"]);
        args.extend(["--format", "qcow2"].map(Into::into));
    }
    let mut server = Victim::start(&args);
    let via = if qemu { Via::qemu(&socket, rings, queues) } else { Via::Own };
    let (found, process) = via.open(&socket, rings, queues);
    let of_blk = blk::Options { queues: queues as u16, ..blk::Options::default() };
    let (opened, device) = blk::open(found, &of_blk).unwrap();
    let load = Load::default();
    let (mut loaded, mut handshakes) = (0, 0);
    let acknowledged: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = opened
            .queues
            .into_iter()
            .zip(0..)
            .map(|(queue, index)| {
                let load = &load;
                scope.spawn(move || work(queue, index, load, seed))
            })
            .collect();
        let mut rng = Rng(seed);
        for kill in 0..kills {
            // Now early, now late.
            let until = load.completed.load(Relaxed) + 1 + rng.below(if kill % 3 == 0 { 8 } else { 600 });
            let deadline = Instant::now() + LIMIT;
            while load.completed.load(Relaxed) < until {
                assert!(Instant::now() < deadline, "kill {kill}: nothing completes; {context}");
                assert!(!workers.iter().any(|worker| worker.is_finished()), "a queue failed; {context}");
                std::thread::yield_now();
            }
            let packed = rings.contains(F::RING_PACKED);
            let busy = || in_flight(&process, packed, queues, 128) > 0;
            server.hold_when(busy, || load.completed.load(Relaxed));
            server.kill();
            loaded += usize::from(busy());
            // And its successor before it has begun.
            if kill % 5 == 4 {
                let killed_early = Victim::start(&args).kill_in_handshake(moment(&mut rng));
                handshakes += usize::from(killed_early);
            }
            server = Victim::start(&args);
        }
        load.end.store(true, Release);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    println!(
        "{kills} kills, {loaded} with requests in flight, {handshakes} more in the handshake, {} requests",
        load.completed.load(Relaxed)
    );
    drop(device);
    server.kill();
    let image = if qcow2 {
        // What is not used any more may be left behind by a kill, but nothing may be wrong.
        let checked = qemu_img(&["check", "-q", &image]);
        assert!([Some(0), Some(3)].contains(&checked), "qemu-img check: {checked:?}");
        let raw = folder.at("raw");
        assert_eq!(qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &image, &raw]), Some(0));
        raw
    } else {
        image
    };
    let disk = File::open(&image).unwrap();
    for (index, stamps) in acknowledged.iter().enumerate() {
        for (at, &stamp) in stamps.iter().enumerate() {
            let sector = index as u64 * SPAN + at as u64;
            let mut found = [0; SECTOR];
            disk.read_exact_at(&mut found, sector * SECTOR as u64).unwrap();
            check(sector, stamp, &found);
        }
    }
    assert!(loaded >= kills * 4 / 5, "only {loaded} of {kills} kills hit requests in flight; {context}");
    let enough = kills / 10;
    assert!(handshakes >= enough, "only {handshakes} of {enough} kills hit the handshake; {context}");
}

fn qemu_img(args: &[&str]) -> Option<i32> {
    let ran = Command::new("qemu-img").args(args).status();
    ran.expect("qemu-img is needed: ci/install-qemu.sh installs it").code()
}

/// How often each is killed: a full test in the long run.
fn kills() -> usize {
    std::env::var("VKIT_KILLS").map_or(8, |kills| kills.parse().unwrap())
}

#[test]
fn a_killed_server_of_split_rings_loses_nothing_and_does_nothing_twice() {
    for (queues, direct) in [(1, false), (1, true), (4, false), (4, true)] {
        let rings = F::EVENT_IDX | F::INDIRECT_DESC;
        kill_under_load(Case { qemu: false, rings, queues, direct, qcow2: false }, kills());
    }
}

#[test]
fn a_killed_server_of_packed_rings_loses_nothing_and_does_nothing_twice() {
    for (queues, direct) in [(1, false), (1, true), (4, false), (4, true)] {
        let rings = F::RING_PACKED | F::EVENT_IDX;
        kill_under_load(Case { qemu: false, rings, queues, direct, qcow2: false }, kills());
    }
}

#[test]
fn a_killed_server_of_rings_in_order_loses_nothing_and_does_nothing_twice() {
    for rings in [F::IN_ORDER, F::IN_ORDER | F::RING_PACKED, F::IN_ORDER | F::RING_PACKED | F::INDIRECT_DESC]
    {
        kill_under_load(Case { qemu: false, rings, queues: 1, direct: false, qcow2: false }, kills());
    }
}

#[test]
fn a_killed_server_under_qemu_loses_nothing_and_does_nothing_twice() {
    for rings in [F::EVENT_IDX | F::INDIRECT_DESC, F::RING_PACKED | F::EVENT_IDX] {
        for (queues, direct) in [(1, false), (1, true), (4, false), (4, true)] {
            kill_under_load(Case { qemu: true, rings, queues, direct, qcow2: false }, kills());
        }
    }
}

#[test]
fn a_killed_server_of_a_qcow2_image_loses_nothing_and_does_nothing_twice() {
    for (rings, queues) in [(F::EVENT_IDX | F::INDIRECT_DESC, 1), (F::RING_PACKED | F::EVENT_IDX, 4)] {
        kill_under_load(Case { qemu: false, rings, queues, direct: false, qcow2: true }, kills());
    }
}
