//! Commands of the control queue.

use crate::packets::Kind;
use crate::packets::{A, ALL, B, C, packet, payload, plain, tagged};
use crate::station::{Station, Wish};
use virtio_kit::Features;
use virtio_kit::spec::net::{
    Ack, AnnounceCommand, Class, F as N, LinkStatus, MacCommand, RxCommand, VlanCommand,
};
use virtio_kit_devices::net::{Buffers, Net, NetHandle, Options, pair};

const RX: Features = N::CTRL_VQ.union(N::CTRL_RX).union(N::CTRL_RX_EXTRA);
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

/// A sender, and a receiver with address B and these features.
fn two(features: Features) -> (Station, Station, NetHandle) {
    let [a, b] = pair(Buffers::default());
    let b = Net::new(b, Options::new(B));
    let handle = b.handle();
    (
        Station::new(Net::new(a, Options::new(A)), Wish::new(Features::EMPTY)),
        Station::new(b, Wish::new(features)),
        handle,
    )
}

/// Which of these destinations the receiver gets frames for.
fn reached<const N: usize>(a: &mut Station, b: &mut Station, to: [[u8; 6]; N]) -> [bool; N] {
    to.map(|destination| {
        a.send(&plain(destination, A, 60, 1));
        b.frames().len() == 1
    })
}

fn mode(station: &mut Station, command: RxCommand, on: u8) -> Ack {
    station.command(Class::RX.0, command.0, &[on])
}

