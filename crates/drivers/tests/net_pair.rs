//! The network driver on the network device, in one program.

mod common;

use common::{LIMIT, StdClock, join, layouts};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};
use std::num::NonZeroU16;
use virtio_kit::Features;
use virtio_kit::bus::Bound;
use virtio_kit::in_process::DeviceEnd;
use virtio_kit::spec::net::F;
use virtio_kit_devices::net as device;
use virtio_kit_devices::net::{Buffers, NetHandle, Switch, SwitchOptions};
use virtio_kit_drivers::net::{
    self, Checksum, Duplex, GuestOffloads, HashReport, HashTypes, Mac, Net, NetDevice, Offload, Options,
    Pair, Phy, Protocol, Received, RecvError, Rss, RxMode, Segmentation,
};

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];

/// A driver on a device.
struct Node {
    net: Net,
    device: NetDevice,
    handle: NetHandle,
    _end: DeviceEnd,
}

fn options() -> Options {
    Options { control_limit: LIMIT, ..Options::new(StdClock::new()) }
}

fn node(backend: impl device::Backend + 'static, mac: Mac, ring: Features, wanted: &Options) -> Node {
    let settings = device::Options { pairs: wanted.pairs, ..device::Options::new(mac) };
    let settings = device::Options { speed: Some((1000, Duplex::FULL)), mtu: Some(1500), ..settings };
    let device = device::Net::new(backend, settings);
    let handle = device.handle();
    let (found, end, _) = join(device, ring);
    let (net, device) = net::open(found, wanted).unwrap();
    Node { net, device, handle, _end: end }
}

/// Two drivers whose devices are back to back.
fn pair(ring: Features, wanted: [&Options; 2]) -> [Node; 2] {
    let [one, other] = device::pair(Buffers::default());
    [node(one, A, ring, wanted[0]), node(other, B, ring, wanted[1])]
}

fn frame(to: Mac, from: Mac, number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(31) ^ number) as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

fn send(pair: &mut Pair, bytes: &[u8], offload: &Offload) {
    pair.tx.send_copy(bytes, offload).unwrap();
    pair.tx.kick().unwrap();
}

/// The next frame, if it is there: with both ends on one thread it is, once it was sent.
fn recv(pair: &mut Pair) -> Option<(Vec<u8>, Offload)> {
    let Received { frame, offload } = pair.rx.recv().unwrap()?;
    let mut bytes = vec![0; frame.len()];
    frame.copy_to(&mut bytes);
    pair.rx.recycle(frame);
    Some((bytes, offload))
}

/// A TCP or UDP packet over IPv4, whose transport has the sum of its pseudo header only.
fn packet(to: Mac, udp: bool, port: u16, payload: usize) -> Vec<u8> {
    let transport = if udp { 8 } else { 20 } + payload;
    let mut bytes = frame(to, B, 0, 14);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes.extend([0x45, 0]);
    bytes.extend((20 + transport as u16).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, if udp { 17 } else { 6 }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = !sum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&check.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 80]);
    if udp {
        bytes.extend((transport as u16).to_be_bytes());
        bytes.extend([0, 0]);
    } else {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    }
    bytes.extend((0..payload).map(|at| (at * 31) as u8));
    let pseudo = pseudo(&bytes, transport);
    let at = 34 + if udp { 6 } else { 16 };
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    bytes
}

fn pseudo(bytes: &[u8], len: usize) -> u16 {
    sum(&[&bytes[26..34], &[0, bytes[23]], &(len as u16).to_be_bytes()])
}

fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn is_whole(bytes: &[u8]) -> bool {
    let len = bytes.len() - 34;
    sum(&[&pseudo(bytes, len).to_be_bytes(), &bytes[34..]]) == 0xffff
}

fn segments(udp: bool) -> Offload {
    let (protocol, offset, header_len) = if udp { (Protocol::Udp, 6, 42) } else { (Protocol::Tcp4, 16, 54) };
    let size = NonZeroU16::new(1000).unwrap();
    let segmentation = Some(Segmentation { protocol, ecn: false, size, header_len });
    Offload { checksum: Checksum::Partial { start: 34, offset }, segmentation, hash: None }
}

