//! Checksums and segmentation, left to the device by one driver and not taken by another. What comes out is
//! verified by another implementation.

use crate::packets::{A, B, CWR, KINDS, Kind, check, leave_checksum, leave_segmentation, packet, payload};
use crate::packets::{tagged, transport};
use crate::station::{Packet, Station, Wish};
use virtio_kit::Features;
use virtio_kit::spec::net::{Ack, Class, F as N, Gso, GuestOffloads, HeaderFlags, HeaderHash};
use virtio_kit_devices::net::{Buffers, Net, NetHandle, Options, pair};

const HOST: Features = N::CSUM.union(N::HOST_TSO4).union(N::HOST_TSO6).union(N::HOST_ECN).union(N::HOST_USO);
const GUEST: Features = N::GUEST_CSUM
    .union(N::GUEST_TSO4)
    .union(N::GUEST_TSO6)
    .union(N::GUEST_ECN)
    .union(N::GUEST_USO4)
    .union(N::GUEST_USO6);

/// A sender of everything, and a receiver with these features.
fn two(receiver: Features, lengths: &[usize]) -> (Station, Station, NetHandle) {
    let [a, b] = pair(Buffers::default());
    let b = Net::new(b, Options::new(B));
    let handle = b.handle();
    let a = Station::new(Net::new(a, Options::new(A)), Wish::new(HOST));
    let b = Station::new(b, Wish::new(receiver | N::MRG_RXBUF).buffers(128, lengths));
    (a, b, handle)
}

// devicenormative:Device Types / Network Device / Device Operation / Processing of Incoming Packets
#[test]
fn a_partial_checksum_is_completed_for_a_driver_that_does_not_take_it() {
    for kind in KINDS {
        for len in [0, 1, 2, 3, 999, 1400] {
            let (mut a, mut b, handle) = two(Features::EMPTY, &[2048]);
            let complete = packet(kind, (4000, 80), &payload(len));
            let mut partial = complete.clone();
            let header = leave_checksum(kind, &mut partial);
            a.send_with(0, &header, &partial);
            let Packet { header, bytes, .. } = b.receive().pop().unwrap();
            assert_eq!(check(&bytes).payload, payload(len), "{kind:?}");
            assert!(bytes == complete, "{kind:?} {len}");
            assert_eq!((header.base.flags, header.base.csum_start.get()), (0, 0));
            assert_eq!(handle.counters().received_checksums, 1);
        }
    }
}

#[test]
fn a_partial_checksum_passes_to_a_driver_that_takes_it() {
    let (mut a, mut b, handle) = two(N::GUEST_CSUM, &[2048]);
    let mut partial = packet(Kind::Tcp4, (4000, 80), &payload(100));
    let header = leave_checksum(Kind::Tcp4, &mut partial);
    a.send_with(0, &header, &partial);
    let got = b.receive().pop().unwrap();
    assert!(got.bytes == partial);
    let mut expected = header;
    expected.base.num_buffers = 1.into();
    assert_eq!(got.header, expected);
    assert_eq!(handle.counters().received_checksums, 0);
}

fn segments(kind: Kind, len: usize, size: u16, vlan: bool, flags: u8) -> Vec<Packet> {
    let (mut a, mut b, handle) = two(Features::EMPTY, &[700, 64, 1500]);
    let mut whole = packet(kind, (4000, 80), &payload(len));
    if vlan {
        whole = tagged(&whole, 5);
    }
    let at = usize::from(transport(kind, &whole).0) + 13;
    if kind.is_tcp() {
        whole[at] |= flags;
    }
    let mut header = leave_segmentation(kind, &mut whole, size);
    if flags & CWR != 0 {
        header.base.gso_type |= Gso::ECN.0;
    }
    // Not to be relied on.
    header.base.hdr_len = 0xffff.into();
    header.base.num_buffers = 0xffff.into();
    a.send_with(0, &header, &whole);
    let packets = b.receive();
    assert_eq!(handle.counters().received_segments, packets.len() as u64);
    packets
}

#[test]
fn a_packet_is_cut_into_right_segments_for_a_driver_that_does_not_take_it_whole() {
    for kind in KINDS {
        for (len, size) in [(0, 100), (1, 100), (100, 100), (101, 100), (4321, 500), (60_000, 1448)] {
            for vlan in [false, true] {
                let packets = segments(kind, len, size, vlan, 0);
                assert_eq!(packets.len(), len.div_ceil(size.into()).max(1), "{kind:?} {len} {size}");
                let mut all = vec![];
                for (index, packet) in packets.iter().enumerate() {
                    let last = index + 1 == packets.len();
                    let checked = check(&packet.bytes);
                    assert!(last || checked.payload.len() == usize::from(size));
                    if kind.is_tcp() {
                        assert_eq!(checked.sequence, 1000 + all.len() as u32);
                        assert_eq!(checked.fin_psh, last, "FIN and PSH belong to the last");
                    }
                    if matches!(kind, Kind::Tcp4 | Kind::Udp4) {
                        let first = check(&packets[0].bytes).id;
                        assert_eq!(checked.id, first.wrapping_add(index as u16), "identification");
                    }
                    let HeaderHash { base, .. } = packet.header;
                    assert_eq!(
                        (base.flags, base.gso_type, base.gso_size.get(), base.hdr_len.get()),
                        (0, 0, 0, 0)
                    );
                    all.extend(checked.payload);
                }
                assert!(all == payload(len), "{kind:?} {len} {size}");
            }
        }
    }
}

