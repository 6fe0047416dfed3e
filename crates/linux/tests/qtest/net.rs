//! QEMU's virtio-net, whose other end is a datagram socket of the test: a datagram is a frame.

use super::{LIMIT, Qmp, TempDir, on, start};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Instant;
use virtio_kit::F;
use virtio_kit::bus::{Bound, ProbeError};
use virtio_kit::driver::Found;
use virtio_kit::pci::{Address, LegacyTransport};
use virtio_kit_drivers::net::{
    self, ControlError, Duplex, Frame, GuestOffloads, Mac, Net, NetDevice, Offload, Pair, RxMode, RxQueue,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::qtest::{Machine, Options};
use virtio_kit_spec::net::F as NetF;

const MAC: Mac = [2, 0, 0, 0, 0, 0x10];
const OTHER: Mac = [2, 0, 0, 0, 0, 0x20];
const MULTICAST: Mac = [1, 0, 0x5e, 0, 0, 7];
const BROADCAST: Mac = [0xff; 6];

/// The wire's other end.
struct Peer(UnixDatagram);

impl Peer {
    fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).unwrap();
    }

    fn recv(&self) -> Vec<u8> {
        let mut bytes = vec![0; 70_000];
        let len = self.0.recv(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }
}

/// Adds a network device in slot `slot`; its wire.
fn add_nic(options: Options, dir: &TempDir, slot: u8, properties: &str) -> (Options, Peer) {
    let (theirs, ours) = (dir.join(&format!("q{slot}")), dir.join(&format!("t{slot}")));
    let socket = UnixDatagram::bind(&ours).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    let netdev = format!(
        "dgram,id=n{slot},local.type=unix,local.path={},remote.type=unix,remote.path={}",
        theirs.display(),
        ours.display()
    );
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    let device =
        format!("virtio-net-pci,netdev=n{slot},id=nic{slot},addr={slot},mac={mac},romfile=,{properties}");
    let options = options.argument("-netdev").argument(netdev);
    let is_modern = !properties.contains("disable-modern=on");
    (if is_modern { options.virtio(&device) } else { options.device(&device) }, Peer(socket))
}

/// Once QEMU runs, its end of the wire is there.
fn connect(dir: &TempDir, slot: u8, peer: &Peer) {
    peer.0.connect(dir.join(&format!("q{slot}"))).unwrap();
}

fn options() -> net::Options {
    net::Options { control_limit: LIMIT, ..net::Options::new(Arc::new(MonotonicClock)) }
}

fn open(machine: &Machine, slot: u8, options: &net::Options) -> (Net, NetDevice) {
    net::open(Found::new(Box::new(machine.transport(slot).unwrap())), options).unwrap()
}

fn frame(to: Mac, number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(31) ^ number) as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&OTHER);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn content(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.read(0, &mut bytes).unwrap();
    bytes
}

/// The next frame, asleep until it comes.
fn recv(rx: &mut RxQueue) -> Vec<u8> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(received) = rx.recv().unwrap() {
            assert_eq!(received.offload, Offload::default());
            let bytes = content(&received.frame);
            rx.recycle(received.frame);
            return bytes;
        }
        assert!(rx.wait(LIMIT).unwrap() || Instant::now() < deadline, "nothing came: {:?}", rx.stats());
    }
}

/// Frames of many lengths out, and in; several laps of the rings.
fn exercise(pair: &mut Pair, peer: &Peer, longest: usize) {
    let len_of = |number: u32| 60 + (number as usize * 997) % (longest - 59);
    let mut number = 0;
    for round in 0..60 {
        let count = 1 + round % 8;
        for i in number..number + count {
            let sent = frame(OTHER, i, len_of(i));
            let mut out = if i % 3 == 0 {
                // A header of its own, and a frame in two buffers.
                let mut out = Frame::alloc(pair.tx.arena(), 0, 20).unwrap();
                out.push(pair.tx.arena().alloc(sent.len() - 20).unwrap()).unwrap();
                out
            } else {
                pair.tx.frame(sent.len()).unwrap()
            };
            out.write(0, &sent).unwrap();
            pair.tx.send(out, &Offload::default()).unwrap();
        }
        pair.tx.kick().unwrap();
        for i in number..number + count {
            assert_eq!(peer.recv(), frame(OTHER, i, len_of(i)));
            peer.send(&frame(MAC, !i, len_of(i)));
        }
        for i in number..number + count {
            assert_eq!(recv(&mut pair.rx), frame(MAC, !i, len_of(i)));
        }
        number += count;
        let deadline = Instant::now() + LIMIT;
        while pair.tx.in_flight() > 0 {
            if pair.tx.complete().unwrap().is_none() {
                assert!(pair.tx.wait(LIMIT).unwrap() || Instant::now() < deadline);
            }
        }
    }
}