/// A filter table.
fn table(unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Vec<u8> {
    let list = |list: &[[u8; 6]]| [&(list.len() as u32).to_le_bytes()[..], list.as_flattened()].concat();
    [list(unicast), list(multicast)].concat()
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Packet Receive Filtering
// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Setting MAC Address Filtering
#[test]
fn receive_modes_and_addresses_decide_what_is_received() {
    let (mut a, mut b, handle) = two(RX);
    let to = [B, C, GROUP, ALL];
    assert_eq!(reached(&mut a, &mut b, to), [true; 4], "everything, until the driver says otherwise");
    assert_eq!(mode(&mut b, RxCommand::PROMISC, 0), Ack::OK);
    assert_eq!(reached(&mut a, &mut b, to), [true, false, false, true]);
    assert_eq!(handle.counters().receive_filtered, 2);
    for (command, expected) in [
        (RxCommand::ALLMULTI, [true, false, true, true]),
        (RxCommand::ALLUNI, [true, true, false, true]),
        (RxCommand::NOUNI, [false, false, false, true]),
        (RxCommand::NOBCAST, [true, false, false, false]),
    ] {
        assert_eq!(mode(&mut b, command, 1), Ack::OK);
        assert_eq!(reached(&mut a, &mut b, to), expected, "{command:?}");
        assert_eq!(mode(&mut b, command, 0), Ack::OK);
    }
    assert_eq!(b.command(Class::MAC.0, MacCommand::TABLE_SET.0, &table(&[C], &[GROUP])), Ack::OK);
    assert_eq!(reached(&mut a, &mut b, to), [true; 4]);
    assert_eq!(mode(&mut b, RxCommand::NOMULTI, 1), Ack::OK);
    assert_eq!(reached(&mut a, &mut b, to), [true, true, false, true]);
    assert_eq!(mode(&mut b, RxCommand::NOMULTI, 0), Ack::OK);
    assert_eq!(b.command(Class::MAC.0, MacCommand::TABLE_SET.0, &table(&[], &[])), Ack::OK);
    // More than fit: all of that kind.
    let many: Vec<[u8; 6]> = (0..65).map(|n| [1, 2, 3, 4, 5, n]).collect();
    assert_eq!(b.command(Class::MAC.0, MacCommand::TABLE_SET.0, &table(&[], &many)), Ack::OK);
    assert_eq!(reached(&mut a, &mut b, to), [true, false, true, true]);
    assert_eq!(b.command(Class::MAC.0, MacCommand::TABLE_SET.0, &table(&many, &[])), Ack::OK);
    assert_eq!(reached(&mut a, &mut b, to), [true, true, false, true]);
    // What makes no sense changes nothing.
    for bad in [&[2u8][..], &[]] {
        assert_eq!(b.command(Class::RX.0, RxCommand::PROMISC.0, bad), Ack::ERR);
    }
    assert_eq!(b.command(Class::MAC.0, MacCommand::TABLE_SET.0, &[9, 0, 0, 0]), Ack::ERR);
    assert_eq!(reached(&mut a, &mut b, to), [true, true, false, true]);
}

#[test]
fn commands_that_were_not_negotiated_are_refused() {
    let (mut a, mut b, _) = two(N::CTRL_VQ);
    for (class, command, data) in [
        (Class::RX, RxCommand::PROMISC.0, &[0u8][..]),
        (Class::RX, RxCommand::NOUNI.0, &[1]),
        (Class::MAC, MacCommand::TABLE_SET.0, &[0; 8]),
        (Class::MAC, MacCommand::ADDR_SET.0, &C),
        (Class::VLAN, VlanCommand::ADD.0, &[1, 0]),
        (Class::ANNOUNCE, AnnounceCommand::ACK.0, &[]),
        (Class::MQ, 0, &[1, 0]),
        (Class::MQ, 1, &[0; 60]),
        (Class::MQ, 2, &[0; 60]),
        (Class::GUEST_OFFLOADS, 0, &[0; 8]),
        (Class::NOTF_COAL, 0, &[0; 8]),
        (Class(77), 0, &[0; 8]),
    ] {
        assert_eq!(b.command(class.0, command, data), Ack::ERR, "{class:?} {command}");
    }
    assert_eq!(reached(&mut a, &mut b, [B, C, ALL]), [true; 3]);
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / VLAN Filtering
#[test]
fn with_a_vlan_filter_tagged_frames_pass_only_if_the_driver_named_their_vlan() {
    let (mut a, mut b, _) = two(RX | N::CTRL_VLAN);
    assert_eq!(mode(&mut b, RxCommand::PROMISC, 0), Ack::OK);
    let frame = packet(Kind::Udp4, (1, 2), &payload(30));
    let mut frame_for = |b: &mut Station, id| {
        let mut frame = tagged(&frame, id);
        frame[..6].copy_from_slice(&B);
        a.send(&frame);
        b.frames().len() == 1
    };
    assert!(!frame_for(&mut b, 5));
    assert_eq!(b.command(Class::VLAN.0, VlanCommand::ADD.0, &5u16.to_le_bytes()), Ack::OK);
    assert!(frame_for(&mut b, 5) && !frame_for(&mut b, 6));
    assert_eq!(b.command(Class::VLAN.0, VlanCommand::DEL.0, &5u16.to_le_bytes()), Ack::OK);
    assert!(!frame_for(&mut b, 5));
    assert_eq!(b.command(Class::VLAN.0, VlanCommand::ADD.0, &4096u16.to_le_bytes()), Ack::ERR);
    assert_eq!(b.command(Class::VLAN.0, 2, &5u16.to_le_bytes()), Ack::ERR);
}

#[test]
fn the_address_can_be_changed_to_any_that_one_device_can_have() {
    let (mut a, mut b, _) = two(RX | N::CTRL_MAC_ADDR);
    assert_eq!(mode(&mut b, RxCommand::PROMISC, 0), Ack::OK);
    assert_eq!(b.command(Class::MAC.0, MacCommand::ADDR_SET.0, &C), Ack::OK);
    assert_eq!((b.config().mac, reached(&mut a, &mut b, [B, C])), (C, [false, true]));
    for bad in [&GROUP[..], &[0; 6], &C[..5]] {
        assert_eq!(b.command(Class::MAC.0, MacCommand::ADDR_SET.0, bad), Ack::ERR);
    }
    assert_eq!(b.config().mac, C);
    // The next driver finds the first one.
    let mut setup = b.device.reset().unwrap().negotiate(N::MAC).unwrap();
    let config: virtio_kit::spec::net::Config = setup.read_config().unwrap();
    assert_eq!(config.mac, B);
}

// devicenormative:Device Types / Network Device / Device Operation / Control Virtqueue / Gratuitous Packet Sending
#[test]
fn a_driver_is_asked_to_announce_itself_until_it_has_seen_that() {
    let (_, mut b, handle) = two(N::CTRL_VQ | N::STATUS | N::GUEST_ANNOUNCE);
    let before = b.notice.generation();
    assert!(handle.announce());
    assert_eq!(b.notice.generation(), before + 1);
    let status = LinkStatus::from_bits_retain(b.config().status.get());
    assert_eq!(status, LinkStatus::LINK_UP | LinkStatus::ANNOUNCE);
    assert_eq!(b.command(Class::ANNOUNCE.0, 1, &[]), Ack::ERR);
    assert_eq!(b.command(Class::ANNOUNCE.0, AnnounceCommand::ACK.0, &[]), Ack::OK);
    assert_eq!(b.config().status.get(), LinkStatus::LINK_UP.bits());
    let (_, _other, handle) = two(N::CTRL_VQ | N::STATUS);
    assert!(!handle.announce(), "a driver that does not know how");
}
