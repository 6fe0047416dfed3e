//! Front-ends that do not keep the rules, by their messages, their memory and their rings. Whatever one does, the next
//! is served.

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use common::client::{AVAIL, Client, DATA, DESC, QUEUE, SIZE, USED, USER, addr};
use common::served::{Image, back_end, exercise, open, options};
use common::{LONG, TempDir};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtio_kit_linux::mapping;
use virtio_kit_linux::vhost_user::back_end::{Listener, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::codec::{
    F_PROTOCOL_FEATURES, Inflight, MemoryRegion, ProtocolFeatures as P, Request, SharedRegion, VringFd,
    VringState,
};
use virtio_kit_linux::vhost_user::front_end::FrontEnd;
use virtio_kit_spec::{F, Features};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAILABLE: u16 = 1 << 7;

struct Server {
    runner: Option<Runner>,
    image: Image,
    path: PathBuf,
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        mapping::guard().unwrap();
        let (dir, image) = (TempDir::new(), Image::new(64 << 10));
        let path = dir.join("s");
        let source = Source::Listener(Listener::bind(&path).unwrap());
        let back = back_end(image.device(2, false), Options::default());
        let runner = Runner::start(back, source, "test", Threads::PerQueue, Polling::default()).unwrap();
        Self { runner: Some(runner), image, path, _dir: dir }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path)
    }

    /// Somebody who keeps the rules.
    fn serves(&self, after: &str) {
        let front = FrontEnd::connect(&self.path, options()).unwrap_or_else(|e| panic!("after {after}: {e}"));
        let (mut blk, _device) = open(front);
        exercise(&mut blk.queues[0], 0, |at, len| self.image.read(at, len));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runner.take().unwrap().stop();
    }
}

/// Raw descriptors: address, length, flags, and a link (split) or an id (packed).
type Descriptors = &'static [(u64, u32, u16, u16)];

/// What no ring may have. The first descriptor is at index or position 0.
const BAD: &[(&str, Descriptors)] = &[
    ("a buffer outside of the memory", &[(SIZE, 16, 0, 0)]),
    ("a buffer that runs out of the memory", &[(SIZE - 8, 16, 0, 0)]),
    ("an address that wraps", &[(u64::MAX - 7, 16, 0, 0)]),
    ("a buffer of no bytes", &[(DATA, 0, 0, 0)]),
    ("a buffer of 4 GiB", &[(DATA, u32::MAX, WRITE, 0)]),
    ("a readable buffer after a writable one", &[(DATA, 16, NEXT | WRITE, 1), (DATA, 16, 0, 0)]),
    ("a table that is not a whole number of descriptors", &[(DATA, 17, INDIRECT, 0)]),
    ("a table of no bytes", &[(DATA, 0, INDIRECT, 0)]),
    ("a table outside of the memory", &[(SIZE * 2, 32, INDIRECT, 0)]),
    ("a table, and more", &[(DATA, 32, INDIRECT | NEXT, 1), (DATA, 16, 0, 0)]),
    ("a table of 4 GiB", &[(DATA, !15, INDIRECT, 0)]),
];

/// What only a split ring can have.
const BAD_SPLIT: &[(&str, Descriptors)] = &[
    ("a loop", &[(DATA, 16, NEXT, 0)]),
    ("a loop of two", &[(DATA, 16, NEXT, 1), (DATA, 16, NEXT, 0)]),
    ("a link beyond the table", &[(DATA, 16, NEXT, QUEUE)]),
    ("a link far beyond the table", &[(DATA, 16, NEXT, 0xffff)]),
];

