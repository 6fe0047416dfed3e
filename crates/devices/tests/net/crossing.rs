//! Frames from one device to another, and what the driver finds in its headers and in configuration space.

use crate::packets::{A, B, plain};
use crate::station::{Station, Wish, layouts};
use virtio_kit::device::Device;
use virtio_kit::spec::net::{Duplex, F as N, LinkStatus};
use virtio_kit::{Chain, Features};
use virtio_kit_devices::net::{Buffers, Counters, Loopback, MAX_FRAME, Net, Options, Sink, Sunk, pair};
use virtio_kit_testkit::Rng;

fn two(wish: &Wish) -> [Station; 2] {
    let [a, b] = pair(Buffers::default());
    [
        Station::new(Net::new(a, Options::new(A)), wish.clone()),
        Station::new(Net::new(b, Options::new(B)), wish.clone()),
    ]
}

// devicenormative:Device Types / Network Device / Device Operation / Processing of Incoming Packets
// devicenormative:Device Types / Network Device / Device Operation / Setting Up Receive Buffers
#[test]
fn frames_of_any_length_cross_in_every_layout_with_and_without_mergeable_buffers() {
    for ring in layouts() {
        for (features, buffers, lengths) in [
            (Features::EMPTY, 4, &[65562][..]),
            (N::MRG_RXBUF, 16, &[1536][..]),
            (N::MRG_RXBUF, 64, &[12, 13, 100, 17, 4096, 63][..]),
        ] {
            let wish = Wish { ring, ..Wish::new(features) }.buffers(buffers, lengths);
            let [mut a, mut b] = two(&wish);
            let mut rng = Rng::new(u64::from(ring.low() as u32));
            for round in 0..12 {
                let len = [14, 15, 60, 1514, 1515, 9000][rng.below(6)] + rng.below(3);
                let (from, to) = if round % 3 == 0 { (&mut b, &mut a) } else { (&mut a, &mut b) };
                let frame = plain(B, A, len, round);
                from.send(&frame);
                let packets = to.receive();
                assert_eq!(packets.len(), 1, "{ring:?} {lengths:?} {len}");
                let packet = &packets[0];
                assert!(packet.bytes == frame, "{ring:?} {lengths:?} {len}");
                // Nothing but the number of buffers, and as many as the frame needs.
                let mut header = packet.header;
                let buffers = usize::from(header.base.num_buffers.get());
                assert_eq!(buffers, packet.written.len());
                header.base.num_buffers = 0.into();
                assert_eq!(header, Default::default());
                assert_eq!(packet.written.iter().sum::<usize>(), 12 + len);
            }
        }
    }
}

#[test]
fn all_merged_buffers_but_the_last_are_filled() {
    let [mut a, mut b] = two(&Wish::new(N::MRG_RXBUF).buffers(64, &[100, 50, 30]));
    a.send(&plain(B, A, 300, 1));
    let packet = b.receive().pop().unwrap();
    assert_eq!(packet.written, [100, 50, 30, 100, 32]);
}

#[test]
fn a_loop_gives_back_what_it_is_sent_and_a_sink_counts_it() {
    let mut station = Station::new(
        Net::new(Loopback::new(Buffers::default()), Options::new(A)),
        Wish::new(Features::EMPTY),
    );
    let frame = plain(B, A, 777, 5);
    station.send(&frame);
    assert_eq!(station.frames(), [frame]);

    let sink = Sink::new();
    let mut station = Station::new(Net::new(sink.clone(), Options::new(A)), Wish::new(Features::EMPTY));
    for len in [60, 100] {
        station.send(&plain(B, A, len, 5));
    }
    assert_eq!(sink.sunk(), Sunk { frames: 2, bytes: 160 });
    assert!(station.frames().is_empty());
}

