//! Several receive queues: flows that follow their sender, receive-side scaling, hashes in the header.

use crate::packets::{A, B, KINDS, Kind, leave_segmentation, packet, payload, plain};
use crate::station::{Station, Wish};
use virtio_kit::Features;
use virtio_kit::spec::net::{Ack, Class, F as N, HashReport, HashTypes, HeaderHash, MqCommand};
use virtio_kit_devices::net::{Buffers, Net, NetHandle, Options, pair};

const PAIRS: u16 = 4;

/// A sender with one pair, and a receiver with four.
fn two(features: Features) -> (Station, Station, NetHandle) {
    let [a, b] = pair(Buffers::default());
    let b = Net::new(b, Options { pairs: PAIRS, ..Options::new(B) });
    let handle = b.handle();
    let host = N::CSUM | N::HOST_TSO4;
    let a = Station::new(Net::new(a, Options::new(A)), Wish::new(host));
    let pairs = if features.intersects(N::MQ | N::RSS) { PAIRS } else { 1 };
    let wish = Wish { pairs, ..Wish::new(features | N::CTRL_VQ) };
    (a, Station::new(b, wish), handle)
}

/// The queue that got the frames, and the first header.
fn received(b: &mut Station) -> (usize, HeaderHash) {
    let mut found = vec![];
    for pair in 0..b.rx.len() {
        found.extend(b.receive_on(pair).into_iter().map(|packet| (pair, packet.header)));
    }
    assert!(!found.is_empty() && found.iter().all(|(pair, _)| *pair == found[0].0), "{found:?}");
    found[0]
}

