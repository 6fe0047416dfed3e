//! The console driver on QEMU's virtio-serial, whose ports end at sockets here.

mod common;

use common::{LONG, TempDir};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_kit::clock::Clock;
use virtio_kit::driver::Found;
use virtio_kit::spec::console::F as ConsoleF;
use virtio_kit::{F, Features};
use virtio_kit_drivers::console::{Console, ConsoleDevice, Event, Options as Wanted, PortError, open};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{Machine, Options};

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

/// A port's socket, on which QEMU listens.
struct Socket(PathBuf);

impl Socket {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }
}

/// Adds a port, or a console, that ends at a socket.
fn add_port(
    options: Options,
    dir: &TempDir,
    bus: &str,
    kind: &str,
    nr: u32,
    rest: &str,
) -> (Options, Socket) {
    let name = format!("{bus}-{nr}");
    let path = dir.join(&name);
    let chardev = format!("socket,id={name},path={},server=on,wait=off", path.display());
    let device = format!("{kind},bus={bus}.0,chardev={name},nr={nr}{rest}");
    let options = options.argument("-chardev").argument(chardev).argument("-device").argument(device);
    (options, Socket(path))
}

fn take(machine: &Machine, slot: u8, wanted: &Wanted) -> (Console, ConsoleDevice) {
    let transport = machine.transport(slot).unwrap_or_else(|error| panic!("{error}"));
    open(Found::new(Box::new(transport)), wanted).unwrap()
}

/// Waits for this event, and gives those that came before it.
#[track_caller]
fn until(console: &mut Console, wanted: Event) -> Vec<Event> {
    let mut seen = vec![];
    let found = console.wait_for(&MonotonicClock, LONG, |_, event| {
        seen.extend(event);
        (event == Some(wanted)).then_some(())
    });
    assert_eq!(found, Ok(Some(())), "{wanted:?} after {seen:?}");
    seen
}

fn text(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

/// Bytes both ways at once through a port, whose other end echoes.
fn echo(console: &Console, id: u32, stream: &UnixStream, len: usize) {
    let port = console.port(id).unwrap();
    port.open().unwrap();
    let clock = || Arc::new(MonotonicClock) as Arc<dyn Clock>;
    let (reader, writer) = port.split();
    let (mut reader, mut writer) = (reader.blocking(clock(), LONG), writer.blocking(clock(), LONG));
    let sent = text(id as usize, len);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
            let mut piece = [0; 1000];
            let mut left = len;
            while left > 0 {
                let got = from.read(&mut piece).unwrap();
                assert_ne!(got, 0, "{left} bytes did not arrive");
                to.write_all(&piece[..got]).unwrap();
                left -= got;
            }
        });
        scope.spawn(|| {
            Write::write_all(&mut writer, &sent).unwrap();
            Write::flush(&mut writer).unwrap();
        });
        let mut back = vec![0; len];
        Read::read_exact(&mut reader, &mut back).unwrap();
        assert!(back == sent, "port {id}");
    });
}

#[test]
fn ports_and_a_console_work_both_ways_in_every_layout() {
    let dir = TempDir::new();
    let mut options = Options::default();
    let mut sockets = vec![];
    for bits in 0..8u8 {
        let bus = format!("bus{bits}");
        options = options.virtio(&format!(
            "virtio-serial-pci,id={bus},addr={},max_ports=5,packed={},in_order={},event_idx={}",
            bits + 2,
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0),
        ));
        let mut ends = vec![];
        for (kind, nr, rest) in [
            ("virtconsole", 0, String::new()),
            // QEMU wants names to differ, on all buses together.
            ("virtserialport", 1, format!(",name=org.example.{bits}")),
            ("virtserialport", 3, format!(",name=späť {bits}")),
        ] {
            let (more, socket) = add_port(options, &dir, &bus, kind, nr, &rest);
            options = more;
            ends.push(socket);
        }
        sockets.push(ends);
    }
    let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
    for (bits, ends) in sockets.iter().enumerate() {
        let (mut console, _device) = take(&machine, bits as u8 + 2, &Wanted::default());
        let pick = |bit, feature| if bits & bit != 0 { feature } else { Features::EMPTY };
        let expected = pick(1, F::RING_PACKED) | pick(2, F::IN_ORDER) | pick(4, F::EVENT_IDX);
        assert_eq!(console.features() & (F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX), expected);
        assert!(console.features().contains(ConsoleF::MULTIPORT | ConsoleF::EMERG_WRITE));
        assert_eq!(console.max_ports(), 5);
        let found = console.wait_for(&MonotonicClock, LONG, |console, event| {
            assert!(!matches!(event, Some(Event::Ignored(_))), "{event:?}");
            (console.named(&format!("späť {bits}")) == Some(3) && console.ports().count() == 3).then_some(())
        });
        assert_eq!(found, Ok(Some(())), "{:?}", console.ports().collect::<Vec<_>>());
        assert_eq!(console.named(&format!("org.example.{bits}")), Some(1));
        // A console is always connected, a port when somebody is at its socket.
        let mut port = console.port(1).unwrap();
        assert_eq!(port.write(b"lost"), Err(PortError::Closed));
        drop(port);
        let streams: Vec<UnixStream> = ends.iter().map(Socket::connect).collect();
        for id in [1, 3] {
            if !console.ports().any(|port| port.id == id && port.connected) {
                until(&mut console, Event::Opened(id));
            }
        }
        let ids: Vec<_> = console.ports().map(|port| (port.id, port.console)).collect();
        assert_eq!(ids, [(0, true), (1, false), (3, false)]);
        for (id, stream) in [0, 1, 3].into_iter().zip(&streams) {
            echo(&console, id, stream, 100_000);
        }
        let mut port = console.port(3).unwrap();
        port.open().unwrap();
        drop(streams);
        until(&mut console, Event::Closed(3));
        assert_eq!(port.read(&mut [0]), Err(PortError::Closed));
    }
}

