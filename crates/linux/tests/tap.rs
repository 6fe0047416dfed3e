//! Offloads, several queue pairs and hashes, with QEMU's virtio-net on a TAP of the kernel: what the driver says in
//! its headers the kernel has to understand, and the other way round.

mod common;
#[path = "tap/packet.rs"]
#[allow(unreachable_pub, reason = "a module of a test")]
mod packet;
#[path = "tap/wire.rs"]
#[allow(unreachable_pub, dead_code, reason = "a module of two tests")]
mod wire;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use common::LONG;
use packet::{MAC, OTHER, Packet, toeplitz};
use virtio_kit::F;
use virtio_kit::driver::Found;
use virtio_kit_drivers::net::{
    self, Checksum, DEFAULT_KEY, GuestOffloads, HashReport, HashTypes, Net, NetDevice, Offload, Protocol,
    Received, Rss, RxQueue, Segmentation,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{self, Machine, Options};
use virtio_kit_spec::net::{F as NetF, Gso, HeaderFlags, HeaderLegacy};
use wire::Tap;

/// A machine with one network device on a TAP.
struct World {
    net: Net,
    _device: NetDevice,
    _machine: Machine,
    tap: Tap,
}

impl World {
    fn new(pairs: usize, properties: &str, wanted: net::Options) -> Self {
        let tap = Tap::new(pairs);
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        let netdev = format!("tap,id=n,{}={},vhost=off", if pairs > 1 { "fds" } else { "fd" }, tap.fds());
        let device = format!("virtio-net-pci,netdev=n,addr=2,mac={mac},romfile=,{properties}");
        let options = Options::default().argument("-netdev").argument(netdev).virtio(&device);
        let machine = match Machine::start(&options) {
            Ok(machine) => machine,
            Err(error @ qtest::Error::Missing(_)) => panic!("{error}. Run ./ci.sh, which installs it."),
            Err(error) => panic!("{error}"),
        };
        let found = Found::new(Box::new(machine.transport(2).unwrap()));
        let (net, device) = net::open(found, &wanted).unwrap();
        Self { net, _device: device, _machine: machine, tap }
    }
}

fn options() -> net::Options {
    net::Options { control_limit: LONG, ..net::Options::new(Arc::new(MonotonicClock)) }
}

/// The next frame, asleep until it comes.
fn recv(rx: &mut RxQueue) -> (Vec<u8>, Offload) {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(Received { frame, offload }) = rx.recv().unwrap() {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            rx.recycle(frame);
            return (bytes, offload);
        }
        assert!(rx.wait(LONG).unwrap() || Instant::now() < deadline, "nothing came: {:?}", rx.stats());
    }
}

/// All that can be segmented.
fn kinds() -> impl Iterator<Item = (Packet, Protocol, Gso)> {
    [
        (false, false, Protocol::Tcp4, Gso::TCPV4),
        (true, false, Protocol::Tcp6, Gso::TCPV6),
        (false, true, Protocol::Udp, Gso::UDP_L4),
        (true, true, Protocol::Udp, Gso::UDP_L4),
    ]
    .into_iter()
    .map(|(v6, udp, protocol, gso)| {
        (Packet { v6, udp, to: OTHER, source_port: 1000, payload: 20_000 }, protocol, gso)
    })
}

const SIZE: u16 = 1000;

fn segments(packet: &Packet, protocol: Protocol) -> Offload {
    let size = NonZeroU16::new(SIZE).unwrap();
    let header_len = packet.headers() as u16;
    let checksum = Checksum::Partial { start: packet.start() as u16, offset: packet.offset() as u16 };
    Offload {
        checksum,
        segmentation: Some(Segmentation { protocol, ecn: false, size, header_len }),
        hash: None,
    }
}

fn header(packet: &Packet, gso: Gso) -> HeaderLegacy {
    HeaderLegacy {
        flags: HeaderFlags::NEEDS_CSUM.bits(),
        gso_type: gso.0,
        hdr_len: (packet.headers() as u16).into(),
        gso_size: if gso == Gso::NONE { 0.into() } else { SIZE.into() },
        csum_start: (packet.start() as u16).into(),
        csum_offset: (packet.offset() as u16).into(),
    }
}

fn layouts() -> impl Iterator<Item = &'static str> {
    ["packed=off,in_order=off", "packed=off,in_order=on", "packed=on,in_order=off", "packed=on,in_order=on"]
        .into_iter()
}

