//! smoltcp on the network driver, against smoltcp on a wire of its own that checks every checksum.

#[path = "net/scripted.rs"]
mod scripted;

use scripted::{Scripted, header, layouts, open, options};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};
use std::collections::VecDeque;
use virtio_kit::Features;
use virtio_kit::spec::net::F;
use virtio_kit_drivers::net::Phy;

/// The peer's network interface: two lists.
#[derive(Default)]
struct Wire {
    to_peer: VecDeque<Vec<u8>>,
    from_peer: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.to_peer.pop_front()?), Tx(&mut self.from_peer)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.from_peer))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

fn interface(device: &mut impl Device, number: u8) -> Interface {
    let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, number]).into());
    let mut interface = Interface::new(config, device, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, number), 24)).unwrap();
        addresses.push(IpCidr::new(IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, number.into()), 64)).unwrap();
    });
    interface
}

fn address(v6: bool, number: u8) -> IpAddress {
    if v6 { IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, number.into()) } else { IpAddress::v4(10, 0, 0, number) }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 16384]);
    tcp::Socket::new(buffer(), buffer())
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    udp::Socket::new(buffer(), buffer())
}

/// Completes a partial checksum as a device must before the frame goes to a wire (5.1.9.2).
fn complete(header: &[u8], frame: &mut [u8]) -> bool {
    if header[0] & 1 == 0 {
        return false;
    }
    let at = |i: usize| usize::from(u16::from_le_bytes([header[i], header[i + 1]]));
    let (start, offset) = (at(6), at(8));
    let mut sum = 0u32;
    for pair in frame[start..].chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    frame[start + offset..][..2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

/// Both stacks, and what is between them.
struct World {
    script: Scripted,
    opened: scripted::Opened,
    phy: Phy,
    ours: Interface,
    wire: Wire,
    theirs: Interface,
    now: i64,
    partial: usize,
    /// Every so manieth frame that comes to the driver is damaged.
    damage: usize,
    came: usize,
}

impl World {
    fn new(features: Features, layout: Features) -> Self {
        let script = Scripted::new(features);
        let mut opened = open(&script, layout, &options());
        let mut phy = Phy::new(opened.net.pairs.pop().unwrap());
        let ours = interface(&mut phy, 1);
        let mut wire = Wire::default();
        let theirs = interface(&mut wire, 2);
        Self { script, opened, phy, ours, wire, theirs, now: 0, partial: 0, damage: usize::MAX, came: 0 }
    }

    fn step(&mut self, ours: &mut SocketSet<'_>, theirs: &mut SocketSet<'_>) {
        self.now += 5;
        let now = Instant::from_millis(self.now);
        self.ours.poll(now, &mut self.phy, ours);
        for (_, mut bytes, _) in self.script.script().sent.drain(..) {
            let mut frame = bytes.split_off(12);
            self.partial += usize::from(complete(&bytes, &mut frame));
            self.wire.to_peer.push_back(frame);
        }
        self.theirs.poll(now, &mut self.wire, theirs);
        for frame in self.wire.from_peer.drain(..) {
            self.came += 1;
            let mut bytes = header(0, 0, [0, 0, 0, 0, 1]);
            bytes.extend(frame);
            // The last byte of data: only TCP and UDP sum it.
            if self.came.is_multiple_of(self.damage) && bytes.len() > 12 + 80 {
                *bytes.last_mut().unwrap() ^= 0x10;
            }
            self.script.give([bytes]);
        }
        self.opened.end.run(0);
    }
}

/// Sends 200 kB both ways over TCP, and checks them.
fn exchange(world: &mut World, v6: bool) {
    const LEN: usize = 200_000;
    let byte = |at: usize| (at * 7 + at / 251) as u8;
    let (mut ours, mut theirs) = (SocketSet::new(vec![]), SocketSet::new(vec![]));
    let (a, b): (SocketHandle, SocketHandle) = (ours.add(tcp_socket()), theirs.add(tcp_socket()));
    theirs.get_mut::<tcp::Socket>(b).listen(80).unwrap();
    let socket = ours.get_mut::<tcp::Socket>(a);
    let to = IpEndpoint::new(address(v6, 2), 80);
    socket.connect(world.ours.context(), to, (address(v6, 1), 5000)).unwrap();
    let (mut sent, mut got) = ([0; 2], [0; 2]);
    for _ in 0..200_000 {
        world.step(&mut ours, &mut theirs);
        let sockets = [ours.get_mut::<tcp::Socket>(a), theirs.get_mut::<tcp::Socket>(b)];
        for (side, socket) in sockets.into_iter().enumerate() {
            while socket.can_send() && sent[side] < LEN {
                let chunk: Vec<u8> = (sent[side]..LEN.min(sent[side] + 4096)).map(byte).collect();
                sent[side] += socket.send_slice(&chunk).unwrap();
            }
            let mut chunk = [0; 4096];
            while socket.can_recv() {
                let len = socket.recv_slice(&mut chunk).unwrap();
                assert!(chunk[..len].iter().enumerate().all(|(i, &b)| b == byte(got[side] + i)));
                got[side] += len;
            }
        }
        if got == [LEN; 2] {
            return;
        }
    }
    panic!("{sent:?} sent, {got:?} came");
}

#[test]
fn tcp_goes_both_ways_with_and_without_checksum_offload() {
    for layout in layouts() {
        for (features, offload) in [(Features::EMPTY, false), (F::CSUM | F::GUEST_CSUM | F::MRG_RXBUF, true)]
        {
            let mut world = World::new(features, layout);
            let checksum = world.phy.capabilities().checksum;
            let expected = if offload { Checksum::None } else { Checksum::Tx };
            assert_eq!(format!("{:?}", (checksum.tcp, checksum.udp)), format!("{:?}", (expected, expected)));
            for v6 in [false, true] {
                exchange(&mut world, v6);
            }
            // The peer checks all of them, whoever made them.
            assert_eq!(world.partial > 100, offload, "{}", world.partial);
        }
    }
}

#[test]
fn what_nobody_has_checked_is_checked_here() {
    for features in [Features::EMPTY, F::CSUM | F::GUEST_CSUM] {
        let mut world = World::new(features, layouts()[0]);
        world.damage = 7;
        exchange(&mut world, false);
        assert!(world.came > 100);
    }
}

#[test]
fn udp_datagrams_have_their_checksums() {
    let mut world = World::new(F::CSUM | F::GUEST_CSUM, layouts()[1]);
    for v6 in [false, true] {
        let (mut ours, mut theirs) = (SocketSet::new(vec![]), SocketSet::new(vec![]));
        let (a, b) = (ours.add(udp_socket()), theirs.add(udp_socket()));
        ours.get_mut::<udp::Socket>(a).bind(1000).unwrap();
        theirs.get_mut::<udp::Socket>(b).bind(2000).unwrap();
        let partial = world.partial;
        for number in 0..50u8 {
            let to = IpEndpoint::new(address(v6, 2), 2000);
            ours.get_mut::<udp::Socket>(a).send_slice(&[number; 101], to).unwrap();
            let mut answered = false;
            for _ in 0..1000 {
                world.step(&mut ours, &mut theirs);
                if let Ok((data, from)) = theirs.get_mut::<udp::Socket>(b).recv() {
                    let data = data.to_vec();
                    theirs.get_mut::<udp::Socket>(b).send_slice(&data, from).unwrap();
                }
                if let Ok((data, _)) = ours.get_mut::<udp::Socket>(a).recv() {
                    assert_eq!(data, [number; 101]);
                    answered = true;
                    break;
                }
            }
            assert!(answered, "{number}");
        }
        assert!(world.partial >= partial + 50);
    }
}

#[test]
fn tcp_longer_than_a_packet_is_left_to_a_device_that_cuts() {
    // A TCP segment of 5000 bytes in one frame, over IPv4 and over IPv6.
    let segment = |v6: bool| {
        let mut bytes = vec![0; if v6 { 74 } else { 54 } + 5000];
        let tcp = if v6 {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            bytes[18..20].copy_from_slice(&5020u16.to_be_bytes());
            bytes[20] = 6;
            54
        } else {
            bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
            bytes[16..18].copy_from_slice(&5040u16.to_be_bytes());
            bytes[23] = 6;
            34
        };
        bytes[tcp + 12] = 5 << 4;
        bytes
    };
    let cuts = F::CSUM | F::HOST_TSO4 | F::HOST_TSO6;
    for (features, longest) in [(cuts, 65_549), (F::CSUM | F::HOST_TSO4, 1514), (Features::EMPTY, 1514)] {
        let script = Scripted::new(features);
        let mut opened = open(&script, layouts()[0], &options());
        let mut phy = Phy::new(opened.net.pairs.pop().unwrap()).with_segmentation();
        assert_eq!(phy.capabilities().max_transmission_unit, longest);
        if longest == 1514 {
            continue;
        }
        for (v6, gso, headers) in [(false, 1, 54u16), (true, 4, 74)] {
            let frame = segment(v6);
            phy.transmit(Instant::ZERO).unwrap().consume(frame.len(), |bytes| bytes.copy_from_slice(&frame));
            opened.end.run(1);
            let (_, sent, _) = script.script().sent.pop().unwrap();
            let word = |at: usize| u16::from_le_bytes([sent[at], sent[at + 1]]);
            assert_eq!(sent[..2], [1, gso]);
            let (size, start) = (1500 - (headers - 14), headers - 20);
            assert_eq!([word(2), word(4), word(6), word(8)], [headers, size, start, 16]);
        }
        // What is no longer than a packet is not cut.
        let short = &segment(false)[..1514];
        phy.transmit(Instant::ZERO).unwrap().consume(short.len(), |bytes| bytes.copy_from_slice(short));
        opened.end.run(1);
        assert_eq!(script.script().sent.pop().unwrap().1[1], 0);
    }
}