/// Every combination of the other options, on one layout.
fn a_layout_with_every_option(packed: bool, in_order: bool) {
    let dir = TempDir::new();
    let (mut options_, mut peers) = (Options::default(), vec![]);
    for bits in 0..8u8 {
        let properties = format!(
            "packed={},in_order={},event_idx={},indirect_desc={},mrg_rxbuf={}",
            on(packed),
            on(in_order),
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0)
        );
        let (more, peer) = add_nic(options_, &dir, bits + 2, &properties);
        options_ = more;
        peers.push(peer);
    }
    let machine = start(&options_);
    let free = machine.arena().free_bytes();
    for (bits, peer) in (0u8..).zip(&peers) {
        let slot = bits + 2;
        connect(&dir, slot, peer);
        let mergeable = bits & 4 != 0;
        // In order, not so many that the ring is ever full: QEMU takes that for an empty one.
        let (mut net, device) = open(&machine, slot, &options());
        let features = net.features;
        assert_eq!(features.contains(F::RING_PACKED), packed);
        assert_eq!(features.contains(F::IN_ORDER), in_order);
        assert_eq!(features.contains(F::EVENT_IDX), bits & 1 != 0);
        assert_eq!(features.contains(NetF::MRG_RXBUF), mergeable);
        assert_eq!((net.info.mac, net.link.is_up()), (Some(MAC), true));
        exercise(&mut net.pairs[0], peer, 1514);
        if mergeable {
            // Frames that need several buffers.
            for (number, len) in [(1, 2037), (2, 9014), (3, 65_000)] {
                peer.send(&frame(MAC, number, len));
                assert_eq!(recv(&mut net.pairs[0].rx), frame(MAC, number, len));
            }
        }
        let stats = net.pairs[0].tx.stats();
        assert!(stats.notifications <= stats.kicks && stats.notifications > 0, "{stats:?}");
        // Some are in flight when the device goes.
        for i in 0..10 {
            let mut out = net.pairs[0].tx.frame(100).unwrap();
            out.write(0, &frame(OTHER, i, 100)).unwrap();
            net.pairs[0].tx.send(out, &Offload::default()).unwrap();
        }
        drop(device);
        let mut back = 0;
        while let Ok(Some(_)) = net.pairs[0].tx.complete() {
            back += 1;
        }
        assert_eq!(back, 10);
        drop(net);
        assert_eq!(machine.arena().free_bytes(), free, "slot {slot}");
    }
}

#[test]
fn net_split_with_every_option() {
    a_layout_with_every_option(false, false);
}

#[test]
fn net_packed_with_every_option() {
    a_layout_with_every_option(true, false);
}

#[test]
fn net_split_in_order_with_every_option() {
    a_layout_with_every_option(false, true);
}

#[test]
fn net_packed_in_order_with_every_option() {
    a_layout_with_every_option(true, true);
}

/// The header has 10 bytes, or 12 with mergeable buffers.
#[test]
fn net_over_legacy_pci_with_every_option() {
    let dir = TempDir::new();
    let (mut options_, mut peers) = (Options::default(), vec![]);
    for bits in 0..8u8 {
        let properties = format!(
            "disable-modern=on,disable-legacy=off,event_idx={},indirect_desc={},mrg_rxbuf={}",
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0)
        );
        let (more, peer) = add_nic(options_, &dir, bits + 2, &properties);
        options_ = more;
        peers.push(peer);
    }
    let machine = start(&options_);
    let free = machine.arena().free_bytes();
    for (bits, peer) in (0u8..).zip(&peers) {
        let slot = bits + 2;
        connect(&dir, slot, peer);
        let at = Address::new(0, slot, 0);
        let transport = LegacyTransport::open(Arc::new(machine.clone()), at).unwrap();
        let (mut net, device) = net::open(Found::new(Box::new(transport)), &options()).unwrap();
        assert!(!net.features.contains(F::VERSION_1) && net.features.contains(F::ANY_LAYOUT));
        let mergeable = bits & 4 != 0;
        assert_eq!(net.features.contains(NetF::MRG_RXBUF), mergeable);
        assert_eq!(net.pairs[0].tx.headroom(), if mergeable { 12 } else { 10 });
        assert_eq!((net.info.mac, net.link.is_up()), (Some(MAC), true));
        exercise(&mut net.pairs[0], peer, 1514);
        // The control queue too.
        let control = net.control.as_mut().unwrap();
        control.set_rx_mode(RxMode::Promiscuous, false).unwrap();
        peer.send(&frame(OTHER, 1, 64));
        peer.send(&frame(MAC, 2, 64));
        assert_eq!(recv(&mut net.pairs[0].rx), frame(MAC, 2, 64));
        drop(device);
        drop(net);
        assert_eq!(machine.arena().free_bytes(), free, "slot {slot}");
    }
}