// devicenormative:Device Types / Network Device / Device configuration layout
#[test]
fn the_device_offers_what_its_options_and_its_back_end_carry_and_shows_it() {
    let device = Net::new(Sink::new(), Options::new(A));
    let some = N::MAC | N::STATUS | N::MRG_RXBUF | N::CTRL_VQ | N::HOST_TSO4 | N::HOST_USO | N::CSUM;
    assert!(device.features().contains(some));
    assert!(!device.features().intersects(N::MQ | N::RSS | N::MTU | N::SPEED_DUPLEX | N::NOTF_COAL));
    let speed = Some((40_000, Duplex::FULL));
    let options = Options { mtu: Some(9000), pairs: 4, speed, ..Options::new(A) };
    let device = Net::new(Sink::new(), options);
    let handle = device.handle();
    assert!(device.features().contains(N::MQ | N::RSS | N::MTU | N::SPEED_DUPLEX));
    let mut station = Station::new(device, Wish::new(N::MTU | N::SPEED_DUPLEX | N::MAC | N::STATUS));
    let config = station.config();
    assert_eq!((config.mac, config.mtu.get(), config.max_virtqueue_pairs.get()), (A, 9000, 4));
    assert_eq!((config.speed.get(), config.duplex), (40_000, Duplex::FULL.0));
    assert_eq!(config.status.get(), LinkStatus::LINK_UP.bits());
    assert_eq!((config.rss_max_key_size, config.rss_max_indirection_table_length.get()), (40, 128));
    handle.set_speed(10, Duplex::HALF);
    assert_eq!((station.config().speed.get(), station.config().duplex), (10, Duplex::HALF.0));
}

#[test]
fn the_driver_is_told_when_the_link_goes_down_and_nothing_passes_until_it_is_up() {
    let [a, b] = pair(Buffers::default());
    let (a, b) = (Net::new(a, Options::new(A)), Net::new(b, Options::new(B)));
    let (left, right) = (a.handle(), b.handle());
    let wish = Wish::new(N::STATUS);
    let (mut a, mut b) = (Station::new(a, wish.clone()), Station::new(b, wish));
    let frame = plain(B, A, 60, 1);
    let generation = a.notice.generation();
    left.set_link(false);
    left.set_link(false);
    assert_eq!(a.notice.generation(), generation + 1);
    assert_eq!(a.config().status.get(), 0);
    a.send(&frame);
    left.set_link(true);
    assert_eq!(a.notice.generation(), generation + 2);
    right.set_link(false);
    a.send(&frame);
    right.set_link(true);
    assert!(b.frames().is_empty());
    a.send(&frame);
    assert_eq!(b.frames(), [frame]);
    assert_eq!((left.counters().send_link_down, right.counters().receive_link_down), (1, 1));
}

#[test]
fn frames_for_a_driver_without_buffers_wait_and_those_beyond_the_bound_are_lost() {
    let buffers = Buffers { small: 8, large: 1 };
    let [a, b] = pair(buffers);
    let (a, b) = (Net::new(a, Options::new(A)), Net::new(b, Options::new(B)));
    let handle = b.handle();
    let mut a = Station::new(a, Wish::new(Features::EMPTY));
    let mut b = Station::new(b, Wish::new(Features::EMPTY).buffers(2, &[2048]));
    for n in 0..20 {
        a.send(&plain(B, A, 60, n));
    }
    // Two in the driver's buffers, and eight on their way.
    let first: Vec<_> = (0..10).map(|n| plain(B, A, 60, n)).collect();
    assert_eq!(b.frames(), first);
    assert_eq!(handle.counters().received, 10);
    a.send(&plain(B, A, 60, 99));
    assert_eq!(b.frames(), [plain(B, A, 60, 99)]);
}

