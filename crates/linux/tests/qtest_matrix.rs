//! Every driver on QEMU's own devices, over every bus and interface that QEMU has for them, in every shape of ring: split
//! and packed, in order, with event index, with indirect descriptors, with and without the platform's addresses.

#[allow(unreachable_pub, dead_code, reason = "a module of several tests")]
#[path = "qtest/blk.rs"]
mod blk;
mod common;

use common::{LONG as LIMIT, TempDir};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;
use virtio_kit::clock::Clock;
use virtio_kit::driver::Found;
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::{Address, LegacyTransport, PciTransport};
use virtio_kit::transport::Transport;
use virtio_kit::{F, Features};
use virtio_kit_drivers::{console, net, rng};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{Board, Machine, Options};

/// How a device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Pci,
    /// A transitional function by its modern capabilities.
    Transitional,
    /// The same by its legacy registers.
    LegacyPci,
    Mmio,
    LegacyMmio,
}

impl Way {
    const ALL: [Self; 5] = [Self::Pci, Self::Transitional, Self::LegacyPci, Self::Mmio, Self::LegacyMmio];

    fn is_pci(self) -> bool {
        !matches!(self, Self::Mmio | Self::LegacyMmio)
    }

    fn is_legacy(self) -> bool {
        matches!(self, Self::LegacyPci | Self::LegacyMmio)
    }

    fn board(self) -> Board {
        if self.is_pci() { Board::Pc } else { Board::MicroVm { legacy: self == Self::LegacyMmio } }
    }

    /// As many devices as there is room for on one machine.
    fn room(self) -> usize {
        if self.is_pci() { 32 } else { 16 }
    }

    /// QEMU's device of a type, the `n`th of the machine.
    fn device(self, kind: &str, n: usize, properties: &str) -> String {
        match self {
            Self::Mmio | Self::LegacyMmio => format!("virtio-{kind}-device,{properties}"),
            _ => {
                let (slot, function) = (n / 8 + 2, n % 8);
                let modern_only = on(self == Self::Pci);
                let rom = if kind == "net" { "romfile=," } else { "" };
                format!(
                    "virtio-{kind}-pci,addr={slot}.{function},multifunction=on,disable-modern=off,\
                     disable-legacy={modern_only},{rom}{properties}",
                )
            }
        }
    }

    fn open(self, machine: &Machine, n: usize) -> Box<dyn Transport> {
        let host = Arc::new(machine.clone());
        let at = Address::new(0, n as u8 / 8 + 2, n as u8 % 8);
        match self {
            Self::Pci | Self::Transitional => Box::new(PciTransport::open(host, at).unwrap()),
            Self::LegacyPci => Box::new(LegacyTransport::open(host, at).unwrap()),
            Self::Mmio | Self::LegacyMmio => {
                // QEMU fills the places from the last one down.
                let mut places = machine.places().to_vec();
                places.sort();
                let place = places[places.len() - 1 - n];
                Box::new(MmioTransport::open(host, place).unwrap().expect("a device"))
            }
        }
    }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

const CHOICES: [(&str, Features); 5] = [
    ("event_idx", F::EVENT_IDX),
    ("indirect_desc", F::INDIRECT_DESC),
    ("packed", F::RING_PACKED),
    ("in_order", F::IN_ORDER),
    ("iommu_platform", F::ACCESS_PLATFORM),
];

/// One choice of each: bits in the order of [`CHOICES`].
#[derive(Clone, Copy, Debug)]
struct Shape(u8);

impl Shape {
    /// Those that an interface has: a legacy one only the first two choices. A transitional function has no platform's
    /// addresses, or else QEMU would refuse its legacy interface.
    fn all(way: Way) -> impl Iterator<Item = Self> {
        (0..if way.is_legacy() {
            4
        } else if way == Way::Transitional {
            16
        } else {
            32
        })
            .map(Self)
    }

    fn has(self, feature: Features) -> bool {
        self.features().contains(feature)
    }

    fn features(self) -> Features {
        (0..5).filter(|bit| self.0 >> bit & 1 != 0).map(|bit| CHOICES[bit].1).collect()
    }

