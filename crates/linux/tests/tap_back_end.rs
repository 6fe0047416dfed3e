//! A TAP behind a network device of ours, which our driver drives over vhost-user: what is left undone passes through,
//! both ways, over one pair of queues and over several.

mod common;
#[path = "tap/packet.rs"]
#[allow(unreachable_pub, dead_code, reason = "a module of two tests")]
mod packet;
#[path = "tap/wire.rs"]
#[allow(unreachable_pub, dead_code, reason = "a module of two tests")]
mod wire;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use common::served::{back_end, serve};
use common::{LONG, until};
use packet::{MAC, OTHER, Packet};
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, F, Features};
use virtio_kit_devices::net::{Net as Device, Options as DeviceOptions};
use virtio_kit_drivers::net::{
    self, Checksum, GuestOffloads, Net, NetDevice, Offload, Protocol, Received, RxQueue, Segmentation,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::net::{Tap, TapHandle};
use virtio_kit_linux::vhost_user::back_end::{Options, Polling, Runner, Threads};
use virtio_kit_linux::vhost_user::front_end::{self, FrontEnd};
use virtio_kit_spec::net::{F as NetF, Gso, HeaderFlags, HeaderLegacy};

const SIZE: u16 = 1000;

struct World {
    net: Net,
    _device: NetDevice,
    _runner: Runner,
    tap: TapHandle,
    wire: wire::Tap,
}

impl World {
    fn new(pairs: u16, rings: Features, options: net::Options) -> Self {
        wire::leave_network();
        let tap = Tap::open("tap0", pairs).unwrap();
        let handle = tap.handle();
        let device = Device::new(tap, DeviceOptions { pairs, ..DeviceOptions::new(MAC) });
        let wire = wire::Tap::of_somebody();
        let options = net::Options { pairs, control_limit: LONG, ..options };
        let back = back_end(device, Options { ring_features: rings | F::VERSION_1, ..Options::default() });
        let (runner, stream) = serve(back, Threads::PerQueue, Polling::default());
        let front = front_end::Options { timeout: LONG, ..front_end::Options::new(DeviceId::NETWORK) };
        let front = FrontEnd::over(stream, front).unwrap();
        let (net, device) = net::open(Found::new(Box::new(front)), &options).unwrap();
        Self { net, _device: device, _runner: runner, tap: handle, wire }
    }
}

fn options() -> net::Options {
    net::Options::new(Arc::new(MonotonicClock))
}

fn layouts() -> [Features; 4] {
    let more = F::EVENT_IDX | F::INDIRECT_DESC;
    [more, more | F::IN_ORDER, more | F::RING_PACKED, more | F::RING_PACKED | F::IN_ORDER]
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

/// Sends a frame from outside until it comes by that pair. The kernel learns of queues and flows a moment after the
/// frame that it learns from is out, so an answer may be too early: it comes by another pair, or is lost.
fn comes_by(world: &mut World, pair: usize, header: &HeaderLegacy, bytes: &[u8]) {
    let deadline = Instant::now() + LONG;
    loop {
        world.wire.send(header, bytes);
        let this_time = Instant::now() + LONG / 10;
        let by = loop {
            let all = world.net.pairs.iter_mut().enumerate();
            let mut came = all.filter_map(|(pair, queues)| Some((pair, queues.rx.recv().unwrap()?)));
            if let Some((by, Received { frame, .. })) = came.next() {
                drop(came);
                let mut got = vec![0; frame.len()];
                frame.copy_to(&mut got);
                world.net.pairs[by].rx.recycle(frame);
                assert!(got == bytes);
                break Some(by);
            }
            drop(came);
            if Instant::now() > this_time {
                break None;
            }
            std::thread::yield_now();
        };
        if by == Some(pair) {
            return;
        }
        assert!(Instant::now() < deadline, "it comes by {by:?}, not by {pair}");
    }
}

#[test]
fn the_kernel_is_told_what_the_driver_leaves_undone() {
    for rings in layouts() {
        let mut world = World::new(1, rings, options());
        let needed = NetF::CSUM | NetF::HOST_TSO4 | NetF::HOST_TSO6 | NetF::HOST_USO | NetF::HOST_ECN;
        assert!(world.net.features.contains(needed), "{:?}", world.net.features);
        let tx = &mut world.net.pairs[0].tx;
        for (packet, protocol, gso) in kinds() {
            // A partial checksum, then segments.
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
                let (seen, frame) = world.wire.recv();
                assert!(frame == bytes);
                assert_eq!((seen.flags, Gso(seen.gso_type)), (HeaderFlags::NEEDS_CSUM.bits(), gso));
                let places = (usize::from(seen.csum_start.get()), usize::from(seen.csum_offset.get()));
                assert_eq!(places, (packet.start(), packet.offset()));
                let size = if gso == Gso::NONE { 0 } else { SIZE };
                assert_eq!(seen.gso_size.get(), size);
            }
        }
    }
}

#[test]
fn the_driver_gets_what_the_kernel_leaves_undone_and_what_it_cannot_do_is_done_for_it() {
    for rings in layouts() {
        let mut world = World::new(1, rings, options());
        let control = world.net.control.as_mut().unwrap();
        let rx = &mut world.net.pairs[0].rx;
        for (packet, protocol, gso) in kinds() {
            let packet = Packet { to: MAC, ..packet };
            let bytes = packet.partial();
            world.wire.send(&header(&packet, gso), &bytes);
            let (frame, offload) = recv(rx);
            assert!(frame == bytes);
            let expected = segments(&packet, protocol);
            assert_eq!((offload.checksum, offload.segmentation), (expected.checksum, expected.segmentation));
        }
        control.set_guest_offloads(GuestOffloads::empty()).unwrap();
        for (packet, _, gso) in kinds() {
            let packet = Packet { to: MAC, payload: 3000, ..packet };
            world.wire.send(&header(&packet, gso), &packet.partial());
            for _ in 0..3 {
                let (frame, offload) = recv(rx);
                assert_eq!(
                    (frame.len(), offload),
                    (packet.headers() + usize::from(SIZE), Offload::default())
                );
            }
        }
        let counters = world.tap.counters();
        assert_eq!((counters.refused, counters.malformed), (0, 0));
    }
}

#[test]
fn a_flow_is_received_where_it_was_sent_and_only_queues_in_use_are_the_kernels() {
    for rings in layouts() {
        let mut world = World::new(4, rings, options());
        assert!(world.net.features.contains(NetF::MQ), "{:?}", world.net.features);
        assert!(!world.net.features.contains(NetF::RSS), "the kernel steers");
        // One pair is in use: whatever the kernel thinks of a flow, it comes by that.
        let one = |source_port| Packet { v6: false, udp: true, to: MAC, source_port, payload: 64 };
        world.net.control.as_mut().unwrap().set_pairs(1).unwrap();
        // Seen by the next frame at the latest, which comes by the queue that is left.
        world.net.pairs[0].tx.send_copy(&one(1).partial(), &Offload::default()).unwrap();
        world.net.pairs[0].tx.kick().unwrap();
        world.wire.recv();
        comes_by(&mut world, 0, &header(&one(999), Gso::NONE), &one(999).partial());
        for port in 1000..1040 {
            world.wire.send(&header(&one(port), Gso::NONE), &one(port).partial());
            assert!(recv(&mut world.net.pairs[0].rx).0 == one(port).partial());
        }
        world.net.control.as_mut().unwrap().set_pairs(4).unwrap();
        for round in 0..2 {
            for (pair, port) in (0..4).zip(2000..) {
                // The flow is learned by being sent: the same one, the other way round.
                let bytes = one(port + round * 100).partial();
                let tx = &mut world.net.pairs[pair].tx;
                tx.send_copy(&bytes, &Offload::default()).unwrap();
                tx.kick().unwrap();
                assert!(world.wire.recv().1 == bytes);
                let mut answer = bytes.clone();
                answer[26..30].copy_from_slice(&bytes[30..34]);
                answer[30..34].copy_from_slice(&bytes[26..30]);
                answer[34..36].copy_from_slice(&bytes[36..38]);
                answer[36..38].copy_from_slice(&bytes[34..36]);
                comes_by(&mut world, pair, &header(&one(port), Gso::NONE), &answer);
            }
        }
    }
}

#[test]
fn an_interface_that_is_down_loses_frames_and_nothing_else() {
    let mut world = World::new(1, F::RING_PACKED, options());
    let packet = Packet { v6: false, udp: true, to: OTHER, source_port: 1, payload: 64 };
    let send = |world: &mut World| {
        world.net.pairs[0].tx.send_copy(&packet.partial(), &Offload::default()).unwrap();
        world.net.pairs[0].tx.kick().unwrap();
    };
    send(&mut world);
    world.wire.recv();
    world.wire.stop();
    send(&mut world);
    until("the frame is refused", || world.tap.counters().refused == 1);
    world.wire = wire::Tap::of_somebody();
    send(&mut world);
    assert!(world.wire.recv().1 == packet.partial());
    assert!(!world.net.link.needs_reset());
}