#[test]
fn a_console_without_multiport_has_one_port() {
    let dir = TempDir::new();
    let options = Options::default().virtio("virtio-serial-pci,id=bus,addr=2");
    let (options, socket) = add_port(options, &dir, "bus", "virtconsole", 0, "");
    let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let wanted = Wanted { without: ConsoleF::MULTIPORT, ..Wanted::default() };
    // Before the device is: a console throws away what comes before somebody is there.
    let mut stream = socket.connect();
    let (console, mut device) = take(&machine, 2, &wanted);
    assert_eq!((console.max_ports(), console.ports().count()), (1, 1));
    echo(&console, 0, &stream, 10_000);
    device.emergency_write(b"help").unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"help");
}

#[test]
fn an_emergency_write_comes_out_before_the_device_is_initialised() {
    let dir = TempDir::new();
    let options = Options::default().virtio("virtio-serial-pci,id=bus,addr=2");
    let (options, socket) = add_port(options, &dir, "bus", "virtconsole", 0, "");
    let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = socket.connect();
    let mut transport = machine.transport(2).unwrap();
    virtio_kit_drivers::console::emergency_write(&mut transport, b"early").unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
}

#[test]
fn ports_are_plugged_in_and_removed_while_the_driver_runs() {
    let dir = TempDir::new();
    let mut options = Options::default();
    for slot in [2, 3] {
        let packed = on(slot == 3);
        options = options.virtio(&format!("virtio-serial-pci,id=bus{slot},addr={slot},packed={packed}"));
    }
    let qmp = format!("unix:{},server=on,wait=off", dir.join("qmp").display());
    let machine = Machine::start(&options.argument("-qmp").argument(qmp)).unwrap();
    let mut qmp = Qmp::connect(dir.join("qmp"));
    for slot in [2, 3] {
        let (mut console, _device) = take(&machine, slot, &Wanted::default());
        assert_eq!(console.max_ports(), 31);
        for round in 0..3 {
            let path = dir.join(&format!("hot{slot}-{round}"));
            qmp.run(&format!(
                r#"{{"execute":"chardev-add","arguments":{{"id":"c{slot}-{round}","backend":{{"type":"socket","data":{{"addr":{{"type":"unix","data":{{"path":"{}"}}}},"server":true,"wait":false}}}}}}}}"#,
                path.display()
            ));
            qmp.run(&format!(
                r#"{{"execute":"device_add","arguments":{{"driver":"virtserialport","id":"p","bus":"bus{slot}.0","chardev":"c{slot}-{round}","nr":7,"name":"hot"}}}}"#
            ));
            until(&mut console, Event::Named(7));
            assert_eq!(console.named("hot"), Some(7));
            let stream = Socket(path).connect();
            until(&mut console, Event::Opened(7));
            echo(&console, 7, &stream, 5000);
            let mut port = console.port(7).unwrap();
            qmp.run(r#"{"execute":"device_del","arguments":{"id":"p"}}"#);
            until(&mut console, Event::Removed(7));
            assert_eq!(port.read(&mut [0]), Err(PortError::Removed));
            drop(port);
            assert_eq!(console.ports().count(), 0);
        }
    }
}

#[test]
fn thirty_ports_are_all_announced() {
    let dir = TempDir::new();
    let mut options = Options::default().virtio("virtio-serial-pci,id=bus,addr=2");
    for nr in 1..31 {
        let rest = format!(",name=port-{nr}");
        (options, _) = add_port(options, &dir, "bus", "virtserialport", nr, &rest);
    }
    let machine = Machine::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let (mut console, _device) = take(&machine, 2, &Wanted::default());
    let all = |console: &mut Console, _| {
        (1..31).all(|nr| console.named(&format!("port-{nr}")) == Some(nr)).then_some(())
    };
    let found = console.wait_for(&MonotonicClock, LONG, all);
    assert_eq!(found, Ok(Some(())), "{:?}", console.ports().collect::<Vec<_>>());
}

/// The socket by which QEMU itself is told things.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(path: PathBuf) -> Self {
        let mut qmp = Self(BufReader::new(Socket(path).connect()));
        let mut greeting = String::new();
        qmp.0.read_line(&mut greeting).unwrap();
        qmp.run(r#"{"execute":"qmp_capabilities"}"#);
        qmp
    }

    fn run(&mut self, command: &str) {
        writeln!(self.0.get_mut(), "{command}").unwrap();
        let mut line = String::new();
        while !line.contains("\"return\"") {
            assert!(!line.contains("\"error\""), "{command}: {line}");
            line.clear();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "QEMU is gone");
        }
    }
}
