//! The socket driver on the socket device, in one program.

mod common;

use common::{LIMIT, StdClock, join, layouts};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use virtio_kit::bus::Bound;
use virtio_kit::in_process::DeviceEnd;
use virtio_kit::spec::vsock::F as VsockF;
use virtio_kit::{F, Features};
use virtio_kit_devices::vsock::{
    Address, CidError, End, Error as HostError, Handle, Hub, Kind, Limits, Listeners, Message,
    Vsock as Device,
};
use virtio_kit_drivers::vsock::{
    ConnectionError, ListenError, Options, Socket, SocketError, Vsock, VsockDevice, open,
};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const HOST: u64 = 2;

struct Guest {
    vsock: Vsock,
    device: VsockDevice,
    handle: Handle,
    host: Listeners,
    end: DeviceEnd,
}

fn guest_of(hub: &Hub, cid: u64, ring: Features, options: &Options, limits: Limits) -> Guest {
    let host = Listeners::new();
    let device = hub.device(cid, limits, Arc::new(host.clone())).unwrap();
    let handle = device.handle();
    let (found, end, _) = join(device, ring);
    let (vsock, device) = open(found, options).unwrap();
    let layout = F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC;
    assert_eq!(vsock.features() & layout, ring & layout);
    Guest { vsock, device, handle, host, end }
}

fn guest(ring: Features) -> Guest {
    guest_of(&Hub::new(), 3, ring, &Options::default(), Limits::default())
}

impl Guest {
    /// A connection from here to the host.
    fn out(&self, kind: Kind) -> (Socket, End) {
        let mut listener = self.host.listen(kind, 77, 1).unwrap();
        let socket = self.vsock.connect(kind, Address::new(HOST, 77)).unwrap();
        let end = listener.accept().expect("the host has heard of it");
        self.poll();
        assert_eq!(socket.is_open(), Ok(true));
        (socket, end)
    }

    /// A connection from the host to here.
    fn back(&self, kind: Kind) -> (Socket, End) {
        let mut listener = self.vsock.listen(kind, 1234, 1).unwrap();
        let end = self.handle.connect(kind, None, 1234).unwrap();
        assert_eq!(end.is_open(), Ok(false));
        self.poll();
        let socket = listener.accept().expect("the guest has heard of it");
        assert_eq!(end.is_open(), Ok(true));
        (socket, end)
    }

    #[track_caller]
    fn poll(&self) {
        while self.vsock.poll().unwrap() > 0 {}
    }
}