#[test]
fn the_kernel_understands_what_is_to_be_summed_and_cut() {
    for layout in layouts() {
        let mut world = World::new(1, layout, options());
        let needed = NetF::CSUM | NetF::HOST_TSO4 | NetF::HOST_TSO6 | NetF::HOST_USO | NetF::HOST_ECN;
        assert!(world.net.features.contains(needed), "{:?}", world.net.features);
        let tx = &mut world.net.pairs[0].tx;
        for (packet, protocol, gso) in kinds() {
            // A whole one, then a partial checksum, then segments.
            for (payload, offload, gso) in [
                (500, Offload { segmentation: None, ..segments(&packet, protocol) }, Gso::NONE),
                (packet.payload, segments(&packet, protocol), gso),
            ] {
                let packet = Packet { payload, ..packet };
                let bytes = packet.partial();
                let mut frame = tx.frame(bytes.len()).unwrap();
                frame.write(0, &bytes).unwrap();
                tx.send(frame, &offload).unwrap();
                tx.kick().unwrap();
                let (seen, frame) = world.tap.recv();
                assert_eq!(frame, bytes);
                assert_eq!((seen.flags, Gso(seen.gso_type)), (HeaderFlags::NEEDS_CSUM.bits(), gso));
                assert_eq!(usize::from(seen.csum_start.get()), packet.start());
                assert_eq!(usize::from(seen.csum_offset.get()), packet.offset());
                if gso != Gso::NONE {
                    assert_eq!(
                        (seen.gso_size.get(), usize::from(seen.hdr_len.get())),
                        (SIZE, packet.headers())
                    );
                }
            }
        }
        let (packet, protocol, gso) = kinds().next().unwrap();
        let mut offload = segments(&packet, protocol);
        offload.segmentation.as_mut().unwrap().ecn = true;
        let bytes = packet.partial();
        let mut frame = tx.frame(bytes.len()).unwrap();
        frame.write(0, &bytes).unwrap();
        tx.send(frame, &offload).unwrap();
        tx.kick().unwrap();
        let (seen, _) = world.tap.recv();
        assert_eq!(Gso(seen.gso_type), Gso(gso.0 | Gso::ECN.0));
    }
}

#[test]
fn what_the_kernel_leaves_undone_comes_whole_and_stops_when_the_driver_says_so() {
    for layout in layouts() {
        let mut world = World::new(1, layout, options());
        let needed = NetF::GUEST_CSUM
            | NetF::GUEST_TSO4
            | NetF::GUEST_TSO6
            | NetF::GUEST_USO4
            | NetF::GUEST_USO6
            | NetF::MRG_RXBUF
            | NetF::CTRL_GUEST_OFFLOADS;
        assert!(world.net.features.contains(needed), "{:?}", world.net.features);
        let rx = &mut world.net.pairs[0].rx;
        for (packet, protocol, gso) in kinds() {
            let packet = Packet { to: MAC, ..packet };
            let bytes = packet.partial();
            world.tap.send(&header(&packet, gso), &bytes);
            let (frame, offload) = recv(rx);
            assert_eq!(frame, bytes);
            let expected = segments(&packet, protocol);
            assert_eq!((offload.checksum, offload.segmentation), (expected.checksum, expected.segmentation));
        }
        // Without segments the kernel cuts, without partial checksums it sums.
        let control = world.net.control.as_mut().unwrap();
        control.set_guest_offloads(GuestOffloads::CSUM).unwrap();
        for (packet, _, gso) in kinds() {
            let packet = Packet { to: MAC, payload: 3000, ..packet };
            world.tap.send(&header(&packet, gso), &packet.partial());
            for _ in 0..3 {
                let (frame, offload) = recv(rx);
                assert_eq!(frame.len(), packet.headers() + usize::from(SIZE));
                assert_eq!(offload.segmentation, None);
            }
        }
        control.set_guest_offloads(GuestOffloads::empty()).unwrap();
        for (packet, ..) in kinds() {
            let packet = Packet { to: MAC, payload: 700, ..packet };
            world.tap.send(&header(&packet, Gso::NONE), &packet.partial());
            let (frame, offload) = recv(rx);
            assert_eq!(offload, Offload::default());
            assert!(packet.is_whole(&frame, 700));
        }
        control.set_guest_offloads(control.guest_offloads()).unwrap();
        let (packet, _, gso) = kinds().next().unwrap();
        let packet = Packet { to: MAC, ..packet };
        world.tap.send(&header(&packet, gso), &packet.partial());
        assert!(recv(rx).1.segmentation.is_some());
    }
}

