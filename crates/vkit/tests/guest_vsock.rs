//! Two Linux guests in QEMU on socket devices that one `vkit serve` serves: each other's peers, and the host's.

mod common;

use common::guest::{Archive, Guest, VIRTIO, machine};
use common::{Folder, LIMIT, Server};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, recv, send};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread::{self, JoinHandle};

/// Bytes that each connection carries each way.
const LEN: usize = 1 << 20;

/// The client of both guests: to the host by both kinds, if the device has them, and to the other guest.
const FIRST: &str = r#"
echo "=features $($bb cat /sys/bus/virtio/devices/virtio0/features)"
/bin/vsock server stream 5 2 &
stream=$!
/bin/vsock client stream 2 77 1 1048576
/bin/vsock client stream 4 80 2 1048576
if [ SEQPACKET = 1 ]; then
    /bin/vsock client seqpacket 2 78 3 1048576
    /bin/vsock client seqpacket 4 81 4 1048576
fi
wait $stream
echo "=done"
$bb poweroff -f
"#;

/// The server of the other.
const SECOND: &str = r#"
echo "=features $($bb cat /sys/bus/virtio/devices/virtio0/features)"
/bin/vsock server stream 80 1 &
stream=$!
if [ SEQPACKET = 1 ]; then /bin/vsock server seqpacket 81 1; fi
wait $stream
echo "=done"
$bb poweroff -f
"#;

/// The program of the guests, which needs nothing else there.
fn program(folder: &Folder) -> std::path::PathBuf {
    let path = folder.at("vsock");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest_vsock/vsock.c");
    let built = Command::new("cc").args(["-static", "-O1", "-o", &path, source]).status();
    assert!(built.expect("a C compiler is needed").success());
    path.into()
}

fn initrd(folder: &Folder, init: &str, seqpacket: bool) -> String {
    let init = init.replace("SEQPACKET", if seqpacket { "1" } else { "0" });
    let modules = ["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];
    let modules: Vec<_> = VIRTIO.into_iter().chain(modules).collect();
    let mut archive = Archive::guest(&init, &modules);
    archive.file("bin/vsock", &program(folder));
    archive.write(folder)
}

fn byte_at(seed: usize, at: usize) -> u8 {
    (at * 31 + at / 251 + seed * 7) as u8
}

/// Sends back what comes to the path that a guest reaches as a port of the host.
fn echo(path: String) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut from = stream.try_clone().unwrap();
        assert_eq!(std::io::copy(&mut from, &mut stream).unwrap(), LEN as u64);
    })
}

/// The same with packets.
fn echo_packets(path: &str) -> JoinHandle<()> {
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    thread::spawn(move || {
        let socket: OwnedFd = rustix::net::accept(&listener).unwrap();
        let (mut packet, mut all) = (vec![0; 1 << 18], 0);
        loop {
            match recv(&socket, &mut packet[..], RecvFlags::empty()).unwrap().1 {
                0 => break,
                len => {
                    send(&socket, &packet[..len], SendFlags::empty()).unwrap();
                    all += len;
                }
            }
        }
        assert_eq!(all, LEN);
    })
}

/// Connects to a guest's port, once it listens, and has all that is sent come back.
fn connect(path: &str, port: u32, seed: usize) {
    let deadline = std::time::Instant::now() + LIMIT;
    let mut stream = loop {
        assert!(std::time::Instant::now() < deadline, "the guest does not listen");
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.last() != Some(&b'\n') && matches!(stream.read(&mut byte), Ok(1)) {
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") {
            break stream;
        }
        thread::yield_now();
    };
    let sent: Vec<u8> = (0..LEN).map(|at| byte_at(seed, at)).collect();
    let mut to = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            to.write_all(&sent).unwrap();
            to.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == sent);
    });
}

/// Whether the guest's driver agreed on a feature.
fn has(features: &[String], bit: usize) -> bool {
    features[1].as_bytes()[bit] == b'1'
}

fn boot(packed: bool) {
    let folder = Folder::new();
    let at = |name: &str| folder.at(name);
    let mut arguments = vec!["vsock".to_owned()];
    for cid in ["3", "4"] {
        let (socket, uds) = (at(&format!("s{cid}")), at(&format!("uds{cid}")));
        arguments.extend(["--socket", &socket, "--cid", cid, "--uds", &uds].map(Into::into));
    }
    let server = Server::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let seqpacket = QEMU_PASSES_SEQPACKET;
    let mut host = vec![echo(at("uds3_77"))];
    if seqpacket {
        host.push(echo_packets(&at("uds3_78")));
    }
    let layout = if packed { "on" } else { "off" };
    let folders = [Folder::new(), Folder::new()];
    let guest = |cid: u32, init| {
        let initrd = initrd(&folders[cid as usize - 3], init, seqpacket);
        let mut qemu = machine(1, 256, &initrd, "");
        qemu.args(["-chardev", &format!("socket,id=c,path={}", at(&format!("s{cid}")))])
            .args(["-device", &format!("vhost-user-vsock-pci,chardev=c,packed={layout}")]);
        Guest::boot(qemu, 2 * LIMIT)
    };
    let mut second = guest(4, SECOND);
    let mut first = guest(3, FIRST);
    for guest in [&mut first, &mut second] {
        let features = guest.says("features");
        assert_eq!((has(&features, 34), has(&features, 1)), (false, seqpacket), "{features:?}");
    }
    let path = at("uds3");
    thread::scope(|scope| {
        scope.spawn(|| (0..2).for_each(|seed| connect(&path, 5, seed)));
        let (mut said, mut answers) = (vec![], 2 + 2 + 2 * usize::from(seqpacket));
        while answers > 0 {
            said.push(first.said().unwrap_or_else(|| panic!("the guest ended: {said:?}")).join(" "));
            answers -= 1;
        }
        said.sort();
        let mut wanted = vec!["client stream 2 1048576", "client stream 4 1048576"];
        if seqpacket {
            wanted.extend(["client seqpacket 2 1048576", "client seqpacket 4 1048576"]);
        }
        wanted.extend(["server stream 2 1048576", "server stream 2 1048576"]);
        wanted.sort();
        assert_eq!(said, wanted);
        first.ends();
    });
    let mut said: Vec<_> =
        (0..1 + usize::from(seqpacket)).map(|_| second.said().unwrap().join(" ")).collect();
    said.sort();
    let wanted = ["server seqpacket 3 1048576", "server stream 3 1048576"];
    assert_eq!(said, &wanted[usize::from(!seqpacket)..]);
    second.ends();
    host.into_iter().for_each(|thread| thread.join().unwrap());
    server.end();
    for name in ["s3", "s4", "uds3", "uds4", "uds3_seqpacket"] {
        assert!(!std::path::Path::new(&at(name)).exists(), "{name}");
    }
}

/// Whether QEMU lets a guest see that a vhost-user back-end has sequenced packets.
const QEMU_PASSES_SEQPACKET: bool = true;

#[test]
fn guests_talk_to_each_other_and_to_programs_of_the_host() {
    boot(false);
}
