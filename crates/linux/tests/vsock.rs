//! The socket driver over vhost-user, on the socket device with Unix sockets behind it.

mod common;

use common::served::layouts;
use common::{LONG, TempDir};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, recv, send};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::vsock::{Handle, Hub, Limits};
use virtio_kit_drivers::vsock::{
    Address, Blocking, ConnectionError, Kind, Options, Socket, SocketError, Vsock, VsockDevice, open,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::back_end::{
    BackEnd, Options as BackEndOptions, Polling, Runner, Source, Threads,
};
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options as FrontEndOptions};
use virtio_kit_linux::vsock::{Proxy, Running, UnixHost};

struct Guest {
    vsock: Vsock,
    device: VsockDevice,
    handle: Handle,
    proxy: Running,
    runner: Runner,
    path: PathBuf,
}

fn guest_of(hub: &Hub, cid: u64, dir: &TempDir, features: Features, threads: Threads) -> Guest {
    let path = dir.join(&format!("uds{cid}"));
    let host = UnixHost::bind(&path).unwrap();
    let device = hub.device(cid, Limits::default(), host.clone()).unwrap();
    let handle = device.handle();
    let proxy = Proxy::new(host, handle.clone()).unwrap().spawn().unwrap();
    let back_end = BackEnd::new(Box::new(device), BackEndOptions::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let runner =
        Runner::start(back_end, Source::Stream(theirs), "test", threads, Polling::default()).unwrap();
    let options = FrontEndOptions {
        arena_len: 8 << 20,
        timeout: LONG,
        features: features
            | !(virtio_kit::F::RING_PACKED
                | virtio_kit::F::IN_ORDER
                | virtio_kit::F::EVENT_IDX
                | virtio_kit::F::INDIRECT_DESC),
        ..FrontEndOptions::new(DeviceId::SOCKET)
    };
    let front_end = FrontEnd::over(ours, options).unwrap();
    let (vsock, device) = open(Found::new(Box::new(front_end)), &Options::default()).unwrap();
    assert!(vsock.features().contains(features));
    assert_eq!(vsock.cid(), cid);
    Guest { vsock, device, handle, proxy, runner, path }
}

fn waiting(socket: Socket) -> Blocking<Socket> {
    socket.blocking(Arc::new(MonotonicClock), LONG)
}

fn text(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

fn with(path: &Path, more: &str) -> PathBuf {
    PathBuf::from(format!("{}{more}", path.display()))
}

/// A sequenced packet socket that is connected to a path.
fn packets(path: &Path) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn listening_for_packets(path: &Path) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 5).unwrap();
    socket
}

fn next_packet(socket: &OwnedFd) -> Vec<u8> {
    let mut packet = vec![0; 300_000];
    let (len, _) = recv(socket, &mut packet, RecvFlags::empty()).unwrap();
    packet.truncate(len);
    packet
}

