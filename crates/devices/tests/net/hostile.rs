//! Drivers that lie: what they send is counted and dropped, and its chain comes back.

use crate::bench::Bench;
use crate::packets::{A, B, Kind, leave_segmentation, packet, payload, plain};
use crate::station::{Station, Wish};
use virtio_kit::Features;
use virtio_kit::spec::net::{Ack, F as N, Gso, Header, HeaderFlags};
use virtio_kit_devices::net::{Buffers, Counters, Loopback, Net, NetHandle, Options, pair};
use virtio_kit_testkit::{Rng, Shape};
use zerocopy::{FromZeros, IntoBytes};

const TX: usize = 1;
const HOST: Features = N::CSUM.union(N::HOST_TSO4).union(N::HOST_TSO6).union(N::HOST_ECN).union(N::HOST_USO);

fn bench(features: Features) -> (Bench, NetHandle) {
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
    let device = Net::new(Loopback::new(Buffers::default()), Options { mtu: Some(1500), ..Options::new(A) });
    let handle = device.handle();
    (Bench::new(device, shape, features, 2), handle)
}

/// What became of a frame: the one counter that counted it.
fn counted(counters: Counters) -> &'static str {
    let Counters { sent, send_short, send_oversize, send_bad_header, .. } = counters;
    match (sent, send_short, send_oversize, send_bad_header) {
        (1, 0, 0, 0) => "sent",
        (0, 1, 0, 0) => "short",
        (0, 0, 1, 0) => "oversize",
        (0, 0, 0, 1) => "bad header",
        other => panic!("counted as {other:?}"),
    }
}

struct Lie {
    name: &'static str,
    features: Features,
    header: fn(&mut Header),
    expected: &'static str,
}

fn lie(name: &'static str, features: Features, header: fn(&mut Header), expected: &'static str) -> Lie {
    Lie { name, features, header, expected }
}

/// With these the frame is 100 bytes long.
fn lies() -> Vec<Lie> {
    fn partial(header: &mut Header) {
        header.flags = HeaderFlags::NEEDS_CSUM.bits();
        (header.csum_start, header.csum_offset) = (34.into(), 16.into());
    }
    fn cut(header: &mut Header) {
        partial(header);
        (header.gso_type, header.gso_size) = (Gso::TCPV4.0, 500.into());
    }
    let no = Features::EMPTY;
    vec![
        lie("nothing", no, |_| {}, "sent"),
        lie("a checksum that was not negotiated", no, partial, "bad header"),
        lie("a checksum", HOST, partial, "sent"),
        lie(
            "a checksum at the very end",
            HOST,
            |h| {
                partial(h);
                h.csum_start = 82.into()
            },
            "sent",
        ),
        lie(
            "a checksum beyond the end",
            HOST,
            |h| {
                partial(h);
                h.csum_start = 83.into()
            },
            "bad header",
        ),
        lie(
            "a checksum far beyond",
            HOST,
            |h| {
                partial(h);
                h.csum_offset = 0xffff.into()
            },
            "bad header",
        ),
        lie(
            "both far beyond",
            HOST,
            |h| {
                partial(h);
                h.csum_start = 0xffff.into();
                h.csum_offset = 0xffff.into()
            },
            "bad header",
        ),
        lie(
            "places of a checksum, and no flag",
            HOST,
            |h| {
                h.csum_start = 0xffff.into();
                h.csum_offset = 0xffff.into()
            },
            "sent",
        ),
        lie("flags that mean nothing here", HOST, |h| h.flags = 0xfe, "sent"),
        lie(
            "lengths that are not relied on",
            HOST,
            |h| {
                h.hdr_len = 0xffff.into();
                h.num_buffers = 0xffff.into()
            },
            "sent",
        ),
        lie("a segment size, and no type", HOST, |h| h.gso_size = 7.into(), "sent"),
        lie("segmentation", HOST, cut, "sent"),
        lie("segmentation that was not negotiated", N::CSUM, cut, "bad header"),
        lie("segmentation of the other version", N::CSUM | N::HOST_TSO6, cut, "bad header"),
        lie(
            "segmentation by 0",
            HOST,
            |h| {
                cut(h);
                h.gso_size = 0.into()
            },
            "bad header",
        ),
        lie(
            "segmentation without a checksum",
            HOST,
            |h| {
                cut(h);
                h.flags = 0
            },
            "bad header",
        ),
        lie(
            "ECN",
            HOST,
            |h| {
                cut(h);
                h.gso_type |= Gso::ECN.0
            },
            "sent",
        ),
        lie(
            "ECN that was not negotiated",
            HOST - N::HOST_ECN,
            |h| {
                cut(h);
                h.gso_type |= Gso::ECN.0
            },
            "bad header",
        ),
        lie(
            "ECN of UDP",
            HOST,
            |h| {
                cut(h);
                h.gso_type = Gso::UDP_L4.0 | Gso::ECN.0
            },
            "bad header",
        ),
        lie(
            "ECN alone",
            HOST,
            |h| {
                cut(h);
                h.gso_type = Gso::ECN.0
            },
            "bad header",
        ),
        lie(
            "UDP fragmentation",
            HOST,
            |h| {
                cut(h);
                h.gso_type = Gso::UDP.0
            },
            "bad header",
        ),
        lie(
            "a tunnel",
            HOST,
            |h| {
                cut(h);
                h.gso_type |= Gso::UDP_TUNNEL_IPV4.0
            },
            "bad header",
        ),
        lie(
            "an unknown type",
            HOST,
            |h| {
                cut(h);
                h.gso_type = 0x7f
            },
            "bad header",
        ),
    ]
}