#[test]
fn only_the_first_segment_says_that_the_congestion_window_is_reduced() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let packets = segments(kind, 1000, 300, false, CWR);
        let marks: Vec<bool> = packets.iter().map(|packet| check(&packet.bytes).cwr).collect();
        assert_eq!(marks, [true, false, false, false]);
    }
}

#[test]
fn a_packet_passes_whole_to_a_driver_that_takes_its_kind_and_is_cut_for_all_others() {
    let kinds = [
        (Kind::Tcp4, N::GUEST_TSO4, 0),
        (Kind::Tcp6, N::GUEST_TSO6, 0),
        (Kind::Udp4, N::GUEST_USO4, 0),
        (Kind::Udp6, N::GUEST_USO6, 0),
        (Kind::Tcp4, N::GUEST_TSO4 | N::GUEST_ECN, Gso::ECN.0),
    ];
    for (kind, needs, ecn) in kinds {
        for (receiver, whole) in [
            (N::GUEST_CSUM | needs, true),
            (GUEST, true),
            (GUEST - needs, false),
            (if ecn == 0 { N::GUEST_CSUM } else { GUEST - N::GUEST_ECN }, false),
        ] {
            let (mut a, mut b, _) = two(receiver, &[2048]);
            let mut frame = packet(kind, (4000, 80), &payload(5000));
            let mut header = leave_segmentation(kind, &mut frame, 1000);
            header.base.gso_type |= ecn;
            a.send_with(0, &header, &frame);
            let got = b.receive();
            if !whole {
                assert_eq!(got.len(), 5, "{kind:?} {receiver:?}");
                got.iter().for_each(|packet| drop(check(&packet.bytes)));
                continue;
            }
            assert!(got.len() == 1 && got[0].bytes == frame, "{kind:?} {receiver:?}");
            let mut expected = header;
            let headers = u16::from(transport(kind, &frame).0 as u8) + if kind.is_tcp() { 32 } else { 8 };
            expected.base.hdr_len = headers.into();
            expected.base.num_buffers = got[0].header.base.num_buffers;
            assert_eq!(got[0].header, expected);
        }
    }
}

// drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Offloads State Configuration / Setting Offloads State
#[test]
fn offloads_can_be_turned_off_and_on_while_frames_pass() {
    let features = GUEST | N::CTRL_VQ | N::CTRL_GUEST_OFFLOADS;
    let (mut a, mut b, _) = two(features, &[2048]);
    let mut frame = packet(Kind::Tcp4, (1, 2), &payload(3000));
    let header = leave_segmentation(Kind::Tcp4, &mut frame, 1000);
    let mut count = |b: &mut Station| {
        a.send_with(0, &header, &frame);
        b.receive().len()
    };
    assert_eq!(count(&mut b), 1);
    for (offloads, expected) in [
        (GuestOffloads::empty(), 3),
        (GuestOffloads::CSUM, 3),
        (GuestOffloads::CSUM | GuestOffloads::TSO4, 1),
        (GuestOffloads::TSO4, 3),
    ] {
        let data = offloads.bits().to_le_bytes();
        assert_eq!(b.command(Class::GUEST_OFFLOADS.0, 0, &data), Ack::OK);
        assert_eq!(count(&mut b), expected, "{offloads:?}");
    }
    for bad in [GuestOffloads::UFO.bits(), 1 << 63, 1] {
        assert_eq!(b.command(Class::GUEST_OFFLOADS.0, 0, &bad.to_le_bytes()), Ack::ERR);
    }
}

#[test]
fn that_a_checksum_was_checked_is_not_told_to_a_driver_that_does_not_know_of_it() {
    // The document lets a sender say nothing of the kind, so it is not passed on either.
    let (mut a, mut b, _) = two(N::GUEST_CSUM, &[2048]);
    let frame = packet(Kind::Udp4, (1, 2), &payload(10));
    let mut header = HeaderHash::default();
    header.base.flags = HeaderFlags::DATA_VALID.bits();
    a.send_with(0, &header, &frame);
    assert_eq!(b.receive().pop().unwrap().header.base.flags, 0);
}