#[test]
fn a_legacy_device_that_wants_headers_apart_is_left_alone() {
    let dir = TempDir::new();
    let (options_, _peer) =
        add_nic(Options::default(), &dir, 2, "disable-modern=on,disable-legacy=off,any_layout=off");
    let machine = start(&options_);
    let transport = LegacyTransport::open(Arc::new(machine.clone()), Address::new(0, 2, 0)).unwrap();
    let error = net::open(Found::new(Box::new(transport)), &options()).unwrap_err();
    assert_eq!(error, ProbeError::BadConfig("a legacy device without ANY_LAYOUT"));
}

#[test]
fn net_pairs_are_reset_and_start_again() {
    let dir = TempDir::new();
    let (mut options_, mut peers) = (Options::default(), vec![]);
    for (slot, packed) in [(2, false), (3, true)] {
        let (more, peer) = add_nic(options_, &dir, slot, &format!("packed={},queue_reset=on", on(packed)));
        options_ = more;
        peers.push(peer);
    }
    let machine = start(&options_);
    for (slot, peer) in (2..).zip(&peers) {
        connect(&dir, slot, peer);
        let (mut net, mut device) = open(&machine, slot, &options());
        let pair = &mut net.pairs[0];
        exercise(pair, peer, 1514);
        for _ in 0..3 {
            let free = machine.arena().free_bytes();
            for i in 0..20 {
                let mut out = pair.tx.frame(100).unwrap();
                out.write(0, &frame(OTHER, i, 100)).unwrap();
                pair.tx.send(out, &Offload::default()).unwrap();
            }
            device.reset_pair(pair).unwrap();
            let mut back = 0;
            while let Ok(Some(_)) = pair.tx.complete() {
                back += 1;
            }
            assert_eq!(back, 20);
            assert!(pair.rx.recv().is_err());
            device.restart_pair(pair).unwrap();
            exercise(pair, peer, 1514);
            pair.rx.refill().unwrap();
            assert_eq!((pair.rx.in_flight(), machine.arena().free_bytes()), (256, free));
        }
    }
}