#[test]
fn frames_cross_in_every_layout_with_mergeable_buffers_and_without() {
    for ring in layouts() {
        for without in [Features::EMPTY, F::MRG_RXBUF] {
            let wanted = Options { without, buffer_len: 512, ..options() };
            let mut nodes = pair(ring, [&wanted, &wanted]);
            assert_eq!(nodes[0].net.features.contains(F::MRG_RXBUF), without.is_empty());
            assert_eq!((nodes[0].net.info.mac, nodes[0].net.info.mtu), (Some(A), Some(1500)));
            for number in 0..600u32 {
                let (from, to) = if number % 3 == 0 { (0, 1) } else { (1, 0) };
                let macs = [A, B];
                let sent = frame(macs[to], macs[from], number, 60 + (number as usize * 37) % 1454);
                send(&mut nodes[from].net.pairs[0], &sent, &Offload::default());
                let (got, offload) = recv(&mut nodes[to].net.pairs[0]).unwrap();
                assert_eq!((got, offload.segmentation), (sent, None), "{ring:?}, {number}");
            }
        }
    }
}

#[test]
fn segments_cross_whole_or_are_cut_for_a_driver_that_wants_them_cut() {
    for ring in layouts() {
        for udp in [false, true] {
            let large = F::GUEST_TSO4 | F::GUEST_TSO6 | F::GUEST_USO4 | F::GUEST_USO6;
            for (without, whole, summed) in
                [(Features::EMPTY, true, false), (large, false, false), (large | F::GUEST_CSUM, false, true)]
            {
                let receiver = Options { without, ..options() };
                let [mut sender, mut receiver] = pair(ring, [&options(), &receiver]);
                let bytes = packet(B, udp, 5, 9500);
                send(&mut sender.net.pairs[0], &bytes, &segments(udp));
                let pair = &mut receiver.net.pairs[0];
                if whole {
                    let (got, offload) = recv(pair).unwrap();
                    assert_eq!(got, bytes);
                    assert_eq!(offload.segmentation.unwrap().size.get(), 1000);
                    assert_eq!(offload.checksum, segments(udp).checksum);
                    continue;
                }
                let mut payload: Vec<u8> = vec![];
                let headers = if udp { 42 } else { 54 };
                for _ in 0..10 {
                    let (got, offload) = recv(pair).unwrap();
                    assert_eq!(offload.segmentation, None);
                    if summed || offload.checksum == Checksum::Full {
                        assert!(is_whole(&got));
                    }
                    payload.extend(&got[headers..]);
                }
                assert_eq!(payload, bytes[headers..]);
                assert!(recv(pair).is_none());
            }
        }
    }
}

#[test]
fn commands_are_done_and_their_results_come_back() {
    for ring in layouts() {
        let wanted = Options { hash_report: true, ..options() };
        let [mut a, mut b] = pair(ring, [&wanted, &options()]);
        let control = a.net.control.as_mut().unwrap();
        let (from, to) = (&mut b.net.pairs[0], &mut a.net.pairs[0]);
        let mut passes = |to: &mut Pair, mac: Mac| {
            send(from, &frame(mac, B, 1, 64), &Offload::default());
            recv(to).is_some()
        };
        let (other, group): (Mac, Mac) = ([2, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 1]);
        control.set_rx_mode(RxMode::Promiscuous, false).unwrap();
        assert!(passes(to, A) && !passes(to, other) && !passes(to, group) && passes(to, [0xff; 6]));
        control.set_rx_mode(RxMode::AllMulticast, true).unwrap();
        assert!(passes(to, group));
        control.set_rx_mode(RxMode::NoMulticast, true).unwrap();
        assert!(!passes(to, group));
        control.set_rx_mode(RxMode::NoBroadcast, true).unwrap();
        assert!(!passes(to, [0xff; 6]));
        control.set_rx_mode(RxMode::NoUnicast, true).unwrap();
        assert!(!passes(to, A));
        for mode in [RxMode::NoUnicast, RxMode::NoBroadcast, RxMode::NoMulticast, RxMode::AllMulticast] {
            control.set_rx_mode(mode, false).unwrap();
        }
        control.set_rx_mode(RxMode::AllUnicast, true).unwrap();
        assert!(passes(to, other));
        control.set_rx_mode(RxMode::AllUnicast, false).unwrap();
        control.set_mac_table(&[other], &[group]).unwrap();
        assert!(passes(to, other) && passes(to, group));
        control.set_mac_table(&[], &[]).unwrap();
        control.set_mac(other).unwrap();
        assert!(passes(to, other) && !passes(to, A));
        control.add_vlan(7).unwrap();
        control.remove_vlan(7).unwrap();
        control.set_guest_offloads(GuestOffloads::CSUM).unwrap();
        control.set_hash(HashTypes::UDPV4, &net::DEFAULT_KEY).unwrap();
        send(from, &packet(other, true, 77, 50), &Offload::default());
        assert_eq!(recv(to).unwrap().1.hash.unwrap().report, HashReport::UDPV4);
        assert_eq!(control.in_flight(), 0);
    }
}