#[test]
fn long_frames_come_into_long_buffers_where_buffers_cannot_be_merged() {
    let wanted = net::Options { buffer_len: 65609, queue_size: 64, ..options() };
    let mut world = World::new(1, "packed=on,mrg_rxbuf=off", wanted);
    let features = world.net.features;
    assert!(features.contains(NetF::GUEST_TSO4) && !features.contains(NetF::MRG_RXBUF));
    for (packet, _, gso) in kinds() {
        let packet = Packet { to: MAC, payload: 60_000, ..packet };
        world.tap.send(&header(&packet, gso), &packet.partial());
        let (frame, offload) = recv(&mut world.net.pairs[0].rx);
        assert!(frame == packet.partial() && offload.segmentation.is_some());
    }
    // And where the buffers are short, the kernel is told to cut.
    drop(world);
    let mut world = World::new(1, "mrg_rxbuf=off", options());
    assert!(!world.net.features.intersects(NetF::GUEST_TSO4 | NetF::GUEST_USO4));
    let (packet, _, gso) = kinds().next().unwrap();
    let packet = Packet { to: MAC, payload: 2000, ..packet };
    world.tap.send(&header(&packet, gso), &packet.partial());
    for _ in 0..2 {
        assert_eq!(recv(&mut world.net.pairs[0].rx).0.len(), packet.headers() + 1000);
    }
}

#[test]
fn two_pairs_send_and_receive_and_frames_are_spread_by_their_hash() {
    for packed in ["on", "off"] {
        let properties = format!("mq=on,rss=on,hash=on,vectors=6,packed={packed}");
        let wanted = net::Options { pairs: 2, hash_report: true, ..options() };
        let mut world = World::new(2, &properties, wanted);
        let needed = NetF::MQ | NetF::RSS | NetF::HASH_REPORT;
        assert!(world.net.features.contains(needed), "{:?}", world.net.features);
        assert_eq!(world.net.features.contains(F::RING_PACKED), packed == "on");
        assert_eq!((world.net.pairs.len(), world.net.pairs[0].tx.headroom()), (2, 20));
        let control = world.net.control.as_mut().unwrap();
        assert_eq!(control.pairs(), 2);
        // Both transmit queues, with the longer header.
        for (number, pair) in (0u16..).zip(&mut world.net.pairs) {
            let packet = Packet { v6: false, udp: true, to: OTHER, source_port: number, payload: 100 };
            pair.tx.send_copy(&packet.partial(), &Offload::default()).unwrap();
            pair.tx.kick().unwrap();
            assert_eq!(world.tap.recv().1, packet.partial());
        }
        let types = HashTypes::TCPV4 | HashTypes::UDPV4 | HashTypes::TCPV6 | HashTypes::UDPV6;
        let key: Vec<u8> = DEFAULT_KEY.iter().enumerate().map(|(i, b)| b ^ i as u8).collect();
        let table = [1, 0, 0, 1];
        control.set_rss(&Rss { types, table: &table, unclassified: 1, tx_queues: 2, key: &key }).unwrap();
        let reports = [HashReport::TCPV4, HashReport::TCPV6, HashReport::UDPV4, HashReport::UDPV6];
        let mut used = [0; 2];
        for ((packet, ..), report) in kinds().zip(reports) {
            for source_port in 1..30 {
                let packet = Packet { to: MAC, source_port, payload: 64, ..packet };
                world.tap.send(&header(&packet, Gso::NONE), &packet.partial());
                let hash = toeplitz(&key, &packet.flow());
                let queue = usize::from(table[hash as usize & 3]);
                let (frame, offload) = recv(&mut world.net.pairs[queue].rx);
                assert_eq!(frame, packet.partial());
                let seen = offload.hash.unwrap();
                assert_eq!((seen.report, seen.value), (report, hash));
                used[queue] += 1;
            }
        }
        assert!(used[0] > 20 && used[1] > 20, "{used:?}");
        // Only one pair from now on; without a hash.
        control.set_pairs(1).unwrap();
        let packet = Packet { v6: false, udp: true, to: MAC, source_port: 7, payload: 64 };
        world.tap.send(&header(&packet, Gso::NONE), &packet.partial());
        assert_eq!(recv(&mut world.net.pairs[0].rx).0, packet.partial());
    }
}