// devicenormative:Device Types / Network Device / Device Operation / Packet Transmission
#[test]
fn every_lie_of_a_header_is_found_out_and_what_must_be_ignored_is() {
    for lie in lies() {
        let (mut bench, handle) = bench(lie.features);
        let mut header = Header::new_zeroed();
        (lie.header)(&mut header);
        bench.offer_bytes(TX, &[header.as_bytes(), &plain(B, A, 100, 1)]);
        assert_eq!(bench.run(TX as u16).map(|run| run.completed), Ok(1), "{}", lie.name);
        assert!(bench.lines[TX].driver.take_used(2).is_some(), "{}", lie.name);
        assert_eq!(counted(handle.counters()), lie.expected, "{}", lie.name);
    }
}

#[test]
fn chains_without_a_header_or_a_frame_and_frames_that_are_too_long_are_counted() {
    let mtu = HOST | N::MTU;
    for (features, len, gso, expected) in [
        (mtu, 1, false, "short"),
        (mtu, 11, false, "short"),
        (mtu, 12, false, "short"),
        (mtu, 12 + 13, false, "short"),
        (mtu, 12 + 14, false, "sent"),
        (mtu, 12 + 1518, false, "sent"),
        (mtu, 12 + 1519, false, "oversize"),
        (mtu, 12 + 1519, true, "sent"),
        (HOST, 12 + 1519, false, "sent"),
        (HOST, 12 + 65550, true, "sent"),
        (HOST, 12 + 65551, true, "oversize"),
        (HOST, 12 + 65551, false, "oversize"),
        (HOST, 12 + 500_000, false, "oversize"),
    ] {
        let (mut bench, handle) = bench(features);
        let mut header = Header::new_zeroed();
        if gso {
            header.flags = HeaderFlags::NEEDS_CSUM.bits();
            (header.gso_type, header.gso_size) = (Gso::TCPV4.0, 500.into());
        }
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(len.max(12), 2);
        bench.offer_bytes(TX, &[&bytes[..len]]);
        assert_eq!(bench.run(TX as u16).map(|run| run.completed), Ok(1), "{len} bytes");
        assert_eq!(counted(handle.counters()), expected, "{len} bytes, segmentation {gso}");
    }
}

/// A sender of whatever, and a receiver that takes nothing unfinished, or everything.
fn stations(receiver: Features) -> (Station, Station, NetHandle) {
    let [a, b] = pair(Buffers::default());
    let b = Net::new(b, Options::new(B));
    let handle = b.handle();
    let a = Station::new(Net::new(a, Options::new(A)), Wish::new(HOST));
    let b = Station::new(b, Wish::new(receiver | N::MRG_RXBUF).buffers(64, &[4096]));
    (a, b, handle)
}