#[test]
fn a_frame_of_the_greatest_length_passes_and_one_of_a_byte_more_is_dropped() {
    let [a, b] = pair(Buffers::default());
    let (a, b) = (Net::new(a, Options::new(A)), Net::new(b, Options::new(B)));
    let handle = a.handle();
    let mut a = Station::new(a, Wish::new(Features::EMPTY));
    let mut b = Station::new(b, Wish::new(Features::EMPTY).buffers(8, &[MAX_FRAME + 12]));
    a.send(&plain(B, A, MAX_FRAME, 1));
    a.send(&plain(B, A, MAX_FRAME + 1, 1));
    assert_eq!(b.frames(), [plain(B, A, MAX_FRAME, 1)]);
    let sent = Counters { sent: 1, sent_bytes: MAX_FRAME as u64, send_oversize: 1, ..Counters::default() };
    assert_eq!(handle.counters(), sent);
}

#[test]
fn a_reset_device_forgets_what_waits_and_starts_anew() {
    let [a, b] = pair(Buffers::default());
    let mut a = Station::new(Net::new(a, Options::new(A)), Wish::new(Features::EMPTY));
    let b = Station::new(Net::new(b, Options::new(B)), Wish::new(Features::EMPTY).buffers(1, &[2048]));
    for n in 0..5 {
        a.send(&plain(B, A, 60, n));
    }
    let found = b.device.reset().unwrap();
    a.send(&plain(B, A, 60, 5));
    let mut setup = found.negotiate(Features::EMPTY).unwrap();
    let mut rx: crate::station::Rx = setup.new_vq(0, Default::default()).unwrap();
    let device = setup.start().unwrap();
    for _ in 0..4 {
        let buffer = device.arena().unwrap().alloc(2048).unwrap();
        rx.add_buf(Chain::writable(vec![buffer]), ()).unwrap();
    }
    rx.kick().unwrap();
    assert!(rx.get_buf().unwrap().is_none(), "a frame of the device's last life");
    a.send(&plain(B, A, 60, 6));
    assert_eq!(rx.get_buf().unwrap().unwrap().written, 72);
}

#[test]
fn a_whole_batch_passes_inline_however_little_may_wait() {
    for pairs in [1, 2] {
        let [a, b] = pair(Buffers { small: 4, large: 1 });
        let a = Net::new(a, Options { pairs, ..Options::new(A) });
        let b = Net::new(b, Options { pairs, ..Options::new(B) });
        let mut a = Station::new(a, Wish::new(Features::EMPTY));
        let mut b = Station::new(b, Wish::new(Features::EMPTY).buffers(128, &[2048]));
        let frames: Vec<_> = (0..100).map(|n| plain(B, A, 60, n)).collect();
        for frame in &frames {
            let mut buffer = a.arena.alloc(12 + frame.len()).unwrap();
            buffer.write(0, &[0; 12]).unwrap();
            buffer.write(12, frame).unwrap();
            a.tx[0].add_buf(Chain::readable(vec![buffer]), ()).unwrap();
        }
        a.tx[0].kick().unwrap();
        assert_eq!(b.frames(), frames, "{pairs} pairs");
    }
}

// devicenormative:Device Types / Network Device / Device configuration layout
#[test]
fn nothing_above_the_mtu_reaches_a_driver_that_was_told_it() {
    let [a, b] = pair(Buffers::default());
    let b = Net::new(b, Options { mtu: Some(1000), ..Options::new(B) });
    let handle = b.handle();
    let mut a = Station::new(Net::new(a, Options::new(A)), Wish::new(Features::EMPTY));
    let mut b = Station::new(b, Wish::new(N::MTU));
    for (len, tagged, passes) in
        [(1014, false, true), (1015, false, false), (1018, true, true), (1019, true, false)]
    {
        let mut frame = plain(B, A, len, 1);
        if tagged {
            frame[12..14].copy_from_slice(&[0x81, 0]);
        }
        a.send(&frame);
        assert_eq!(b.frames().len(), usize::from(passes), "{len} bytes");
    }
    assert_eq!(handle.counters().receive_oversize, 2);
}