#[test]
fn frames_are_spread_over_four_pairs_by_their_hash() {
    let wanted = Options { pairs: 4, queue_size: 64, hash_report: true, ..options() };
    for ring in layouts().step_by(5) {
        let [mut a, mut b] = pair(ring, [&wanted, &wanted]);
        assert_eq!((a.net.pairs.len(), a.net.control.as_ref().unwrap().pairs()), (4, 4));
        let control = a.net.control.as_mut().unwrap();
        let table = [0, 1, 2, 3, 3, 2, 1, 0];
        let types = HashTypes::UDPV4;
        let rss = Rss { types, table: &table, unclassified: 2, tx_queues: 4, key: &net::DEFAULT_KEY };
        control.set_rss(&rss).unwrap();
        let mut seen = [0; 4];
        for port in 0..100 {
            let bytes = packet(A, true, port, 80);
            send(&mut b.net.pairs[usize::from(port) % 4], &bytes, &Offload::default());
            let at = a.net.pairs.iter_mut().position(|pair| match recv(pair) {
                Some((got, offload)) => {
                    assert_eq!(got, bytes);
                    assert_eq!(offload.hash.unwrap().report, HashReport::UDPV4);
                    true
                }
                None => false,
            });
            seen[at.unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 5), "{seen:?}");
        // What is not hashed goes where it was told.
        send(&mut b.net.pairs[0], &frame(A, B, 1, 64), &Offload::default());
        assert!(recv(&mut a.net.pairs[2]).is_some());
    }
}

#[test]
fn the_link_is_seen_to_change_and_announcements_are_acknowledged() {
    let [mut a, _b] = pair(layouts().next().unwrap(), [&options(), &options()]);
    let link = a.net.link.clone();
    assert!(link.is_up() && link.speed() == Some(1000) && link.duplex() == Some(Duplex::FULL));
    a.handle.set_link(false);
    a.device.config_changed();
    assert!(!link.is_up());
    a.handle.set_link(true);
    a.handle.set_speed(10, Duplex::HALF);
    assert!(a.handle.announce());
    a.device.config_changed();
    assert!(link.is_up() && link.announce());
    assert_eq!((link.speed(), link.duplex()), (Some(10), Some(Duplex::HALF)));
    a.net.control.as_mut().unwrap().acknowledge_announce().unwrap();
    a.device.config_changed();
    assert!(!link.announce());
}