const GUEST: Features = N::GUEST_CSUM.union(N::GUEST_TSO4).union(N::GUEST_TSO6).union(N::GUEST_USO4);

#[test]
fn a_packet_whose_headers_are_not_what_its_segmentation_says_reaches_no_driver() {
    type Break = (&'static str, fn(&mut Vec<u8>));
    let breaks: [Break; 9] = [
        ("no IP at all", |f| f[12] = 0x99),
        ("the other version", |f| f[14] = 0x65),
        ("another protocol", |f| f[23] = 17),
        ("a fragment", |f| f[20] = 0x20),
        ("a header length of nothing", |f| f[14] = 0x40),
        ("a header length beyond the end", |f| {
            f.truncate(50);
            f[14] = 0x4f
        }),
        ("a TCP header of nothing", |f| f[46] = 0x00),
        ("a TCP header that is too short", |f| f[46] = 0x40),
        ("a TCP header beyond the end", |f| {
            f.truncate(60);
            f[46] = 0xf0
        }),
    ];
    for receiver in [Features::EMPTY, GUEST] {
        for (name, spoil) in breaks {
            let (mut a, mut b, handle) = stations(receiver);
            let mut frame = packet(Kind::Tcp4, (1, 2), &payload(3000));
            let mut header = leave_segmentation(Kind::Tcp4, &mut frame, 1000);
            spoil(&mut frame);
            header.base.csum_start = header.base.csum_start.get().min(frame.len() as u16 - 20).into();
            a.send_with(0, &header, &frame);
            assert!(b.frames().is_empty(), "{name}");
            assert_eq!(handle.counters().receive_malformed, 1, "{name}");
            // And the next one passes.
            let good = plain(B, A, 60, 1);
            a.send(&good);
            assert_eq!(b.frames(), [good], "{name}");
        }
        // A checksum somewhere else than where the protocol has it.
        let (mut a, mut b, handle) = stations(receiver);
        let mut frame = packet(Kind::Tcp4, (1, 2), &payload(3000));
        let mut header = leave_segmentation(Kind::Tcp4, &mut frame, 1000);
        header.base.csum_offset = 18.into();
        a.send_with(0, &header, &frame);
        assert!(b.frames().is_empty());
        assert_eq!(handle.counters().receive_malformed, 1);
    }
}

#[test]
fn a_packet_that_would_become_too_many_segments_reaches_no_driver() {
    let (mut a, mut b, handle) = stations(Features::EMPTY);
    let mut frame = packet(Kind::Tcp4, (1, 2), &payload(60_000));
    let header = leave_segmentation(Kind::Tcp4, &mut frame, 1);
    a.send_with(0, &header, &frame);
    assert!(b.frames().is_empty());
    assert_eq!(handle.counters().receive_malformed, 1);
}

#[test]
fn receive_buffers_without_place_for_a_header_come_back_empty() {
    for features in [Features::EMPTY, N::MRG_RXBUF] {
        let device = Net::new(Loopback::new(Buffers::default()), Options::new(A));
        let handle = device.handle();
        let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
        let mut bench = Bench::new(device, shape, features, 2);
        let frame = plain(B, A, 60, 1);
        bench.offer_bytes(TX, &[&[0; 12], &frame]);
        bench.run(TX as u16).unwrap();
        bench.offer_space(0, 11);
        // For the device to read, in a queue where it only writes.
        bench.offer_bytes(0, &[&[0; 100]]);
        bench.offer_space(0, 100);
        assert_eq!(bench.run(0).map(|run| run.completed), Ok(3));
        let lengths = [0, 0, 72].map(|_| bench.lines[0].driver.take_used(1).unwrap().1);
        assert_eq!(lengths, [0, 0, 72]);
        assert_eq!(handle.counters().receive_bad_buffer, 2);
    }
}

// devicenormative:Device Types / Network Device / Device Operation / Setting Up Receive Buffers
#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped_and_the_buffer_serves_the_next() {
    let [a, b] = pair(Buffers::default());
    let (a, b) = (Net::new(a, Options::new(A)), Net::new(b, Options::new(B)));
    let handle = b.handle();
    let mut a = Station::new(a, Wish::new(Features::EMPTY));
    let mut b = Station::new(b, Wish::new(Features::EMPTY).buffers(2, &[112]));
    a.send(&plain(B, A, 101, 1));
    a.send(&plain(B, A, 100, 2));
    assert_eq!(b.frames(), [plain(B, A, 100, 2)]);
    assert_eq!(handle.counters().receive_no_room, 1);
}