fn text(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

/// Sends all of `sent` from the guest and reads it at the host.
fn to_host(guest: &Guest, socket: &mut Socket, end: &mut End, sent: &[u8]) -> Vec<u8> {
    let (mut got, mut done, mut piece) = (vec![], 0, vec![0; 5000]);
    while got.len() < sent.len() {
        done += socket.write(&sent[done..]).unwrap().unwrap_or(0);
        if let Some(len) = end.reader().read(&mut piece).unwrap() {
            assert!(len > 0, "an early end");
            got.extend_from_slice(&piece[..len]);
        }
        guest.poll();
    }
    got
}

fn to_guest(guest: &Guest, socket: &mut Socket, end: &mut End, sent: &[u8]) -> Vec<u8> {
    let (mut got, mut done, mut piece) = (vec![], 0, vec![0; 5000]);
    while got.len() < sent.len() {
        done += end.writer().write(&sent[done..]).unwrap().unwrap_or(0);
        guest.poll();
        if let Some(len) = socket.read(&mut piece).unwrap() {
            assert!(len > 0, "an early end");
            got.extend_from_slice(&piece[..len]);
        }
    }
    got
}

// drivernormative:Device Types / Socket Device / Device Operation / Buffer Space Management
// devicenormative:Device Types / Socket Device / Device Operation / Buffer Space Management
// drivernormative:Device Types / Socket Device / Device Operation / Receive and Transmit
// devicenormative:Device Types / Socket Device / Device Operation / Receive and Transmit
#[test]
fn bytes_arrive_both_ways_whoever_connected_in_every_layout() {
    for layout in layouts() {
        let guest = guest(layout);
        assert_eq!(guest.vsock.cid(), 3);
        for connect in [Guest::out, Guest::back] {
            let (mut socket, mut end) = connect(&guest, Kind::Stream);
            assert_eq!((socket.near().cid, socket.far().cid), (3, HOST));
            assert_eq!((end.near(), end.far()), (socket.far(), socket.near()));
            for (round, len) in [1, 10, 4051, 4052, 4053, 65_536, 300_001].into_iter().enumerate() {
                let sent = text(round, len);
                assert!(to_host(&guest, &mut socket, &mut end, &sent) == sent, "{layout:?}, {len}");
                assert!(to_guest(&guest, &mut socket, &mut end, &sent) == sent, "{layout:?}, {len}");
            }
            assert_eq!(socket.read(&mut [0]), Ok(None));
            drop(socket);
            guest.poll();
            assert_eq!(end.reader().read(&mut [0]), Ok(Some(0)));
            drop(end);
            guest.poll();
            assert_eq!((guest.vsock.connections(), guest.handle.connections()), (0, 0));
        }
        assert_eq!(guest.vsock.counters(), Default::default());
        assert_eq!(guest.handle.counters(), Default::default());
    }
}

#[test]
fn messages_keep_their_boundaries_in_every_layout() {
    for layout in layouts() {
        let guest = guest(layout);
        for (mut socket, mut end) in [guest.out(Kind::Seqpacket), guest.back(Kind::Seqpacket)] {
            let mut buffer = vec![0; 70_000];
            for (round, len) in [1, 2, 4052, 4053, 10_000, 65_535, 65_536].into_iter().enumerate() {
                let (sent, last) = (text(round, len), round % 2 == 1);
                let whole = Message { len, ends_record: last };
                assert_eq!(socket.send(&sent, last), Ok(true), "{layout:?}, {len}");
                guest.poll();
                assert_eq!(end.reader().receive(&mut buffer), Ok(Some(whole)), "{layout:?}, {len}");
                assert!(buffer[..len] == sent);
                guest.poll();
                assert_eq!(end.writer().send(&sent, last), Ok(true));
                guest.poll();
                assert_eq!(socket.receive(&mut buffer), Ok(Some(whole)), "{layout:?}, {len}");
                assert!(buffer[..len] == sent);
                guest.poll();
            }
            // Several at once, and one that is cut since nobody has asked for all of it.
            for message in [&b"one"[..], b"two", b"three"] {
                assert_eq!(socket.send(message, false), Ok(true));
            }
            guest.poll();
            let mut small = [0; 4];
            let mut next =
                || end.reader().receive(&mut small).map(|got| got.map(|message| (message.len, small)));
            assert_eq!(next(), Ok(Some((3, *b"one\0"))));
            assert_eq!(next(), Ok(Some((3, *b"two\0"))));
            assert_eq!(next(), Ok(Some((5, *b"thre"))));
            assert_eq!(next(), Ok(None));
            let long = vec![0; 65_537];
            let refused = SocketError::Connection(ConnectionError::TooLong { most: 65_536 });
            assert_eq!(socket.send(&long, false), Err(refused));
            assert_eq!(socket.read(&mut [0]), Err(ConnectionError::Kind(Kind::Seqpacket).into()));
            assert_eq!(socket.send(b"last", false), Ok(true));
            drop(socket);
            guest.poll();
            assert_eq!(end.reader().receive(&mut buffer).unwrap().unwrap().len, 4);
            assert_eq!(end.reader().receive(&mut buffer), Ok(Some(Message::NONE)));
        }
        guest.poll();
        assert_eq!(guest.handle.connections(), 0);
    }
}

// drivernormative:Device Types / Socket Device / Feature bits
// devicenormative:Device Types / Socket Device / Feature bits
#[test]
fn kinds_are_those_that_were_agreed_on() {
    let all = VsockF::STREAM | VsockF::SEQPACKET | VsockF::NO_IMPLIED_STREAM;
    let cases = [
        (Features::EMPTY, true, true),
        (VsockF::SEQPACKET, true, false),
        (VsockF::STREAM, false, true),
        (VsockF::STREAM | VsockF::NO_IMPLIED_STREAM, true, true),
        (VsockF::STREAM | VsockF::SEQPACKET | VsockF::NO_IMPLIED_STREAM, true, false),
        (VsockF::STREAM | VsockF::SEQPACKET, false, false),
    ];
    for (without, stream, seqpacket) in cases {
        let options = Options { without, ..Options::default() };
        let guest = guest_of(&Hub::new(), 3, F::EVENT_IDX, &options, Limits::default());
        assert_eq!(guest.vsock.features() & all, all - without);
        for (kind, is) in [(Kind::Stream, stream), (Kind::Seqpacket, seqpacket)] {
            let refused = SocketError::Connection(ConnectionError::Unsupported(kind));
            let connected = guest.vsock.connect(kind, Address::new(HOST, 1)).map(drop);
            assert_eq!(connected, if is { Ok(()) } else { Err(refused) }, "{without:?} {kind}");
            let listening = guest.vsock.listen(kind, 5, 1).map(drop);
            assert_eq!(listening, if is { Ok(()) } else { Err(ListenError::Unsupported(kind)) });
            let back = guest.handle.connect(kind, None, 5).map(drop);
            assert_eq!(back, if is { Ok(()) } else { Err(HostError::Refused) });
        }
    }
}

#[test]
fn who_listens_nowhere_is_refused_and_ports_are_free_again() {
    let guest = guest(F::RING_PACKED);
    let socket = guest.vsock.connect(Kind::Stream, Address::new(HOST, 9)).unwrap();
    guest.poll();
    assert_eq!(socket.is_open(), Err(ConnectionError::Refused.into()));
    // Another kind at the same port is somebody else, and so are other machines.
    let listener = guest.host.listen(Kind::Seqpacket, 9, 1).unwrap();
    for to in [Address::new(HOST, 9), Address::new(3, 9), Address::new(4, 9), Address::new(1, 9)] {
        let socket = guest.vsock.connect(Kind::Stream, to).unwrap();
        guest.poll();
        assert_eq!(socket.is_open(), Err(ConnectionError::Refused.into()), "{to}");
    }
    drop(listener);
    let end = guest.handle.connect(Kind::Stream, None, 9).unwrap();
    guest.poll();
    assert_eq!(end.is_open(), Err(HostError::Refused));
    let listener = guest.vsock.listen(Kind::Stream, 9, 1).unwrap();
    assert_eq!(guest.vsock.listen(Kind::Stream, 9, 1).unwrap_err(), ListenError::InUse(9));
    assert_eq!(guest.vsock.listen(Kind::Stream, u32::MAX, 1).unwrap_err(), ListenError::Reserved);
    // One waits; for a second there is no room.
    let first = guest.handle.connect(Kind::Stream, Some(5), 9).unwrap();
    assert_eq!(
        guest.handle.connect(Kind::Stream, Some(5), 9).unwrap_err(),
        HostError::Refused,
        "it is in use"
    );
    let second = guest.handle.connect(Kind::Stream, Some(6), 9).unwrap();
    guest.poll();
    assert_eq!((first.is_open(), second.is_open()), (Ok(true), Err(HostError::Refused)));
    drop(listener);
    guest.poll();
    drop((first, second));
    guest.poll();
    assert_eq!((guest.vsock.connections(), guest.handle.connections()), (0, 0));
    let again = guest.vsock.listen(Kind::Stream, 9, 1).unwrap();
    assert_eq!(again.port(), 9);
}

#[test]
fn a_direction_is_closed_and_the_other_goes_on() {
    for layout in layouts() {
        let guest = guest(layout);
        let (mut socket, mut end) = guest.out(Kind::Stream);
        assert_eq!(socket.write(b"the last"), Ok(Some(8)));
        socket.writer().shutdown();
        assert_eq!(socket.write(b"x"), Err(ConnectionError::Closed.into()));
        let mut got = [0; 20];
        assert_eq!(end.reader().read(&mut got), Ok(Some(8)));
        assert_eq!(end.reader().read(&mut got), Ok(Some(0)));
        let sent = text(5, 200_000);
        assert!(to_guest(&guest, &mut socket, &mut end, &sent) == sent);
        // The host wants to write on, and nobody wants to read.
        assert_eq!(end.writer().write(b"unwanted"), Ok(Some(8)));
        socket.reader().shutdown();
        assert_eq!(end.writer().write(b"x"), Err(HostError::Closed));
        assert_eq!(socket.read(&mut got), Ok(Some(0)));
        guest.poll();
        assert_eq!(
            (guest.vsock.connections(), guest.handle.connections()),
            (0, 0),
            "both directions are closed"
        );
    }
}

#[test]
fn a_connection_that_is_aborted_is_reset_at_its_other_end() {
    let guest = guest(F::EVENT_IDX);
    let (socket, mut end) = guest.out(Kind::Stream);
    let mut got = [0; 20];
    {
        let mut socket = socket;
        assert_eq!(socket.write(b"before"), Ok(Some(6)));
        socket.abort();
    }
    assert_eq!(end.reader().read(&mut got), Ok(Some(6)), "what came before is there");
    assert_eq!(end.reader().read(&mut got), Err(HostError::Reset));
    assert_eq!(end.writer().write(b"x"), Err(HostError::Reset));
    let (mut socket, end) = guest.back(Kind::Stream);
    end.abort();
    guest.poll();
    assert_eq!(socket.read(&mut got), Err(ConnectionError::Reset.into()));
    assert_eq!((guest.vsock.connections(), guest.handle.connections()), (0, 0));
    // Whoever asked and did not wait for the answer.
    let end = guest.handle.connect(Kind::Stream, None, 9).unwrap();
    drop(end);
    guest.poll();
    assert_eq!(guest.handle.connections(), 0);
}

#[test]
fn a_connection_that_nobody_reads_holds_up_no_other() {
    for layout in layouts() {
        let guest = guest(layout);
        let (mut stuck, mut stuck_end) = guest.out(Kind::Stream);
        let (mut socket, mut end) = guest.back(Kind::Stream);
        let sent = text(1, 1 << 20);
        let mut written = 0;
        for _ in 0..10 {
            guest.poll();
            if let Ok(Some(len)) = stuck.write(&sent[written..]) {
                written += len;
            }
        }
        assert_eq!(written, 2 * Limits::default().buffer, "one buffer at each end");
        let mut returned = 0;
        for _ in 0..10 {
            guest.poll();
            if let Ok(Some(len)) = stuck_end.writer().write(&sent[returned..]) {
                returned += len;
            }
        }
        assert_eq!(returned, 2 * Limits::default().buffer);
        assert!(to_host(&guest, &mut socket, &mut end, &sent) == sent);
        assert!(to_guest(&guest, &mut socket, &mut end, &sent) == sent);
        // What waited is all there.
        let (mut got, mut piece) = (vec![], [0; 9000]);
        while got.len() < written {
            let len = stuck_end.reader().read(&mut piece).unwrap().unwrap_or(0);
            got.extend_from_slice(&piece[..len]);
            guest.poll();
        }
        assert!(got == sent[..written]);
    }
}

#[test]
fn guests_reach_each_other_and_their_limits_meet() {
    for layout in layouts() {
        let hub = Hub::new();
        let small = Options { limits: Limits { buffer: 4096, ..Limits::default() }, ..Options::default() };
        let one = guest_of(&hub, 3, layout, &Options::default(), Limits::default());
        let two = guest_of(&hub, 4, layout, &small, Limits::default());
        assert_eq!(hub.guest(4).map(|guest| guest.cid()), Some(4));
        // The guests keep it.
        drop(hub);
        for kind in [Kind::Stream, Kind::Seqpacket] {
            let mut listener = two.vsock.listen(kind, 80, 4).unwrap();
            let mut socket = one.vsock.connect(kind, Address::new(4, 80)).unwrap();
            two.poll();
            one.poll();
            assert_eq!(socket.is_open(), Ok(true));
            let mut other = listener.accept().unwrap();
            assert_eq!((other.near(), other.far()), (Address::new(4, 80), socket.near()));
            let (sent, mut got, mut done, mut piece) = (text(3, 300_000), vec![], 0, vec![0; 10_000]);
            if kind == Kind::Stream {
                while got.len() < sent.len() {
                    done += socket.write(&sent[done..]).unwrap().unwrap_or(0);
                    two.poll();
                    let len = other.read(&mut piece).unwrap().unwrap_or(0);
                    got.extend_from_slice(&piece[..len]);
                    one.poll();
                }
            } else {
                // What the other guest could never take whole is not taken from this one either.
                let most = SocketError::Connection(ConnectionError::TooLong { most: 4096 });
                assert_eq!(socket.send(&sent[..4097], false), Err(most));
                while got.len() < sent.len() {
                    let len = (sent.len() - done).min(1 + done % 4096);
                    if len > 0 && socket.send(&sent[done..done + len], false) == Ok(true) {
                        done += len;
                    }
                    two.poll();
                    let before = got.len();
                    if let Some(message) = other.receive(&mut piece).unwrap() {
                        assert_eq!(message.len, (sent.len() - before).min(1 + before % 4096));
                        got.extend_from_slice(&piece[..message.len]);
                    }
                    one.poll();
                }
            }
            assert!(got == sent, "{layout:?} {kind}");
            drop(other);
            two.poll();
            one.poll();
            let over = if kind == Kind::Stream {
                socket.write(b"x").map(drop)
            } else {
                socket.send(b"x", false).map(drop)
            };
            assert_eq!(over, Err(ConnectionError::Closed.into()));
            drop(socket);
            two.poll();
            one.poll();
            assert_eq!((one.handle.connections(), two.handle.connections()), (0, 0));
        }
        // A guest that goes takes its connections with it.
        let listener = two.vsock.listen(Kind::Stream, 80, 4).unwrap();
        let mut socket = one.vsock.connect(Kind::Stream, Address::new(4, 80)).unwrap();
        two.poll();
        one.poll();
        assert_eq!(socket.is_open(), Ok(true));
        let Guest { vsock, device, end, .. } = two;
        drop(device);
        one.poll();
        assert_eq!(socket.write(b"x"), Err(ConnectionError::Reset.into()));
        assert!(vsock.poll().is_err());
        drop((vsock, end, listener));
        let socket = one.vsock.connect(Kind::Stream, Address::new(4, 80)).unwrap();
        one.poll();
        assert_eq!(socket.is_open(), Err(ConnectionError::Refused.into()), "the guest's device is gone");
    }
}

#[test]
fn context_ids_are_checked() {
    let hub = Hub::new();
    let device = |cid| hub.device(cid, Limits::default(), Arc::new(Listeners::new()));
    for reserved in [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
        assert_eq!(device(reserved).map(drop).unwrap_err(), CidError::Reserved(reserved));
    }
    let three = device(3).unwrap();
    assert_eq!(device(3).map(drop).unwrap_err(), CidError::InUse(3));
    let four = device(4).unwrap();
    assert_eq!(four.handle().set_cid(3), Err(CidError::InUse(3)));
    assert_eq!(four.handle().set_cid(2), Err(CidError::Reserved(2)));
    drop(three);
    assert_eq!(four.handle().set_cid(3), Ok(()));
    assert!(hub.guest(4).is_none() && hub.guest(3).is_some());
}

// drivernormative:Device Types / Socket Device / Device Operation / Device Events
#[test]
fn after_a_transport_reset_connections_are_gone_and_listeners_go_on_with_the_new_context_id() {
    for layout in layouts() {
        let guest = guest(layout);
        let mut listener = guest.vsock.listen(Kind::Stream, 5, 3).unwrap();
        let (mut socket, mut end) = guest.out(Kind::Stream);
        guest.handle.reset_connections();
        guest.poll();
        assert_eq!(guest.vsock.resets(), 1);
        assert_eq!(socket.write(b"x"), Err(ConnectionError::Transport.into()));
        assert_eq!(end.writer().write(b"x"), Err(HostError::Transport));
        guest.handle.set_cid(1000).unwrap();
        guest.poll();
        assert_eq!((guest.vsock.cid(), guest.vsock.resets()), (1000, 2));
        let mut end = guest.handle.connect(Kind::Stream, None, 5).unwrap();
        guest.poll();
        let mut socket = listener.accept().unwrap();
        assert_eq!(socket.near(), Address::new(1000, 5));
        assert!(to_host(&guest, &mut socket, &mut end, b"hello") == b"hello");
        let (mut socket, mut end) = guest.out(Kind::Stream);
        assert!(to_guest(&guest, &mut socket, &mut end, b"hello") == b"hello");
        // Several that the driver has not seen are one.
        guest.handle.reset_connections();
        guest.handle.reset_connections();
        guest.poll();
        assert!(guest.vsock.resets() <= 4);
        assert_eq!(guest.vsock.connections(), 0);
    }
}

#[test]
fn a_change_of_the_configuration_is_looked_at() {
    let mut guest = guest(Features::EMPTY);
    guest.device.config_changed();
    guest.poll();
    assert_eq!((guest.vsock.cid(), guest.vsock.resets(), guest.vsock.needs_reset()), (3, 0, false));
}

#[test]
fn sockets_that_wait_move_packets_themselves() {
    for layout in layouts() {
        let guest = guest(layout);
        let clock = StdClock::new();
        let mut listener = guest.host.listen(Kind::Stream, 77, 1).unwrap();
        let socket = guest.vsock.connect(Kind::Stream, Address::new(HOST, 77)).unwrap();
        let mut end = listener.accept().unwrap();
        let mut socket = socket.blocking(clock.clone(), LIMIT);
        socket.open().unwrap();
        let sent = text(4, 50_000);
        Write::write_all(&mut socket, &sent).unwrap();
        Write::flush(&mut socket).unwrap();
        let mut got = vec![0; sent.len()];
        assert_eq!(end.reader().read(&mut got), Ok(Some(sent.len())));
        assert!(got == sent);
        assert_eq!(end.writer().write(&sent), Ok(Some(sent.len())));
        end.writer().close();
        let mut back = vec![];
        Read::read_to_end(&mut socket, &mut back).unwrap();
        assert!(back == sent);
        let limit = Duration::from_millis(5);
        let mut short = socket.into_inner().blocking(clock.clone(), limit);
        let mut written = 0;
        while let Ok(len) = short.write(&sent) {
            written += len;
        }
        assert_eq!(written, 2 * Limits::default().buffer);
        assert_eq!(short.write(b"x"), Err(SocketError::Timeout(limit)));
        end.reader().close();
        guest.poll();
        assert_eq!(short.write(b"x"), Err(ConnectionError::Closed.into()));
        let (mut listening, connected) = (
            guest.vsock.listen(Kind::Seqpacket, 8, 1).unwrap(),
            guest.handle.connect(Kind::Seqpacket, None, 8),
        );
        let mut end = connected.unwrap();
        let taken = listening.accept_within(&*clock, LIMIT).unwrap();
        assert_eq!(listening.accept_within(&*clock, limit).map(drop), Err(SocketError::Timeout(limit)));
        let mut taken = taken.blocking(clock.clone(), LIMIT);
        taken.send(b"message", true).unwrap();
        let mut buffer = [0; 9];
        assert_eq!(end.reader().receive(&mut buffer), Ok(Some(Message { len: 7, ends_record: true })));
        assert_eq!(end.writer().send(b"answer", false), Ok(true));
        assert_eq!(taken.receive(&mut buffer), Ok(Message { len: 6, ends_record: false }));
    }
}

#[test]
fn tasks_that_sleep_are_woken_by_what_they_wait_for() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    for layout in layouts() {
        let guest = guest(layout);
        let mut cx = Context::from_waker(Waker::noop());
        let mut run = pin!(guest.vsock.run());
        assert!(run.as_mut().poll(&mut cx).is_pending());
        let mut listener = guest.host.listen(Kind::Stream, 77, 1).unwrap();
        let mut socket = guest.vsock.connect(Kind::Stream, Address::new(HOST, 77)).unwrap();
        let counted = Arc::new(Woken::default());
        let waker = Waker::from(counted.clone());
        let mut counting = Context::from_waker(&waker);
        assert_eq!(socket.poll_open(&mut counting), Poll::Pending);
        let mut end = listener.accept().unwrap();
        assert!(run.as_mut().poll(&mut cx).is_pending());
        assert_eq!(counted.take(), 1);
        assert_eq!(socket.poll_open(&mut counting), Poll::Ready(Ok(())));
        let mut got = [0; 10];
        assert_eq!(socket.reader().poll_read(&mut counting, &mut got), Poll::Pending);
        end.writer().write(b"hello").unwrap();
        assert!(run.as_mut().poll(&mut cx).is_pending());
        assert_eq!(counted.take(), 1);
        assert_eq!(socket.reader().poll_read(&mut counting, &mut got), Poll::Ready(Ok(5)));
        // Until there is no room.
        let sent = text(1, 1 << 20);
        let mut done = 0;
        while let Poll::Ready(len) = socket.writer().poll_write(&mut counting, &sent[done..]) {
            done += len.unwrap();
            assert!(run.as_mut().poll(&mut cx).is_pending());
        }
        counted.take();
        let mut back = vec![0; 1 << 18];
        let len = end.reader().read(&mut back).unwrap().unwrap();
        assert!(run.as_mut().poll(&mut cx).is_pending());
        assert!(counted.take() > 0, "there is room again");
        assert!(back[..len] == sent[..len]);
        while socket.writer().poll_flush(&mut counting).is_pending() {
            end.reader().read(&mut back).unwrap();
            assert!(run.as_mut().poll(&mut cx).is_pending());
        }
        // The device goes: everybody is told.
        assert!(socket.reader().poll_read(&mut counting, &mut got).is_pending());
        counted.take();
        let Guest { device, .. } = &guest;
        let _ = device;
    }
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl Woken {
    fn take(&self) -> usize {
        self.0.swap(0, std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn embedded_traits_read_and_write() {
    use embedded_io::Error as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let guest = guest(F::IN_ORDER);
    let (mut socket, mut end) = guest.out(Kind::Stream);
    let mut cx = Context::from_waker(Waker::noop());
    {
        let mut write = pin!(embedded_io_async::Write::write_all(&mut socket, b"async"));
        assert_eq!(write.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
    }
    let mut got = [0; 8];
    assert_eq!(end.reader().read(&mut got), Ok(Some(5)));
    end.writer().write(b"back").unwrap();
    {
        let mut read = pin!(embedded_io_async::Read::read(&mut socket, &mut got));
        assert!(read.as_mut().poll(&mut cx).is_pending());
        guest.poll();
        assert_eq!(read.as_mut().poll(&mut cx), Poll::Ready(Ok(4)));
    }
    let mut socket = socket.blocking(StdClock::new(), LIMIT);
    embedded_io::Write::write_all(&mut socket, b"blocking").unwrap();
    assert_eq!(end.reader().read(&mut got), Ok(Some(8)));
    drop(end);
    assert_eq!(embedded_io::Read::read(&mut socket, &mut got), Ok(0));
    let error = embedded_io::Write::write_all(&mut socket, b"x").unwrap_err();
    assert_eq!(error.kind(), embedded_io::ErrorKind::BrokenPipe);
}

#[test]
fn a_device_that_is_removed_ends_its_sockets_and_can_be_taken_again() {
    for layout in layouts() {
        let hub = Hub::new();
        let Guest { vsock, device, handle, host, end } =
            guest_of(&hub, 3, layout, &Options::default(), Limits::default());
        let mut listener = host.listen(Kind::Stream, 77, 1).unwrap();
        let mut socket = vsock.connect(Kind::Stream, Address::new(HOST, 77)).unwrap();
        let mut at_host = listener.accept().unwrap();
        vsock.poll().unwrap();
        let found = Box::new(device).remove().expect("the device was reset");
        assert_eq!(socket.write(b"x"), Err(ConnectionError::Transport.into()));
        assert_eq!(at_host.reader().read(&mut [0]), Err(HostError::Transport));
        assert!(vsock.poll().is_err());
        assert_eq!(
            handle.connect(Kind::Stream, None, 5).map(drop),
            Err(HostError::Refused),
            "there is no driver"
        );
        drop((vsock, socket));
        let (vsock, device) = open(found, &Options::default()).unwrap();
        let mut listener = vsock.listen(Kind::Stream, 5, 1).unwrap();
        let at_host = handle.connect(Kind::Stream, None, 5).unwrap();
        while vsock.poll().unwrap() > 0 {}
        assert!(listener.accept().is_some() && at_host.is_open() == Ok(true));
        assert_eq!(vsock.resets(), 0);
        drop((device, end));
    }
}

#[test]
fn closed_connections_make_room_for_new_ones() {
    let limits = Limits { connections: 4, buffer: 64, refusals: 4 };
    let options = Options { limits, ..Options::default() };
    let guest = guest_of(&Hub::new(), 3, F::EVENT_IDX, &options, Limits { connections: 8, ..limits });
    let mut listener = guest.vsock.listen(Kind::Stream, 5, 8).unwrap();
    let ends: Vec<_> = (0..8).map(|_| guest.handle.connect(Kind::Stream, None, 5)).collect();
    guest.poll();
    let open = ends.iter().flatten().filter(|end| end.is_open() == Ok(true)).count();
    assert_eq!(open, 4, "as many as the driver has room for");
    assert_eq!(
        guest.vsock.connect(Kind::Stream, Address::new(HOST, 1)).map(drop),
        Err(ConnectionError::Refused.into())
    );
    drop(ends);
    guest.poll();
    while listener.accept().is_some() {}
    guest.poll();
    assert_eq!((guest.vsock.connections(), guest.handle.connections()), (0, 0));
}

#[test]
fn nothing_is_allocated_for_a_packet() {
    for layout in layouts() {
        let guest = guest(layout);
        let (mut socket, mut end) = guest.out(Kind::Stream);
        let (mut messages, mut far) = guest.back(Kind::Seqpacket);
        let (sent, mut got) = (text(2, 20_000), vec![0; 70_000]);
        let mut round = |polls: usize| {
            for _ in 0..polls {
                assert_eq!(socket.write(&sent), Ok(Some(sent.len())));
                assert_eq!(messages.send(&sent, true), Ok(true));
                guest.poll();
                assert_eq!(end.reader().read(&mut got), Ok(Some(sent.len())));
                assert_eq!(far.reader().receive(&mut got).unwrap().unwrap().len, sent.len());
                assert_eq!(end.writer().write(&sent), Ok(Some(sent.len())));
                assert_eq!(far.writer().send(&sent, false), Ok(true));
                guest.poll();
                assert_eq!(socket.read(&mut got), Ok(Some(sent.len())));
                assert_eq!(messages.receive(&mut got).unwrap().unwrap().len, sent.len());
                guest.poll();
            }
        };
        round(20);
        assert_eq!(calls_during(|| round(100)), 0, "{layout:?}");
    }
}

#[test]
fn a_device_without_a_driver_needs_no_hub() {
    let device = Device::new(3, Limits::default(), Arc::new(Listeners::new())).unwrap();
    let handle = device.handle();
    assert_eq!(handle.connect(Kind::Stream, None, 1).map(drop), Err(HostError::Refused));
    assert_eq!((handle.cid(), handle.connections()), (3, 0));
    assert_eq!(
        Device::new(2, Limits::default(), Arc::new(Listeners::new())).map(drop).unwrap_err(),
        CidError::Reserved(2)
    );
}
