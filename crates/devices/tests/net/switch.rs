//! A switch of several devices.

use crate::packets::{A, ALL, B, C, CWR, Kind, check, leave_segmentation, packet, payload, plain};
use crate::station::{HandClock, Station, Wish};
use std::sync::Arc;
use std::time::Duration;
use virtio_kit::Features;
use virtio_kit::spec::net::{F as N, Gso};
use virtio_kit_devices::net::{Buffers, Net, Options, Switch, SwitchCounters, SwitchFull, SwitchOptions};

const HOST: Features = N::CSUM.union(N::HOST_TSO4).union(N::HOST_ECN);

fn switch(options: SwitchOptions) -> (Switch, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (Switch::new(options, clock.clone()), clock)
}

fn station(switch: &Switch, mac: [u8; 6], features: Features) -> Station {
    Station::new(Net::new(switch.port().unwrap(), Options::new(mac)), Wish::new(features))
}

fn three(options: SwitchOptions) -> (Switch, Arc<HandClock>, [Station; 3]) {
    let (switch, clock) = switch(options);
    let stations = [A, B, C].map(|mac| station(&switch, mac, Features::EMPTY));
    (switch, clock, stations)
}

/// Who received a frame that the first station sends, by their number.
fn reached(stations: &mut [Station], from: usize, frame: &[u8]) -> Vec<usize> {
    stations[from].send(frame);
    let mut who = vec![];
    for (number, station) in stations.iter_mut().enumerate() {
        for received in station.frames() {
            assert!(received == frame);
            who.push(number);
        }
    }
    who
}

#[test]
fn frames_are_flooded_until_their_address_was_seen_and_go_there_alone_from_then_on() {
    let (switch, _, mut s) = three(SwitchOptions::default());
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1, 2]);
    assert_eq!(reached(&mut s, 1, &plain(A, B, 60, 1)), [0]);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1]);
    assert_eq!(reached(&mut s, 2, &plain(B, C, 60, 1)), [1]);
    assert_eq!(reached(&mut s, 0, &plain(ALL, A, 60, 1)), [1, 2], "a group is never learned");
    let counters = SwitchCounters { switched: 3, flooded: 2, learned: 3, ..SwitchCounters::default() };
    assert_eq!((switch.counters(), switch.addresses()), (counters, 3));
}

#[test]
fn what_must_not_be_forwarded_is_not() {
    let (switch, _, mut s) = three(SwitchOptions::default());
    assert_eq!(reached(&mut s, 0, &plain(B, ALL, 60, 1)), [], "a group as sender");
    assert_eq!(reached(&mut s, 0, &plain(B, [0; 6], 60, 1)), [], "nobody as sender");
    for last in [0, 1, 0xf] {
        assert_eq!(reached(&mut s, 0, &plain([1, 0x80, 0xc2, 0, 0, last], A, 60, 1)), []);
    }
    assert_eq!(reached(&mut s, 0, &plain([1, 0x80, 0xc2, 0, 0, 0x10], A, 60, 1)), [1, 2]);
    assert_eq!(reached(&mut s, 0, &plain(A, A, 60, 1)), [], "to whoever sent it");
    assert_eq!((switch.counters().filtered, switch.addresses()), (6, 1));
}

#[test]
fn an_address_that_moves_is_found_at_its_new_port() {
    let (switch, _, mut s) = three(SwitchOptions::default());
    reached(&mut s, 0, &plain(ALL, A, 60, 1));
    assert_eq!(reached(&mut s, 2, &plain(A, C, 60, 1)), [0]);
    reached(&mut s, 1, &plain(ALL, A, 60, 1));
    assert_eq!(reached(&mut s, 2, &plain(A, C, 60, 1)), [1]);
    assert_eq!((switch.counters().moved, switch.addresses()), (1, 2));
}

#[test]
fn an_address_that_is_silent_for_too_long_is_forgotten() {
    let options = SwitchOptions { max_age: Duration::from_secs(300), ..SwitchOptions::default() };
    let (_, clock, mut s) = three(options);
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    clock.set(200);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1]);
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    clock.set(500);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1], "it was seen since");
    clock.set(501);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1, 2]);
}

#[test]
fn a_driver_that_invents_addresses_cannot_make_the_switch_forget_others() {
    let options = SwitchOptions { addresses: 64, addresses_of_port: 16, ..SwitchOptions::default() };
    let (switch, _, mut s) = three(options);
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    for n in 0..2000u16 {
        let [high, low] = n.to_be_bytes();
        s[0].send(&plain(B, [2, 9, 9, 9, high, low], 60, 1));
        s[1].frames();
    }
    assert_eq!(switch.counters().not_learned, 2000 - 16);
    assert_eq!(switch.addresses(), 17);
    assert_eq!(reached(&mut s, 2, &plain(B, C, 60, 1)), [1]);
}