fn set_pairs(station: &mut Station, pairs: u16) -> Ack {
    station.command(Class::MQ.0, MqCommand::VQ_PAIRS_SET.0, &pairs.to_le_bytes())
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Automatic receive steering in multiqueue mode
#[test]
fn a_flow_is_received_where_it_was_sent_last_and_only_on_queues_in_use() {
    let (mut a, mut b, _) = two(N::MQ);
    let reply = |kind| packet(kind, (4000, 80), &payload(40));
    // The same flow from the other side.
    let sent = |kind: Kind| {
        let mut frame = packet(kind, (80, 4000), &payload(40));
        let (network, len) = if matches!(kind, Kind::Tcp4 | Kind::Udp4) { (26, 4) } else { (22, 16) };
        let (source, destination) = frame[network..network + 2 * len].split_at_mut(len);
        source.swap_with_slice(destination);
        frame
    };
    b.send_with(2, &HeaderHash::default(), &sent(Kind::Tcp4));
    a.send(&reply(Kind::Tcp4));
    assert_eq!(received(&mut b).0, 0, "one pair, until the driver says otherwise");
    assert_eq!(set_pairs(&mut b, PAIRS), Ack::OK);
    for (pair, kind) in KINDS.into_iter().enumerate() {
        b.send_with(pair, &HeaderHash::default(), &sent(kind));
    }
    for (pair, kind) in KINDS.into_iter().enumerate() {
        a.send(&reply(kind));
        assert_eq!(received(&mut b).0, pair, "{kind:?}");
    }
    b.send_with(1, &HeaderHash::default(), &sent(Kind::Udp6));
    a.send(&reply(Kind::Udp6));
    assert_eq!(received(&mut b).0, 1, "the flow moved");
    b.send_with(3, &HeaderHash::default(), &sent(Kind::Udp6));
    assert_eq!(set_pairs(&mut b, 2), Ack::OK);
    a.send(&reply(Kind::Udp6));
    assert_eq!(received(&mut b).0, 0, "a queue that is not in use gets nothing");
    for bad in [0, PAIRS + 1, 0xffff] {
        assert_eq!(set_pairs(&mut b, bad), Ack::ERR);
    }
}

/// Parameters of receive-side scaling.
fn scaling(types: HashTypes, table: &[u16], unclassified: u16, senders: u16, key: &[u8]) -> Vec<u8> {
    let mut data = types.bits().to_le_bytes().to_vec();
    data.extend((table.len() as u16).wrapping_sub(1).to_le_bytes());
    data.extend(unclassified.to_le_bytes());
    table.iter().for_each(|queue| data.extend(queue.to_le_bytes()));
    data.extend(senders.to_le_bytes());
    data.push(key.len() as u8);
    data.extend(key);
    data
}

fn hashing(types: HashTypes, key: &[u8]) -> Vec<u8> {
    let mut data = types.bits().to_le_bytes().to_vec();
    data.extend([0; 8]);
    data.push(key.len() as u8);
    data.extend(key);
    data
}

const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

const TYPES: HashTypes = HashTypes::IPV4
    .union(HashTypes::TCPV4)
    .union(HashTypes::UDPV4)
    .union(HashTypes::IPV6)
    .union(HashTypes::TCPV6)
    .union(HashTypes::UDPV6);

/// The packet whose hash hardware is verified with: 0x51ccc178.
fn known() -> Vec<u8> {
    let mut frame = packet(Kind::Tcp4, (2794, 1766), &[]);
    frame[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
    frame
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Receive-side scaling (RSS) / RSS processing
#[test]
fn a_packet_goes_where_the_table_says_for_its_hash() {
    let (mut a, mut b, _) = two(N::RSS | N::MQ);
    // The hash ends in ...1111000: places 0, 8 and 0x78 of tables of 2, 16 and 128.
    for (len, place) in [(1, 0), (2, 0), (16, 8), (128, 0x78)] {
        let mut table = vec![1u16; len];
        table[place] = 3;
        let data = scaling(TYPES, &table, 2, PAIRS, &KEY);
        assert_eq!(b.command(Class::MQ.0, MqCommand::RSS_CONFIG.0, &data), Ack::OK);
        a.send(&known());
        assert_eq!(received(&mut b).0, 3, "a table of {len}");
        a.send(&plain(B, A, 60, 1));
        assert_eq!(received(&mut b).0, 2, "a packet without a hash");
    }
    // Back to following flows.
    assert_eq!(set_pairs(&mut b, 1), Ack::OK);
    a.send(&known());
    assert_eq!(received(&mut b).0, 0);
}

#[test]
fn parameters_of_scaling_that_make_no_sense_are_refused() {
    let (mut a, mut b, _) = two(N::RSS | N::MQ);
    let good = scaling(TYPES, &[1; 4], 2, PAIRS, &KEY);
    assert_eq!(b.command(Class::MQ.0, MqCommand::RSS_CONFIG.0, &good), Ack::OK);
    let bad = [
        ("an unknown type", scaling(HashTypes::IP_EX, &[1; 4], 2, PAIRS, &KEY)),
        ("a table of three", scaling(TYPES, &[0; 3], 2, PAIRS, &KEY)),
        ("a table that is too long", scaling(TYPES, &[0; 256], 2, PAIRS, &KEY)),
        ("a queue that does not exist", scaling(TYPES, &[0, PAIRS], 2, PAIRS, &KEY)),
        ("a default queue that does not exist", scaling(TYPES, &[0], PAIRS, PAIRS, &KEY)),
        ("no sender", scaling(TYPES, &[0], 0, 0, &KEY)),
        ("too many senders", scaling(TYPES, &[0], 0, PAIRS + 1, &KEY)),
        ("a key that is too long", scaling(TYPES, &[0], 0, 1, &[7; 41])),
        ("a key that is cut off", good[..good.len() - 1].to_vec()),
        ("a table that is cut off", good[..12].to_vec()),
        ("nothing", vec![]),
    ];
    for (name, data) in bad {
        assert_eq!(b.command(Class::MQ.0, MqCommand::RSS_CONFIG.0, &data), Ack::ERR, "{name}");
        a.send(&known());
        assert_eq!(received(&mut b).0, 1, "{name}");
    }
}

// devicenormative:Device Types / Network Device / Device Operation / Processing of Incoming Packets
#[test]
fn the_header_reports_the_hash_and_what_it_was_made_of() {
    let (mut a, mut b, _) = two(N::HASH_REPORT);
    let report = |a: &mut Station, b: &mut Station, frame: &[u8]| {
        a.send(frame);
        let header = received(b).1;
        (header.hash_value.get(), HashReport(header.hash_report.get()), header.padding_reserved.get())
    };
    assert_eq!(report(&mut a, &mut b, &known()), (0, HashReport::NONE, 0), "before it is set up");
    let data = hashing(TYPES, &KEY);
    assert_eq!(b.command(Class::MQ.0, MqCommand::HASH_CONFIG.0, &data), Ack::OK);
    assert_eq!(report(&mut a, &mut b, &known()), (0x51cc_c178, HashReport::TCPV4, 0));
    assert_eq!(report(&mut a, &mut b, &plain(B, A, 60, 1)), (0, HashReport::NONE, 0));
    let mut fragment = known();
    fragment[20] = 0x20;
    assert_eq!(report(&mut a, &mut b, &fragment), (0x323e_8fc2, HashReport::IPV4, 0), "no ports to speak of");
    let data = hashing(HashTypes::IPV4, &KEY);
    assert_eq!(b.command(Class::MQ.0, MqCommand::HASH_CONFIG.0, &data), Ack::OK);
    assert_eq!(report(&mut a, &mut b, &known()), (0x323e_8fc2, HashReport::IPV4, 0));
    for bad in
        [hashing(HashTypes::UDP_EX, &KEY), hashing(TYPES, &[1; 41]), hashing(TYPES, &KEY)[..20].to_vec()]
    {
        assert_eq!(b.command(Class::MQ.0, MqCommand::HASH_CONFIG.0, &bad), Ack::ERR);
    }
    // Every segment of a packet has the packet's hash.
    let mut whole = packet(Kind::Tcp4, (2794, 1766), &payload(3000));
    whole[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
    let header = leave_segmentation(Kind::Tcp4, &mut whole, 1000);
    a.send_with(0, &header, &whole);
    let values: Vec<u32> = b.receive().iter().map(|packet| packet.header.hash_value.get()).collect();
    assert_eq!(values, [0x323e_8fc2; 3]);
}

#[test]
fn without_several_queues_negotiated_the_control_queue_is_the_third() {
    let [a, b] = pair(Buffers::default());
    let _other = Net::new(a, Options::new(A));
    let device = Net::new(b, Options { pairs: PAIRS, ..Options::new(B) });
    let mut station = Station::new(device, Wish::new(N::CTRL_VQ | N::CTRL_RX));
    assert_eq!(station.control.as_ref().map(|control| control.index()), Some(2));
    assert_eq!(station.command(Class::RX.0, 0, &[1]), Ack::OK);
    let (_, b, _) = two(N::MQ);
    assert_eq!(b.control.as_ref().map(|control| control.index()), Some(2 * PAIRS));
}
