//! Our entropy, console and socket drivers on the published back-ends vhost-device-rng, -console and -vsock.

mod common;

use common::{LONG, TempDir, until};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit::spec::console::F as ConsoleF;
use virtio_kit::{DeviceId, Features};
use virtio_kit_drivers::{console, rng, vsock};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

/// A back-end that was started; ended with the value.
struct BackEnd {
    child: Child,
    socket: PathBuf,
}

impl BackEnd {
    fn start(dir: &TempDir, name: &str, arguments: &[&str]) -> Self {
        let socket = dir.join("s");
        let counted = ["--socket-count", "1", "--socket-path", socket.to_str().unwrap()];
        // It counts its sockets.
        Self::start_at(dir.join("s0"), name, &[&counted, arguments].concat())
    }

    /// One that listens here by these arguments.
    fn start_at(socket: PathBuf, name: &str, arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/counterparts/bin").join(name);
        let child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{}: {error}. Run ./ci.sh, which installs it.", program.display())
        });
        Self { child, socket }
    }

    fn connect(&self, device: DeviceId) -> FrontEnd {
        let options = Options { arena_len: 4 << 20, patience: LONG, timeout: LONG, ..Options::new(device) };
        FrontEnd::connect(&self.socket, options).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn entropy_comes_from_the_file_that_vhost_device_rng_reads() {
    let dir = TempDir::new();
    let file = dir.join("entropy");
    let content: Vec<u8> = (0..1_000_000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let back_end = BackEnd::start(&dir, "vhost-device-rng", &["--rng-source", file.to_str().unwrap()]);
    let front_end = back_end.connect(DeviceId::ENTROPY);
    let wanted = rng::Options { bytes: 512, ..rng::Options::default() };
    let (rng, device) = rng::open(Found::new(Box::new(front_end)), &wanted).unwrap();
    let mut rng = rng::BlockingRng::new(rng, Arc::new(MonotonicClock), LONG);
    let mut at = 0;
    for len in [1, 4, 511, 512, 513, 20_000] {
        let mut got = vec![0; len];
        rng.fill(&mut got).unwrap();
        assert!(got == content[at..at + len], "{len} bytes at {at}");
        at += len;
    }
    drop(device);
    assert!(matches!(rng.fill(&mut [0]), Err(rng::Error::Queue(_))));
}

/// vhost-device-console with a connection to its TCP port.
///
/// Version 0.1.0 takes every available buffer when it has something to say, uses one, and loses the others; of
/// several bytes that came at once it uses the same buffer several times. So little can be asked of it: one control
/// message, one byte in; out goes everything.
fn console(
    dir: &TempDir,
    without: Features,
) -> (console::Console, console::ConsoleDevice, TcpStream, BackEnd) {
    // It wants to be told a port: this one was free a moment ago, and no other test takes it before it is used.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["--backend", "network", "--tcp-port", &port.to_string()];
    let back_end = BackEnd::start(dir, "vhost-device-console", &arguments);
    let front_end = back_end.connect(DeviceId::CONSOLE);
    let options = console::Options { without, ..console::Options::default() };
    let (console, device) = console::open(Found::new(Box::new(front_end)), &options).unwrap();
    let mut stream = None;
    until("a connection to the console", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    (console, device, stream, back_end)
}

#[test]
fn text_goes_out_and_a_byte_comes_in_through_vhost_device_console() {
    let dir = TempDir::new();
    let (console, device, mut stream, _back_end) = console(&dir, ConsoleF::MULTIPORT);
    assert_eq!(console.ports().count(), 1);
    let mut port = console.port(0).unwrap().blocking(Arc::new(MonotonicClock), LONG);
    for round in 0..200 {
        let shown = format!("shown {round} {}\n", "x".repeat(round * 50));
        Write::write_all(&mut port, shown.as_bytes()).unwrap();
        Write::flush(&mut port).unwrap();
        let mut got = vec![0; shown.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == shown.as_bytes(), "{round}");
    }
    stream.write_all(b"!").unwrap();
    let mut got = [0];
    Read::read_exact(&mut port, &mut got).unwrap();
    assert_eq!(&got, b"!");
    drop(device);
}

#[test]
fn vhost_device_console_adds_its_port_when_the_driver_is_ready() {
    let dir = TempDir::new();
    let (mut console, device, _stream, _back_end) = console(&dir, Features::EMPTY);
    assert!(console.features().contains(ConsoleF::MULTIPORT));
    assert_eq!(console.max_ports(), 1);
    let first = console.wait_for(&MonotonicClock, LONG, |_, event| event);
    assert_eq!(first, Ok(Some(console::Event::Added(0))));
    drop(device);
}

/// vhost-device-vsock, which has streams only, with our driver.
#[test]
fn streams_go_both_ways_through_vhost_device_vsock() {
    let dir = TempDir::new();
    let (socket, uds) = (dir.join("s"), dir.join("uds"));
    let (at, path) = (socket.to_str().unwrap(), uds.to_str().unwrap());
    let arguments = ["--guest-cid", "3", "--socket", at, "--uds-path", path];
    let back_end = BackEnd::start_at(socket.clone(), "vhost-device-vsock", &arguments);
    let front_end = back_end.connect(DeviceId::SOCKET);
    let (driver, device) = vsock::open(Found::new(Box::new(front_end)), &vsock::Options::default()).unwrap();
    assert_eq!(driver.cid(), 3);
    let sent: Vec<u8> = (0..300_000u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let listener = UnixListener::bind(dir.join("uds_77")).unwrap();
    std::thread::scope(|scope| {
        // The guest connects, sends and gets back.
        let echo = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = vec![0; 300_000];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        });
        let kind = vsock::Kind::Stream;
        let out = driver.connect(kind, vsock::Address::new(2, 77)).unwrap();
        let mut out = out.blocking(Arc::new(MonotonicClock), LONG);
        out.open().unwrap();
        Write::write_all(&mut out, &sent).unwrap();
        let mut got = vec![0; sent.len()];
        Read::read_exact(&mut out, &mut got).unwrap();
        assert!(got == sent);
        // The other end has gone.
        assert_eq!(out.read(&mut [0]), Ok(0));
        echo.join().unwrap();
        drop(out);
        // A program connects, and several at a time.
        let mut listener = driver.listen(kind, 5, 8).unwrap();
        let mut programs: Vec<UnixStream> = (0..4u8)
            .map(|_| {
                let mut stream = UnixStream::connect(&uds).unwrap();
                stream.set_read_timeout(Some(LONG)).unwrap();
                stream.write_all(b"CONNECT 5\n").unwrap();
                stream
            })
            .collect();
        let sockets: Vec<_> = (0..4)
            .map(|_| {
                let socket = listener.accept_within(&MonotonicClock, LONG).unwrap();
                assert_eq!((socket.near().port, socket.far().cid), (5, 2));
                socket
            })
            .collect();
        for mut socket in sockets {
            let line = format!("OK {}\n", socket.far().port);
            assert_eq!(socket.write(b"welcome"), Ok(Some(7)));
            let mut socket = socket.blocking(Arc::new(MonotonicClock), LONG);
            let mut program = programs.remove(0);
            let mut got = vec![0; line.len() + 7];
            program.read_exact(&mut got).unwrap();
            assert!(got.starts_with(b"OK ") && got.ends_with(b"\nwelcome"), "{got:?}");
            program.write_all(b"thanks").unwrap();
            program.shutdown(Shutdown::Both).unwrap();
            let mut got = vec![0; 6];
            Read::read_exact(&mut socket, &mut got).unwrap();
            assert_eq!(got, b"thanks");
        }
        // Version 0.3.0 does not say that nobody listens: whoever waits does so for a bounded time.
        let nobody = driver.connect(kind, vsock::Address::new(2, 78)).unwrap();
        let limit = Duration::from_millis(50);
        let waited = nobody.blocking(Arc::new(MonotonicClock), limit).open();
        assert_eq!(waited, Err(vsock::SocketError::Timeout(limit)));
    });
    drop(device);
}