    fn properties(self) -> String {
        let property = |(name, feature)| format!("{name}={}", on(self.has(feature)));
        CHOICES.map(property).join(",")
    }
}

/// Has `work` done with a device of type `kind` in each shape, however it can be reached. `add` gives the machine what
/// a device needs, and names the device's properties.
fn everywhere<E>(
    kind: &str,
    ways: &[Way],
    mut add: impl FnMut(Options, &TempDir, &str) -> (Options, String, E),
    after: impl Fn(Options, &str, &E) -> Options,
    work: impl Fn(Box<dyn Transport>, &E, Shape, &str) -> Features,
) {
    for &way in ways {
        let shapes: Vec<_> = Shape::all(way).collect();
        for shapes in shapes.chunks(way.room()) {
            let dir = TempDir::in_memory();
            let mut options = Options { board: way.board(), memory: 128 << 20, ..Options::default() };
            let mut ends = vec![];
            for (n, &shape) in shapes.iter().enumerate() {
                let name = format!("{kind}{}", shape.0);
                let (more, properties, end) = add(options, &dir, &name);
                let properties = format!("{},{properties}", shape.properties());
                options = after(more.device(&way.device(kind, n, &properties)), &name, &end);
                ends.push((shape, name, end));
            }
            let machine =
                Machine::start(&options).unwrap_or_else(|error| panic!("{error}. ./ci.sh installs it."));
            for (n, (shape, name, end)) in ends.iter().enumerate() {
                let title = format!("{name} {way:?} {:?}", shape.features());
                let transport = way.open(&machine, n);
                assert_eq!(transport.legacy().is_some(), way.is_legacy(), "{title}");
                let features = work(transport, end, *shape, &title);
                let all: Features = CHOICES.iter().map(|choice| choice.1).collect();
                assert_eq!(features & all, shape.features(), "{title}");
                assert_eq!(features.contains(F::VERSION_1), !way.is_legacy(), "{title}");
            }
        }
    }
}

#[test]
fn blk_everywhere() {
    everywhere(
        "blk",
        &Way::ALL,
        |options, dir, name| {
            let (options, file) = blk::add_file(options, dir, name);
            (options, format!("{},num-queues=1", blk::disk(name)), file)
        },
        |options, _, _| options,
        |transport, file, shape, title| {
            let wanted = virtio_kit_drivers::blk::Options::default();
            let found = Found::new(transport);
            let (mut disk, _device) =
                virtio_kit_drivers::blk::open::<blk::Data, u64>(found, &wanted).unwrap();
            let name = title.split(' ').next().unwrap();
            blk::exercise(&mut disk.queues[0], file, name, shape.has(F::IN_ORDER));
            disk.features
        },
    );
}

#[test]
fn rng_everywhere() {
    let content: Vec<u8> = (0..40_000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    everywhere(
        "rng",
        &Way::ALL,
        |options, dir, name| {
            // What QEMU gives is what is in a file.
            let path = dir.join(name);
            std::fs::write(&path, &content).unwrap();
            let object = format!("rng-random,id=r-{name},filename={}", path.display());
            (options.argument("-object").argument(object), format!("rng=r-{name}"), ())
        },
        |options, _, ()| options,
        |transport, (), shape, title| {
            // At the end of an in-order ring, which has 8 entries, QEMU up to 10.0.2 reads beyond its table, and goes on
            // with what it finds there: less than one lap.
            let lens =
                if shape.has(F::IN_ORDER) { &[1, 4, 999, 1001][..] } else { &[1, 4, 32, 999, 1000, 20_000] };
            let wanted = rng::Options { requests: 16, bytes: 1000, ..rng::Options::default() };
            let (rng, _device) = rng::open(Found::new(transport), &wanted).unwrap();
            let features = rng.features();
            let mut rng = rng::BlockingRng::new(rng, Arc::new(MonotonicClock), LIMIT);
            let mut at = 0;
            for &len in lens {
                let mut got = vec![0; len];
                rng.fill(&mut got).unwrap_or_else(|error| panic!("{title}: {error}"));
                assert!(got == content[at..at + len], "{title}: {len} bytes at {at}");
                at += len;
            }
            features
        },
    );
}

const MAC: net::Mac = [2, 0, 0, 0, 0, 0x10];

fn frame(to: net::Mac, number: u32) -> Vec<u8> {
    let len = 60 + number % 1000 * 997 % 1455;
    let mut bytes: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(31) ^ number) as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x20]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

#[test]
fn net_everywhere() {
    const OTHER: net::Mac = [2, 0, 0, 0, 0, 0x20];
    everywhere(
        "net",
        &NET_WAYS,
        |options, dir, name| {
            // The other end of the wire is a datagram socket: a datagram is a frame.
            let (theirs, ours) = (dir.join(&format!("{name}-q")), dir.join(&format!("{name}-t")));
            let socket = UnixDatagram::bind(&ours).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let netdev = format!(
                "dgram,id=n-{name},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                theirs.display(),
                ours.display()
            );
            let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
            let properties = format!("netdev=n-{name},mac={mac}");
            (options.argument("-netdev").argument(netdev), properties, (socket, theirs))
        },
        |options, _, _| options,
        |transport, (socket, theirs), _, title| {
            socket.connect(theirs).unwrap();
            let wanted = net::Options { control_limit: LIMIT, ..net::Options::new(Arc::new(MonotonicClock)) };
            let (mut net, _device) = net::open(Found::new(transport), &wanted).unwrap();
            assert_eq!(net.info.mac, Some(MAC));
            let pair = &mut net.pairs[0];
            let mut bytes = vec![0; 4096];
            let mut number = 0;
            for round in 0..40 {
                let count = 1 + round % 8;
                for i in number..number + count {
                    pair.tx.send_copy(&frame(OTHER, i), &net::Offload::default()).unwrap();
                }
                pair.tx.kick().unwrap();
                for i in number..number + count {
                    let len = socket.recv(&mut bytes).unwrap();
                    assert!(bytes[..len] == frame(OTHER, i), "{title}: sent {i}");
                    socket.send(&frame(MAC, !i)).unwrap();
                }
                for i in number..number + count {
                    let deadline = Instant::now() + LIMIT;
                    let len = loop {
                        match pair.rx.recv_copy(&mut bytes).unwrap() {
                            Some((len, _)) => break len,
                            None => assert!(pair.rx.wait(LIMIT).unwrap() || Instant::now() < deadline),
                        }
                    };
                    assert!(bytes[..len] == frame(MAC, !i), "{title}: received {i}");
                }
                number += count;
            }
            net.features
        },
    );
}

/// The driver leaves legacy network devices alone.
const NET_WAYS: [Way; 3] = [Way::Pci, Way::Transitional, Way::Mmio];

#[test]
fn console_everywhere() {
    everywhere(
        "serial",
        &Way::ALL,
        |options, dir, name| {
            let path = |port| dir.join(&format!("{name}-{port}"));
            let listeners = [0, 1].map(|port| UnixListener::bind(path(port)).unwrap());
            let chardev = |port| format!("socket,id=c-{name}-{port},path={}", path(port).display());
            let options = options.argument("-chardev").argument(chardev(0));
            let options = options.argument("-chardev").argument(chardev(1));
            (options, format!("id={name},max_ports=2"), listeners)
        },
        |options, name, _| {
            let port = format!("virtserialport,bus={name}.0,nr=1,chardev=c-{name}-1,name=org.example.{name}");
            options.device(&format!("virtconsole,bus={name}.0,nr=0,chardev=c-{name}-0")).device(&port)
        },
        |transport, listeners, _, title| {
            let (mut console, _device) =
                console::open(Found::new(transport), &console::Options::default()).unwrap();
            let name = format!("org.example.{}", title.split(' ').next().unwrap());
            let found = console.wait_for(&MonotonicClock, LIMIT, |console, _| {
                let connected = console.ports().filter(|port| port.connected).count() == 2;
                (connected && console.named(&name) == Some(1)).then_some(())
            });
            assert_eq!(found, Ok(Some(())), "{title}: {:?}", console.ports().collect::<Vec<_>>());
            for (id, listener) in (0..).zip(listeners) {
                let (stream, _) = listener.accept().unwrap();
                echo(&console, id, &stream, title);
            }
            console.features()
        },
    );
}

/// Bytes both ways at once through a port, whose other end echoes.
fn echo(console: &console::Console, id: u32, stream: &UnixStream, title: &str) {
    const LEN: usize = 20_000;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let port = console.port(id).unwrap();
    port.open().unwrap();
    let clock = || Arc::new(MonotonicClock) as Arc<dyn Clock>;
    let (reader, writer) = port.split();
    let (mut reader, mut writer) = (reader.blocking(clock(), LIMIT), writer.blocking(clock(), LIMIT));
    let sent: Vec<u8> = (0..LEN).map(|at| (at * 31 + at / 251 + id as usize) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (stream, stream);
            let mut piece = [0; 1000];
            let mut left = LEN;
            while left > 0 {
                let got = from.read(&mut piece).unwrap();
                assert_ne!(got, 0, "{title}: {left} bytes did not arrive");
                to.write_all(&piece[..got]).unwrap();
                left -= got;
            }
        });
        scope.spawn(|| Write::write_all(&mut writer, &sent).unwrap());
        let mut back = vec![0; LEN];
        Read::read_exact(&mut reader, &mut back).unwrap();
        assert!(back == sent, "{title}: port {id}");
    });
}