#[test]
fn a_full_table_floods_what_it_does_not_know_and_learns_again_when_entries_are_old() {
    let options = SwitchOptions { addresses: 8, addresses_of_port: 100, ..SwitchOptions::default() };
    let (switch, clock, mut s) = three(options);
    for n in 0..20 {
        s[0].send(&plain(ALL, [2, 9, 9, 9, 9, n], 60, 1));
        s[1].frames();
        s[2].frames();
    }
    assert_eq!((switch.counters().learned, switch.counters().not_learned, switch.addresses()), (8, 12, 8));
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    assert_eq!(reached(&mut s, 2, &plain(B, C, 60, 1)), [0, 1]);
    clock.set(1000);
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    assert_eq!(reached(&mut s, 2, &plain(B, C, 60, 1)), [1]);
}

#[test]
fn a_port_that_is_removed_gets_nothing_and_its_number_and_addresses_are_free() {
    let (switch, _) = switch(SwitchOptions { ports: 3, ..SwitchOptions::default() });
    let mut s: Vec<Station> = [A, B, C].map(|mac| station(&switch, mac, Features::EMPTY)).into();
    assert_eq!(switch.port().err(), Some(SwitchFull { ports: 3 }));
    reached(&mut s, 1, &plain(ALL, B, 60, 1));
    reached(&mut s, 2, &plain(ALL, C, 60, 1));
    s.remove(1);
    assert_eq!(switch.addresses(), 1);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1], "flooded to those who are left");
    // Somebody else in the same place.
    s.push(station(&switch, B, Features::EMPTY));
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [1, 2]);
    assert_eq!(reached(&mut s, 2, &plain(A, B, 60, 1)), [0]);
    assert_eq!(reached(&mut s, 0, &plain(B, A, 60, 1)), [2]);
}

#[test]
fn a_packet_is_cut_for_the_ports_that_need_it_and_stays_whole_for_the_others() {
    let (switch, _) = switch(SwitchOptions::default());
    let mut sender = station(&switch, A, HOST);
    let guest = N::GUEST_CSUM | N::GUEST_TSO4 | N::GUEST_ECN | N::MRG_RXBUF;
    let mut whole = station(&switch, B, guest);
    let mut cut = station(&switch, C, Features::EMPTY);
    let mut frame = packet(Kind::Tcp4, (1, 2), &payload(40_000));
    frame[..6].copy_from_slice(&ALL);
    frame[6..12].copy_from_slice(&A);
    frame[47] |= CWR;
    let mut header = leave_segmentation(Kind::Tcp4, &mut frame, 1448);
    header.base.gso_type |= Gso::ECN.0;
    sender.send_with(0, &header, &frame);
    let got = whole.receive();
    assert!(got.len() == 1 && got[0].bytes == frame);
    assert_eq!(got[0].header.base.gso_type, Gso::TCPV4.0 | Gso::ECN.0);
    let segments = cut.frames();
    assert_eq!(segments.len(), 40_000usize.div_ceil(1448));
    let all: Vec<u8> = segments.iter().flat_map(|segment| check(segment).payload).collect();
    assert!(all == payload(40_000));
}

#[test]
fn a_port_that_does_not_keep_up_loses_frames_alone() {
    let buffers = Buffers { small: 4, large: 1 };
    let (switch, _) = switch(SwitchOptions { buffers, ..SwitchOptions::default() });
    let mut sender = station(&switch, A, Features::EMPTY);
    let port = switch.port().unwrap();
    let slow = port.index();
    let wish = Wish::new(Features::EMPTY).buffers(2, &[2048]);
    let mut lazy = Station::new(Net::new(port, Options::new(B)), wish);
    let mut quick = station(&switch, C, Features::EMPTY);
    for n in 0..20 {
        sender.send(&plain(ALL, A, 60, n));
        assert_eq!(quick.frames(), [plain(ALL, A, 60, n)]);
    }
    assert_eq!(switch.port_counters(slow).unwrap().dropped, 20 - 2 - 4);
    let kept: Vec<_> = (0..6).map(|n| plain(ALL, A, 60, n)).collect();
    assert_eq!(lazy.frames(), kept);
    assert_eq!(switch.port_counters(99), None);
}