#[test]
fn net_commands_change_what_is_received() {
    let dir = TempDir::new();
    let (options_, split) = add_nic(Options::default(), &dir, 2, "packed=off");
    let (options_, packed) = add_nic(options_, &dir, 3, "packed=on");
    let machine = start(&options_);
    for (slot, peer) in [(2, &split), (3, &packed)] {
        connect(&dir, slot, peer);
        let (mut net, mut device) = open(&machine, slot, &options());
        let wanted = NetF::CTRL_VQ
            | NetF::CTRL_RX
            | NetF::CTRL_RX_EXTRA
            | NetF::CTRL_VLAN
            | NetF::CTRL_MAC_ADDR
            | NetF::GUEST_ANNOUNCE;
        assert_eq!(net.features & wanted, wanted);
        let control = net.control.as_mut().unwrap();
        let rx = &mut net.pairs[0].rx;
        let mut number = 0;
        // Whether a frame passes: the one after it always does.
        let mut passes = |rx: &mut RxQueue, first: &[u8], marker: Mac| {
            number += 1;
            peer.send(first);
            let end = frame(marker, number, 64);
            peer.send(&end);
            let got = recv(rx);
            if got == end {
                return false;
            }
            assert_eq!(got, first);
            assert_eq!(recv(rx), end);
            true
        };
        let tagged = |vlan: u16| {
            let mut bytes = frame(MAC, 9, 64);
            bytes[12..14].copy_from_slice(&[0x81, 0]);
            bytes[14..16].copy_from_slice(&vlan.to_be_bytes());
            bytes
        };
        let (own, other) = (frame(MAC, 0, 64), frame(OTHER, 0, 64));
        let (multicast, broadcast) = (frame(MULTICAST, 0, 64), frame(BROADCAST, 0, 64));
        // QEMU starts in promiscuous mode.
        assert!(passes(rx, &other, MAC));
        control.set_rx_mode(RxMode::Promiscuous, false).unwrap();
        assert!(passes(rx, &own, MAC) && passes(rx, &broadcast, MAC));
        assert!(!passes(rx, &other, MAC) && !passes(rx, &multicast, MAC));
        control.set_rx_mode(RxMode::AllMulticast, true).unwrap();
        assert!(passes(rx, &multicast, MAC));
        control.set_rx_mode(RxMode::NoMulticast, true).unwrap();
        assert!(!passes(rx, &multicast, MAC));
        control.set_rx_mode(RxMode::NoMulticast, false).unwrap();
        control.set_rx_mode(RxMode::AllMulticast, false).unwrap();
        control.set_rx_mode(RxMode::NoBroadcast, true).unwrap();
        assert!(!passes(rx, &broadcast, MAC));
        control.set_rx_mode(RxMode::NoBroadcast, false).unwrap();
        control.set_rx_mode(RxMode::AllUnicast, true).unwrap();
        assert!(passes(rx, &other, MAC));
        control.set_rx_mode(RxMode::AllUnicast, false).unwrap();
        control.set_mac_table(&[[2; 6], OTHER], &[MULTICAST]).unwrap();
        assert!(passes(rx, &other, MAC) && passes(rx, &multicast, MAC));
        control.set_mac_table(&[], &[]).unwrap();
        assert!(!passes(rx, &other, MAC) && !passes(rx, &multicast, MAC));
        // QEMU lets all VLANs pass at first, against the document.
        control.remove_vlan(5).unwrap();
        assert!(!passes(rx, &tagged(5), MAC) && passes(rx, &tagged(6), MAC));
        control.add_vlan(5).unwrap();
        assert!(passes(rx, &tagged(5), MAC));
        control.set_mac(OTHER).unwrap();
        assert!(passes(rx, &other, OTHER) && !passes(rx, &own, OTHER));
        assert_eq!(device.device().read_config::<Mac>().unwrap(), OTHER);
        // What was not agreed on is not tried.
        let not = control.set_guest_offloads(GuestOffloads::empty());
        if !net.features.contains(NetF::CTRL_GUEST_OFFLOADS) {
            assert_eq!(not, Err(ControlError::NotNegotiated(NetF::CTRL_GUEST_OFFLOADS)));
        }
        assert_eq!(control.in_flight(), 0);
    }
}

#[test]
fn net_links_go_down_and_up_and_ask_to_be_announced() {
    let dir = TempDir::new();
    let (options_, peer) =
        add_nic(Options::default(), &dir, 2, "speed=1000,duplex=half,host_mtu=1280,vectors=3");
    let socket = format!("unix:{},server=on,wait=off", dir.join("qmp").display());
    let machine = start(&options_.argument("-qmp").argument(socket));
    let mut qmp = Qmp::connect(&dir.join("qmp"));
    connect(&dir, 2, &peer);
    let transport = machine.transport(2).unwrap();
    let watch = transport.config_watch();
    let (mut net, mut device) = net::open(Found::new(Box::new(transport)), &options()).unwrap();
    let link = net.link.clone();
    assert!(link.is_up() && !link.announce());
    assert_eq!((link.speed(), link.duplex(), net.info.mtu), (Some(1000), Some(Duplex::HALF), Some(1280)));
    let tx = &mut net.pairs[0].tx;
    assert_eq!(tx.longest(), 1294);
    let mut changed = |qmp: &mut Qmp, command: &str| {
        qmp.run(command);
        let deadline = Instant::now() + LIMIT;
        while !watch.changed().unwrap() {
            assert!(Instant::now() < deadline, "{command}: never announced");
        }
        device.config_changed();
    };
    for up in [false, true] {
        changed(&mut qmp, &format!(r#"{{"execute":"set_link","arguments":{{"name":"nic2","up":{up}}}}}"#));
        assert_eq!(link.is_up(), up);
    }
    changed(
        &mut qmp,
        r#"{"execute":"announce-self","arguments":{"initial":50,"max":550,"rounds":1,"step":50}}"#,
    );
    assert!(link.announce());
    net.control.as_mut().unwrap().acknowledge_announce().unwrap();
    assert!(!link.announce());
    device.config_changed();
    assert!(!link.announce(), "QEMU has not seen it");
    assert_eq!(link.changes(), 4);
}