fn descriptors(list: Descriptors, packed: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(addr, len, flags, last) in list {
        bytes.extend(addr.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        let halves = if packed { [0, flags | AVAILABLE] } else { [flags, last] };
        halves.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
    }
    bytes
}

#[test]
fn every_bad_ring_ends_its_queue_and_the_next_front_end_is_served() {
    let server = Server::start();
    for packed in [false, true] {
        let more: &[_] = if packed { &[] } else { BAD_SPLIT };
        for (name, list) in BAD.iter().chain(more) {
            let client = server.client();
            client.agree(if packed { F::RING_PACKED } else { Features::EMPTY });
            client.share();
            client.write(DESC, &descriptors(list, packed));
            if !packed {
                client.write(AVAIL + 2, &1u16.to_le_bytes());
            }
            client.start(packed);
            client.kick();
            assert!(client.becomes_ready(&client.err), "{name}, packed: {packed}: no error is told");
            // The connection goes on: the status shows it, and the ring can be stopped.
            assert_eq!(client.ask(&Request::GetStatus).unwrap() & 64, 64, "{name}");
            assert!(client.ask(&Request::GetVringBase { index: 0 }).is_some(), "{name}");
            drop(client);
            server.serves(name);
        }
    }
}

#[test]
fn an_available_index_that_jumps_and_a_head_beyond_the_table_end_their_queue() {
    let server = Server::start();
    for (name, index, head) in [
        ("one more than fit", QUEUE + 1, 0u16),
        ("half of all numbers", 0x8000, 0),
        ("backwards", 0xffff, 0),
        ("a head beyond the table", 1, QUEUE),
        ("head 65535", 1, 0xffff),
    ] {
        let client = server.client();
        client.agree(Features::EMPTY);
        client.share();
        client.write(AVAIL + 2, &index.to_le_bytes());
        client.write(AVAIL + 4, &head.to_le_bytes());
        client.start(false);
        client.kick();
        assert!(client.becomes_ready(&client.err), "{name}");
        drop(client);
        server.serves(name);
    }
}

#[test]
fn memory_that_is_cut_short_under_a_ring_ends_the_connection() {
    let server = Server::start();
    for (name, left) in [("all of it", 0), ("but the descriptors", 0x1000), ("the used ring", USED)] {
        for packed in [false, true] {
            let client = server.client();
            client.agree(if packed { F::RING_PACKED } else { Features::EMPTY });
            client.share();
            client.start(packed);
            ftruncate(&client.memory, left).unwrap();
            client.kick();
            // Whatever it asks: the ring is looked at, or was already.
            while client.ask(&Request::GetStatus).is_some() {
                client.kick();
            }
            drop(client);
            server.serves(name);
        }
    }
}

#[test]
fn bad_requests_are_refused_and_those_after_them_are_served() {
    let server = Server::start();
    let client = server.client();
    client.agree(Features::EMPTY);
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let region = client.region();
    let share = |region, fd| Request::AddMemReg(SharedRegion { region, fd });
    let memory = client.memory.as_fd();
    let event = |index, fd| VringFd { index, fd: Some(fd) };
    let refused: Vec<(&str, Request<BorrowedFd<'_>>)> = vec![
        ("features that are not offered", Request::SetFeatures(1 << 50 | F_PROTOCOL_FEATURES)),
        ("a legacy driver", Request::SetFeatures(F_PROTOCOL_FEATURES)),
        ("protocol features that are not offered", Request::SetProtocolFeatures(P::XEN_MMAP | P::REPLY_ACK)),
        ("a region of a pipe", share(region, pipe.as_fd())),
        ("a region of a file that cannot be written", share(region, file.as_fd())),
        ("a region that is longer than its file", share(MemoryRegion { size: SIZE + 1, ..region }, memory)),
        ("a region behind its file", share(MemoryRegion { mmap_offset: SIZE, ..region }, memory)),
        ("a region as large as all memory", share(MemoryRegion { size: 1 << 62, ..region }, memory)),
        ("no such region to remove", Request::RemMemReg(region)),
        ("a queue that is not there", Request::SetVringNum(VringState { index: 2, num: 16 })),
        ("a queue far from there", Request::SetVringEnable { index: u32::MAX, enable: true }),
        ("a queue of no descriptors", Request::SetVringNum(VringState { index: 0, num: 0 })),
        ("a queue of 65536 descriptors", Request::SetVringNum(VringState { index: 0, num: 65536 })),
        ("a kick that is a file", Request::SetVringKick(event(0, file.as_fd()))),
        ("a kick for another queue", Request::SetVringKick(event(200, client.kick.as_fd()))),
        ("capacity to be written", Request::SetConfig(config(0, vec![1; 8]))),
        ("configuration beyond its end to be written", Request::SetConfig(config(250, vec![1; 4]))),
        (
            "a record of nothing",
            Request::SetInflightFd(
                Inflight { mmap_size: SIZE + 1, mmap_offset: 0, num_queues: 1, queue_size: 16 },
                memory,
            ),
        ),
        ("a request that was not agreed on", Request::ResetDevice),
        ("a request that nobody knows", Request::Unknown { id: 4711, payload: vec![1, 2, 3] }),
    ];
    for (name, request) in &refused {
        assert!(client.ask(request).is_some_and(|answer| answer != 0), "{name}");
    }
    // None of it has done any harm, on the same connection.
    let features = F::VERSION_1.low() | F_PROTOCOL_FEATURES;
    assert_eq!(client.ask(&Request::SetFeatures(features)), Some(0));
    client.share();
    assert!(client.ask(&share(region, memory)).is_some_and(|answer| answer != 0), "it overlaps");
    for request in [
        Request::SetVringNum(VringState { index: 0, num: 16 }),
        Request::SetVringKick(event(0, client.kick.as_fd())),
        Request::SetVringEnable { index: 0, enable: true },
    ] {
        assert_eq!(client.ask(&request), Some(0));
    }
    for (name, desc, avail, used) in [
        ("a ring outside of the memory", SIZE, AVAIL, USED),
        ("a ring that runs out of the memory", SIZE - 16, AVAIL, USED),
        ("an available ring outside", DESC, SIZE, USED),
        ("a used ring outside", DESC, AVAIL, SIZE * 100),
        ("a ring that is not aligned", DESC + 8, AVAIL, USED),
        ("a ring at address 0", 0u64.wrapping_sub(USER), AVAIL, USED),
        ("a ring at the last address", DESC, AVAIL, u64::MAX.wrapping_sub(USER)),
    ] {
        let answer = client.ask(&Request::SetVringAddr(addr(desc, avail, used)));
        assert!(answer.is_some_and(|answer| answer != 0), "{name}");
    }
    assert_eq!(client.ask(&Request::SetVringAddr(addr(DESC, AVAIL, USED))), Some(0));
    drop(client);
    server.serves("refusals");
}

fn config(offset: u32, data: Vec<u8>) -> virtio_kit_linux::vhost_user::codec::ConfigSpace {
    virtio_kit_linux::vhost_user::codec::ConfigSpace { offset, flags: 0, data }
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let server = Server::start();
    let header = |request: u32, flags: u32, size: u32| {
        [request, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()
    };
    let file = memfd_create(c"file", MemfdFlags::CLOEXEC).unwrap();
    let many = [file.as_fd(); 20];
    for (name, bytes, fds) in [
        ("text", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), &[][..]),
        ("another version", header(1, 2, 0), &[]),
        ("unknown flags", header(1, 0xfff1, 0), &[]),
        ("a reply", header(1, 5, 0), &[]),
        ("4 GiB to come", header(5, 1, u32::MAX), &[]),
        ("too many descriptors", header(1, 1, 0), &many[..]),
        ("an unknown request that asks for no answer", header(999, 1, 0), &[]),
    ] {
        let client = server.client();
        client.raw(&bytes, fds);
        let mut rest = Vec::new();
        // Nothing comes but the end.
        let end = (&client.stream).read_to_end(&mut rest);
        assert!(end.is_err() || rest.is_empty(), "{name}: {rest:?}");
        drop(client);
        server.serves(name);
    }
    // Half a message, and a message of which nobody reads the answers.
    let client = server.client();
    client.raw(&header(2, 1, 8)[..7], &[]);
    drop(client);
    let client = server.client();
    client.stream.set_write_timeout(Some(LONG)).unwrap();
    let question = header(1, 1, 0);
    while (&client.stream).write_all(&question.repeat(100)).is_ok() {}
    drop(client);
    server.serves("no message");
}

#[test]
fn a_call_that_nobody_empties_and_a_kick_that_is_never_silent_hold_nobody_up() {
    let server = Server::start();
    let client = server.client();
    client.agree(Features::EMPTY);
    client.share();
    client.start(false);
    let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    for _ in 0..100 {
        let call = VringFd { index: 0, fd: Some(full.as_fd()) };
        assert_eq!(client.ask(&Request::SetVringCall(call)), Some(0));
        client.kick();
    }
    let (read, write) = rustix::pipe::pipe().unwrap();
    assert_eq!(client.ask(&Request::SetVringKick(VringFd { index: 0, fd: Some(read.as_fd()) })), Some(0));
    drop(write);
    assert!(client.ask(&Request::GetVringBase { index: 0 }).is_some());
    drop(client);
    server.serves("events");
}