/// Everything that is written comes back, and then its end.
fn echo(stream: UnixStream) {
    let mut from = stream.try_clone().unwrap();
    let mut to = stream;
    std::io::copy(&mut from, &mut to).unwrap();
    to.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Sends all of `sent` and reads the echo of it meanwhile, since nobody has room for all of it.
fn exchange(socket: &mut Blocking<Socket>, sent: &[u8]) -> Vec<u8> {
    let (mut done, mut got, mut piece) = (0, vec![], vec![0; 50_000]);
    while got.len() < sent.len() {
        if done < sent.len() {
            done += socket.get_mut().write(&sent[done..]).unwrap().unwrap_or(0);
        }
        let len = match socket.get_mut().read(&mut piece).unwrap() {
            Some(len) => len,
            None if done < sent.len() && socket.get_mut().writer().room().unwrap() > 0 => 0,
            None => socket.read(&mut piece).unwrap(),
        };
        got.extend_from_slice(&piece[..len]);
    }
    got
}

#[test]
fn a_guest_and_programs_reach_each_other_by_paths_in_every_layout() {
    for (index, layout) in layouts().enumerate() {
        let dir = TempDir::new();
        let threads = if index % 2 == 0 { Threads::PerQueue } else { Threads::One };
        let guest = guest_of(&Hub::new(), 3, &dir, layout, threads);
        let sent = text(index, 1 << 20);
        std::thread::scope(|scope| {
            // The guest connects.
            let listener = UnixListener::bind(with(&guest.path, "_77")).unwrap();
            scope.spawn(move || echo(listener.accept().unwrap().0));
            let mut socket = waiting(guest.vsock.connect(Kind::Stream, Address::new(2, 77)).unwrap());
            socket.open().unwrap();
            assert!(exchange(&mut socket, &sent) == sent, "{layout:?}");
            socket.get_mut().writer().shutdown();
            assert_eq!(socket.read(&mut [0]), Ok(0), "{layout:?}");
            // A program connects.
            let mut listener = guest.vsock.listen(Kind::Stream, 5, 1).unwrap();
            let program = scope.spawn(|| {
                let mut stream = UnixStream::connect(&guest.path).unwrap();
                stream.write_all(b"CONNECT 5\nearly ").unwrap();
                let mut answer = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                lines.read_line(&mut answer).unwrap();
                stream.write_all(b"late").unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut got = vec![];
                lines.read_to_end(&mut got).unwrap();
                (answer, got)
            });
            let mut socket = waiting(listener.accept_within(&MonotonicClock, LONG).unwrap());
            let from = socket.get_ref().far();
            let mut got = String::new();
            socket.read_to_string(&mut got).unwrap();
            assert_eq!(got, "early late");
            socket.write_all(&sent[..300_000]).unwrap();
            drop(socket);
            // Until the program has all of it.
            common::until("the program's end", || {
                guest.vsock.wait(&MonotonicClock, std::time::Duration::from_millis(1)).unwrap();
                program.is_finished()
            });
            let (answer, got) = program.join().unwrap();
            assert_eq!(answer, format!("OK {}\n", from.port));
            assert!(got == sent[..300_000], "{layout:?}");
        });
        common::until("no connections", || {
            guest.vsock.poll().unwrap();
            (guest.handle.connections(), guest.vsock.connections()) == (0, 0)
        });
        assert_eq!(guest.vsock.counters(), Default::default());
        assert_eq!(guest.handle.counters(), Default::default());
    }
}

#[test]
fn messages_keep_their_boundaries_through_unix_sockets() {
    for layout in layouts().step_by(5) {
        let dir = TempDir::new();
        let guest = guest_of(&Hub::new(), 3, &dir, layout, Threads::PerQueue);
        let lens = [1, 5, 4096, 30_000, 65_536, 2];
        std::thread::scope(|scope| {
            let listener = listening_for_packets(&with(&guest.path, "_77"));
            let program = scope.spawn(move || {
                let socket = rustix::net::accept(&listener).unwrap();
                loop {
                    let packet = next_packet(&socket);
                    if packet.is_empty() {
                        break;
                    }
                    send(&socket, &packet, SendFlags::empty()).unwrap();
                }
            });
            let mut socket = waiting(guest.vsock.connect(Kind::Seqpacket, Address::new(2, 77)).unwrap());
            socket.open().unwrap();
            let mut buffer = vec![0; 70_000];
            for (round, len) in lens.into_iter().enumerate() {
                let sent = text(round, len);
                socket.send(&sent, true).unwrap();
                let got = socket.receive(&mut buffer).unwrap();
                assert_eq!(got.len, len);
                assert!(buffer[..len] == sent);
            }
            socket.get_mut().writer().shutdown();
            assert_eq!(socket.receive(&mut buffer).unwrap().len, 0);
            program.join().unwrap();
            let mut listener = guest.vsock.listen(Kind::Seqpacket, 5, 1).unwrap();
            let program = packets(&with(&guest.path, "_seqpacket"));
            send(&program, b"CONNECT 5\n", SendFlags::empty()).unwrap();
            for len in [1, 2, 30_000] {
                send(&program, &text(len, len), SendFlags::empty()).unwrap();
            }
            let mut socket = waiting(listener.accept_within(&MonotonicClock, LONG).unwrap());
            assert_eq!(next_packet(&program), format!("OK {}\n", socket.get_ref().far().port).as_bytes());
            for len in [1, 2, 30_000] {
                assert_eq!(socket.receive(&mut buffer).unwrap().len, len);
                assert!(buffer[..len] == text(len, len));
            }
            // One that the guest could never take whole ends the connection.
            send(&program, &text(1, 65_537), SendFlags::empty()).unwrap();
            let over = loop {
                match socket.receive(&mut buffer) {
                    Ok(message) if message.len > 0 => {}
                    over => break over,
                }
            };
            assert!(matches!(over, Ok(_) | Err(SocketError::Connection(ConnectionError::Reset))), "{over:?}");
            assert_eq!(next_packet(&program), b"");
        });
    }
}

#[test]
fn who_cannot_be_reached_is_refused_both_ways() {
    let dir = TempDir::new();
    let guest = guest_of(&Hub::new(), 3, &dir, Features::EMPTY, Threads::PerQueue);
    let refused = Err(SocketError::Connection(ConnectionError::Refused));
    // Nobody listens; somebody does by another kind of socket; nobody can have such a path.
    let _other = UnixListener::bind(with(&guest.path, "_8")).unwrap();
    for (kind, port) in [(Kind::Stream, 7), (Kind::Seqpacket, 8), (Kind::Stream, u32::MAX)] {
        let mut socket = waiting(guest.vsock.connect(kind, Address::new(2, port)).unwrap());
        assert_eq!(socket.open(), refused, "{kind} {port}");
    }
    for wanted in
        ["CONNECT 9\n", "CONNECT x\n", "HELLO\n", "CONNECT 99999999999999999999999999999999\n", "\n"]
    {
        let mut stream = UnixStream::connect(&guest.path).unwrap();
        stream.write_all(wanted.as_bytes()).unwrap();
        let mut got = vec![];
        common::until("the end of the connection", || {
            guest.vsock.wait(&MonotonicClock, std::time::Duration::from_millis(1)).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
            match stream.read_to_end(&mut got) {
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        });
        assert_eq!(got, b"", "{wanted:?}");
    }
    // Programs that connect and say nothing, or go again, are in nobody's way.
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(&guest.path).unwrap()).collect();
    let mut listener = guest.vsock.listen(Kind::Stream, 5, 1).unwrap();
    let mut stream = UnixStream::connect(&guest.path).unwrap();
    stream.write_all(b"CONNECT 5\nhello").unwrap();
    let mut socket = waiting(listener.accept_within(&MonotonicClock, LONG).unwrap());
    let mut got = [0; 5];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    drop((silent, stream));
    assert_eq!(socket.read(&mut got), Ok(0));
}

#[test]
fn guests_of_one_server_reach_each_other_and_a_guest_that_goes_is_missed() {
    let dir = TempDir::new();
    let hub = Hub::new();
    let one = guest_of(&hub, 3, &dir, virtio_kit::F::RING_PACKED, Threads::PerQueue);
    let two = guest_of(&hub, 4, &dir, virtio_kit::F::EVENT_IDX, Threads::One);
    let sent = text(9, 3 << 20);
    std::thread::scope(|scope| {
        let mut listener = two.vsock.listen(Kind::Stream, 80, 4).unwrap();
        let server = scope.spawn(move || {
            let mut socket = waiting(listener.accept_within(&MonotonicClock, LONG).unwrap());
            let mut got = vec![];
            socket.read_to_end(&mut got).unwrap();
            socket.write_all(b"thanks").unwrap();
            socket.flush().unwrap();
            (got, socket)
        });
        let mut socket = waiting(one.vsock.connect(Kind::Stream, Address::new(4, 80)).unwrap());
        socket.open().unwrap();
        socket.write_all(&sent).unwrap();
        socket.get_mut().writer().shutdown();
        let mut thanks = [0; 6];
        socket.read_exact(&mut thanks).unwrap();
        assert_eq!(&thanks, b"thanks");
        let (got, other) = server.join().unwrap();
        assert!(got == sent);
        drop(other);
    });
    let mut listener = two.vsock.listen(Kind::Stream, 81, 4).unwrap();
    let mut socket = waiting(one.vsock.connect(Kind::Stream, Address::new(4, 81)).unwrap());
    let _other = listener.accept_within(&MonotonicClock, LONG).unwrap();
    socket.open().unwrap();
    drop(two.device);
    let over = socket.read(&mut [0]);
    assert_eq!(over, Err(SocketError::Connection(ConnectionError::Reset)));
    drop((one.device, one.handle, one.proxy, one.runner, two.proxy, two.runner));
    assert!(!one.path.exists() && !with(&one.path, "_seqpacket").exists());
}