#[test]
fn a_switch_learns_where_its_drivers_are() {
    let switch = Switch::new(SwitchOptions::default(), StdClock::new());
    let macs: Vec<Mac> = (0..3).map(|n| [2, 0, 0, 0, 1, n]).collect();
    for ring in layouts().step_by(3) {
        let mut nodes: Vec<Node> =
            macs.iter().map(|&mac| node(switch.port().unwrap(), mac, ring, &options())).collect();
        for node in &mut nodes {
            // Otherwise everybody sees everything that the switch gives.
            node.net.control.as_mut().unwrap().set_rx_mode(RxMode::Promiscuous, true).unwrap();
        }
        let seen = |nodes: &mut [Node]| -> Vec<bool> {
            nodes.iter_mut().map(|node| recv(&mut node.net.pairs[0]).is_some()).collect()
        };
        send(&mut nodes[0].net.pairs[0], &frame(macs[1], macs[0], 1, 64), &Offload::default());
        assert_eq!(seen(&mut nodes), [false, true, true], "nobody knows where it is");
        send(&mut nodes[1].net.pairs[0], &frame(macs[0], macs[1], 2, 64), &Offload::default());
        assert_eq!(seen(&mut nodes), [true, false, false]);
        send(&mut nodes[0].net.pairs[0], &frame(macs[1], macs[0], 3, 64), &Offload::default());
        assert_eq!(seen(&mut nodes), [false, true, false]);
        send(&mut nodes[2].net.pairs[0], &frame([0xff; 6], macs[2], 4, 64), &Offload::default());
        assert_eq!(seen(&mut nodes), [true, true, false]);
    }
}

#[test]
fn a_device_that_is_removed_gives_everything_back_and_the_other_goes_on() {
    for ring in layouts() {
        let [mut a, mut b] = pair(ring, [&options(), &options()]);
        for number in 0..10 {
            // Some not shown to the device yet.
            let bytes = frame(B, A, number, 100);
            a.net.pairs[0].tx.send_copy(&bytes, &Offload::default()).unwrap();
        }
        let arena = a.net.pairs[0].tx.arena().clone();
        drop(a.device);
        assert!(matches!(a.net.pairs[0].rx.recv(), Err(RecvError::Queue(_))));
        drop(a.net);
        assert_eq!(arena.free_bytes(), arena.len());
        send(&mut b.net.pairs[0], &frame(A, B, 1, 64), &Offload::default());
        assert!(recv(&mut b.net.pairs[0]).is_none());
    }
}

fn interface(phy: &mut Phy, mac: Mac, number: u8) -> Interface {
    let mut interface = Interface::new(Config::new(EthernetAddress(mac).into()), phy, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, number), 24)).unwrap();
    });
    interface
}

#[test]
fn tcp_of_two_stacks_crosses_a_switch() {
    const LEN: usize = 1 << 20;
    let byte = |at: usize| (at * 7 + at / 251) as u8;
    for ring in layouts() {
        let switch = Switch::new(SwitchOptions::default(), StdClock::new());
        let mut nodes = [
            node(switch.port().unwrap(), A, ring, &options()),
            node(switch.port().unwrap(), B, ring, &options()),
        ];
        let mut phys = nodes.each_mut().map(|node| Phy::new(node.net.pairs.pop().unwrap()));
        let mut stacks = [interface(&mut phys[0], A, 1), interface(&mut phys[1], B, 2)];
        let mut sets = [SocketSet::new(vec![]), SocketSet::new(vec![])];
        let socket = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 65535]);
            tcp::Socket::new(buffer(), buffer())
        };
        let handles = [sets[0].add(socket()), sets[1].add(socket())];
        sets[1].get_mut::<tcp::Socket>(handles[1]).listen(80).unwrap();
        let to = IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 80);
        sets[0].get_mut::<tcp::Socket>(handles[0]).connect(stacks[0].context(), to, 5000).unwrap();
        let (mut sent, mut got) = (0, 0);
        for step in 0.. {
            assert!(step < 100_000, "{sent} sent, {got} came");
            for side in 0..2 {
                stacks[side].poll(Instant::from_millis(step), &mut phys[side], &mut sets[side]);
            }
            let socket = sets[0].get_mut::<tcp::Socket>(handles[0]);
            while socket.can_send() && sent < LEN {
                let chunk: Vec<u8> = (sent..LEN.min(sent + 4096)).map(byte).collect();
                sent += socket.send_slice(&chunk).unwrap();
            }
            let socket = sets[1].get_mut::<tcp::Socket>(handles[1]);
            let mut chunk = [0; 4096];
            while socket.can_recv() {
                let len = socket.recv_slice(&mut chunk).unwrap();
                assert!(chunk[..len].iter().enumerate().all(|(i, &b)| b == byte(got + i)));
                got += len;
            }
            if got == LEN {
                break;
            }
        }
    }
}
