//! Our entropy and console drivers on the published back-ends vhost-device-rng and vhost-device-console.

mod common;

use common::{LONG, TempDir, until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use virtio_kit::DeviceId;
use virtio_kit::driver::Found;
use virtio_kit::spec::console::F as ConsoleF;
use virtio_kit_drivers::{console, rng};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

/// A back-end that was started; ended with the value.
struct BackEnd {
    child: Child,
    socket: PathBuf,
}

impl BackEnd {
    fn start(dir: &TempDir, name: &str, arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/counterparts/bin").join(name);
        let socket = dir.join("s");
        let child = Command::new(&program)
            .args(["--socket-count", "1", "--socket-path", socket.to_str().unwrap()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{}: {error}. Run ./ci.sh, which installs it.", program.display())
        });
        // It counts its sockets.
        Self { child, socket: dir.join("s0") }
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

#[test]
fn text_goes_both_ways_through_vhost_device_console() {
    let dir = TempDir::new();
    // It wants to be told a port; this one was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["--backend", "network", "--tcp-port", &port.to_string()];
    let back_end = BackEnd::start(&dir, "vhost-device-console", &arguments);
    let front_end = back_end.connect(DeviceId::CONSOLE);
    let found = Found::new(Box::new(front_end));
    let (mut console, device) = console::open(found, &console::Options::default()).unwrap();
    assert!(console.features().contains(ConsoleF::MULTIPORT));
    assert_eq!(console.max_ports(), 1);
    let found = console.wait_for(&MonotonicClock, LONG, |console, event| {
        assert!(!matches!(event, Some(console::Event::Ignored(_))), "{event:?}");
        console.ports().any(|port| port.connected).then_some(())
    });
    assert_eq!(found, Ok(Some(())), "{:?}", console.ports().collect::<Vec<_>>());
    assert_eq!(console.named("org.test.foo!"), Some(0));
    let mut stream = None;
    until("a connection to the console", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let (reader, writer) = console.port(0).unwrap().split();
    let mut reader = reader.blocking(Arc::new(MonotonicClock), LONG);
    let mut writer = writer.blocking(Arc::new(MonotonicClock), LONG);
    for round in 0..20 {
        // One byte at a time: of several, version 0.1.0 uses the same buffer several times.
        for byte in format!("typed {round}\n").bytes() {
            stream.write_all(&[byte]).unwrap();
            let mut got = [0];
            Read::read_exact(&mut reader, &mut got).unwrap();
            assert_eq!(got, [byte]);
        }
        let shown = format!("shown {round}\n");
        Write::write_all(&mut writer, shown.as_bytes()).unwrap();
        Write::flush(&mut writer).unwrap();
        let mut got = vec![0; shown.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), shown);
    }
    drop(device);
}