/// Any bytes at all as header and frame, to receivers of every kind.
#[test]
fn random_headers_and_frames_do_no_harm() {
    let seed = 0x5eed;
    let mut rng = Rng::new(seed);
    for receiver in [Features::EMPTY, GUEST, N::GUEST_CSUM] {
        let (mut a, mut b, _) = stations(receiver);
        for round in 0..3000 {
            let kind = [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6][rng.below(4)];
            let len = [0, 1, 50, 3000][rng.below(4)];
            let mut frame = packet(kind, (1, 2), &payload(len));
            let mut header = leave_segmentation(kind, &mut frame, 1 + rng.below(2000) as u16);
            for _ in 0..rng.below(4) {
                let at = rng.below(frame.len().min(80));
                frame[at] = rng.below(256) as u8;
            }
            for _ in 0..rng.below(3) {
                let at = rng.below(12);
                header.as_mut_bytes()[at] = rng.below(256) as u8;
            }
            if rng.one_in(5) {
                frame.truncate(14 + rng.below(frame.len() - 13));
            }
            a.send_with(0, &header, &frame);
            for packet in b.receive() {
                assert!(packet.bytes.len() >= 14, "round {round} of {seed:#x}");
                assert_eq!(packet.header.padding_reserved.get(), 0);
            }
        }
        let good = plain(B, A, 60, 1);
        a.send(&good);
        assert_eq!(b.frames(), [good]);
    }
}

#[test]
fn commands_of_every_length_and_content_are_refused_or_done_and_always_answered() {
    let options = Options { pairs: 2, ..Options::new(A) };
    let device = Net::new(Loopback::new(Buffers::default()), options);
    let features = N::CTRL_VQ
        | N::CTRL_RX
        | N::CTRL_RX_EXTRA
        | N::CTRL_VLAN
        | N::CTRL_MAC_ADDR
        | N::GUEST_CSUM
        | N::CTRL_GUEST_OFFLOADS
        | N::GUEST_ANNOUNCE
        | N::MQ
        | N::RSS
        | N::HASH_REPORT;
    let mut station = Station::new(device, Wish::new(features));
    let mut rng = Rng::new(3);
    let mut done = [0, 0];
    for _ in 0..20_000 {
        let (class, command) = (rng.below(11) as u8, rng.below(8) as u8);
        let mut data: Vec<u8> = vec![0; [0, 1, 2, 3, 8, 20, 60, 400][rng.below(8)]];
        for _ in 0..rng.below(8) {
            if !data.is_empty() {
                let at = rng.below(data.len());
                data[at] = [0, 1, 2, 3, 0x7f, 0xff][rng.below(6)];
            }
        }
        match station.command(class, command, &data) {
            Ack::OK => done[0] += 1,
            Ack::ERR => done[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(done.iter().all(|&count| count > 500), "{done:?}");
    // Commands without a byte for the answer, or without a header.
    let shape = Shape { packed: false, in_order: false, event_idx: false, indirect: false, size: 8 };
    let device = Net::new(Loopback::new(Buffers::default()), Options::new(A));
    let mut bench = Bench::new(device, shape, N::CTRL_VQ, 3);
    bench.offer_bytes(2, &[&[0, 0, 1]]);
    bench.offer_space(2, 1);
    assert_eq!(bench.run(2).map(|run| run.completed), Ok(2));
    assert_eq!([0, 1].map(|_| bench.lines[2].driver.take_used(1).unwrap().1), [0, 1]);
}
