//! Devices that lie. Nothing panics, no buffer is lost, and every lie has a typed error.

use super::scripted::*;
use virtio_kit::bus::ProbeError;
use virtio_kit::spec::net::{Config, F, Gso};
use virtio_kit::{F as Ring, Features};
use virtio_kit_drivers::net::{self, BadFrame, Checksum, Error, Options, RecvError};
use virtio_kit_testkit::Rng;

/// Everything that says something about received frames.
const RECEIVE: Features = F::GUEST_CSUM.union(F::GUEST_TSO4).union(F::GUEST_ECN).union(F::MRG_RXBUF);

/// A good frame in one buffer.
fn good(number: u64) -> Vec<u8> {
    let mut bytes = header(0, 0, [0, 0, 0, 0, 1]);
    bytes.extend(frame(number, 100));
    bytes
}

fn with_frame(header: Vec<u8>) -> Vec<u8> {
    let mut bytes = header;
    bytes.extend(frame(1, 100));
    bytes
}

/// What one lie leads to; a good frame after it comes, and then the ring is as full as before.
fn lie(opened: &mut Opened, buffers: Vec<Vec<u8>>) -> Result<Checksum, BadFrame> {
    let rx = &mut opened.net.pairs[0].rx;
    opened.script.give(buffers);
    opened.end.run(0);
    let result = match rx.recv() {
        Ok(Some(received)) => {
            let checksum = received.offload.checksum;
            rx.recycle(received.frame);
            Ok(checksum)
        }
        Err(RecvError::Frame(bad)) => Err(bad),
        other => panic!("{other:?}"),
    };
    // Whatever else the lie left in the ring is a bad frame too, or a good one.
    while !matches!(rx.recv(), Ok(None)) {}
    opened.script.give([good(77)]);
    opened.end.run(0);
    let received = rx.recv().unwrap().unwrap();
    assert_eq!(bytes(&received.frame), frame(77, 100));
    rx.recycle(received.frame);
    rx.refill().unwrap();
    assert_eq!(rx.in_flight(), 256);
    result
}

#[test]
fn every_lie_in_a_header_is_an_error_of_that_frame_alone() {
    for layout in layouts() {
        let script = Scripted::new(RECEIVE);
        let mut opened = open(&script, layout, &options());
        let free = opened.arena.free_bytes();
        let most = 33;
        let cases: Vec<(Vec<u8>, BadFrame)> = vec![
            (vec![], BadFrame::TooShort { written: 0 }),
            (vec![0], BadFrame::TooShort { written: 1 }),
            (header(0, 0, [0, 0, 0, 0, 1]), BadFrame::TooShort { written: 12 }),
            (good(1)[..25].to_vec(), BadFrame::TooShort { written: 25 }),
            (with_frame(header(0, 0, [0, 0, 0, 0, 0])), BadFrame::BufferCount { count: 0, most }),
            (with_frame(header(0, 0, [0, 0, 0, 0, most + 1])), BadFrame::BufferCount { count: 34, most }),
            (with_frame(header(0, 0, [0, 0, 0, 0, 65535])), BadFrame::BufferCount { count: 65535, most }),
            (with_frame(header(0, 0, [0, 0, 0, 0, 2])), BadFrame::MissingBuffers { count: 2, used: 1 }),
            (with_frame(header(0, 0, [0, 0, 0, 0, 33])), BadFrame::MissingBuffers { count: 33, used: 1 }),
            (
                with_frame(header(1, 0, [0, 0, 34, 65, 1])),
                BadFrame::ChecksumOutside { start: 34, offset: 65 },
            ),
            (
                with_frame(header(1, 0, [0, 0, 65535, 65535, 1])),
                BadFrame::ChecksumOutside { start: 65535, offset: 65535 },
            ),
            (with_frame(header(5, 1, [0, 0, 34, 16, 1])), BadFrame::NotNegotiated(F::RSC_EXT)),
            (with_frame(header(1, 2, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso(2))),
            (with_frame(header(1, 3, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso::UDP)),
            (with_frame(header(1, 6, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso(6))),
            (with_frame(header(1, 0x21, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso(0x21))),
            (with_frame(header(1, 0x61, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso(0x61))),
            (with_frame(header(1, 0x7f, [54, 100, 34, 16, 1])), BadFrame::Segmentation(Gso(0x7f))),
            (with_frame(header(1, 1, [54, 0, 34, 16, 1])), BadFrame::NoSegmentSize),
            (with_frame(header(1, 4, [54, 100, 34, 16, 1])), BadFrame::NotNegotiated(F::GUEST_TSO6)),
            (
                with_frame(header(1, 5, [54, 100, 34, 16, 1])),
                BadFrame::NotNegotiated(F::GUEST_USO4 | F::GUEST_USO6),
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(lie(&mut opened, vec![bytes]), Err(expected));
        }
        let missing = vec![with_frame(header(0, 0, [0, 0, 0, 0, 5])), vec![1; 50], vec![2; 60]];
        assert_eq!(lie(&mut opened, missing), Err(BadFrame::MissingBuffers { count: 5, used: 3 }));
        let empty = vec![with_frame(header(0, 0, [0, 0, 0, 0, 3])), vec![], vec![1; 10]];
        if layout.contains(Ring::IN_ORDER) {
            // There the device's queue need not say how long each one is.
            let _ = lie(&mut opened, empty);
        } else {
            assert_eq!(lie(&mut opened, empty), Err(BadFrame::EmptyBuffer));
        }
        assert_eq!(opened.arena.free_bytes(), free);
    }
}

// drivernormative:Device Types / Network Device / Device Operation / Processing of Incoming Packets
#[test]
fn what_is_only_odd_is_received() {
    let script = Scripted::new(RECEIVE);
    let mut opened = open(&script, layouts()[0], &options());
    let good = [
        // Flags that nobody knows, and those of features that were not agreed on.
        (with_frame(header(0xfa, 0, [0, 0, 0, 0, 1])), Checksum::Checked),
        (with_frame(header(0xf8, 0, [0, 0, 0, 0, 1])), Checksum::Full),
        // Checksum fields that do not count.
        (with_frame(header(0, 0, [0, 0, 65535, 65535, 1])), Checksum::Full),
        // A length of headers that is beyond the frame is a hint that is not taken.
        (with_frame(header(1, 1, [65535, 100, 34, 16, 1])), Checksum::Partial { start: 34, offset: 16 }),
        // ECN alone.
        (with_frame(header(0, 0x80, [0, 0, 0, 0, 1])), Checksum::Full),
    ];
    for (bytes, checksum) in good {
        assert_eq!(lie(&mut opened, vec![bytes]), Ok(checksum));
    }
    for (given, taken) in [(0, 0), (99, 99), (100, 0), (65535, 0)] {
        script.give([with_frame(header(1, 1, [given, 100, 34, 16, 1]))]);
        opened.end.run(0);
        let received = opened.net.pairs[0].rx.recv().unwrap().unwrap();
        assert_eq!(received.offload.segmentation.unwrap().header_len, taken);
    }
    // Without GUEST_CSUM nothing is believed of checksums, and without MRG_RXBUF no number of buffers.
    let script = Scripted::new(Features::EMPTY);
    let mut opened = open(&script, layouts()[0], &options());
    let bytes = with_frame(header(1, 0, [0, 0, 34, 16, 1]));
    assert_eq!(lie(&mut opened, vec![bytes]), Err(BadFrame::NotNegotiated(F::GUEST_CSUM)));
    let script = Scripted::new(RECEIVE - F::GUEST_ECN);
    let mut with_tso = open(&script, layouts()[0], &options());
    let bytes = with_frame(header(1, 0x81, [54, 100, 34, 16, 1]));
    assert_eq!(lie(&mut with_tso, vec![bytes]), Err(BadFrame::NotNegotiated(F::GUEST_ECN)));
    for count in [0, 1, 9] {
        let bytes = with_frame(header(2, 0, [0, 0, 0, 0, count]));
        assert_eq!(lie(&mut opened, vec![bytes]), Ok(Checksum::Full));
    }
}

#[test]
fn random_headers_and_lengths_lose_no_buffer() {
    for (seed, layout) in (0..).zip(layouts()) {
        let script = Scripted::new(RECEIVE);
        let mut opened = open(&script, layout, &options());
        let free = opened.arena.free_bytes();
        let mut rng = Rng::new(seed);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3000 {
            let count = 1 + rng.below(4);
            let buffers: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let mut bytes = vec![0; rng.below(2049)];
                    bytes.iter_mut().take(12).for_each(|b| *b = rng.below(256) as u8);
                    if let Some(bytes) = bytes.get_mut(..12) {
                        // Mostly numbers of buffers that there may be.
                        bytes[11] = 0;
                        bytes[10] %= 8;
                        bytes[1] &= 0x87;
                        bytes[7] &= 1;
                        bytes[9] = 0;
                    }
                    bytes
                })
                .collect();
            opened.script.give(buffers);
            opened.end.run(0);
            let rx = &mut opened.net.pairs[0].rx;
            let mut back = vec![];
            let got = if rng.below(2) == 0 {
                rx.recv_batch(1 + rng.below(4), |received| back.push(received)).unwrap()
            } else {
                match rx.recv() {
                    Ok(None) => 0,
                    Ok(Some(received)) => {
                        back.push(Ok(received));
                        1
                    }
                    Err(RecvError::Frame(error)) => {
                        back.push(Err(error));
                        1
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            };
            assert_eq!(got, back.len());
            for received in back {
                match received {
                    Ok(received) => {
                        good += 1;
                        rx.recycle(received.frame);
                    }
                    Err(_) => bad += 1,
                }
            }
        }
        let rx = &mut opened.net.pairs[0].rx;
        while !matches!(rx.recv(), Ok(None)) {}
        assert!(good > 100 && bad > 100, "seed {seed}: {good} good, {bad} bad");
        rx.refill().unwrap();
        assert_eq!((rx.in_flight(), opened.arena.free_bytes()), (256, free), "seed {seed}");
    }
}

#[test]
fn configurations_that_cannot_be_are_refused_at_once() {
    let features = F::MTU | F::MAC | F::CTRL_VQ | F::MQ | F::RSS;
    let change = |change: fn(&mut Config)| {
        let script = Scripted::new(features);
        change(&mut script.script().config);
        let (found, arena, _end) = found(script, layouts()[0]);
        let result = net::open(found, &options()).map(|_| ()).unwrap_err();
        assert_eq!(arena.free_bytes(), arena.len());
        result
    };
    let bad: [fn(&mut Config); 6] = [
        |config| config.mtu = 67.into(),
        |config| config.mtu = 0.into(),
        |config| config.max_virtqueue_pairs = 0.into(),
        |config| config.max_virtqueue_pairs = 0x8001.into(),
        |config| config.rss_max_indirection_table_length = 0.into(),
        |config| config.mac = [0xff; 6],
    ];
    for config in bad {
        assert!(matches!(change(config), ProbeError::BadConfig(_)));
    }
    // Possible on paper, but the control queue's number would have 17 bits.
    assert!(matches!(change(|config| config.max_virtqueue_pairs = 0x8000.into()), ProbeError::BadConfig(_)));
    // The device has fewer queues than it says.
    assert!(matches!(change(|config| config.max_virtqueue_pairs = 500.into()), ProbeError::Queue(_)));
}

#[test]
fn a_queue_that_is_broken_stays_so_and_its_buffers_come_back_with_the_device() {
    // A device that needs a reset, since the driver's ring was damaged by somebody: nothing comes any more.
    let script = Scripted::new(Features::EMPTY);
    let mut opened = open(&script, layouts()[0], &Options { queue_size: 8, ..options() });
    let before = opened.arena.free_bytes();
    let mut kept = vec![];
    for number in 0..20 {
        opened.script.give([good(number)]);
        opened.end.run(0);
        // Never given back: the ring takes new buffers from the arena.
        kept.push(opened.net.pairs[0].rx.recv().unwrap().unwrap());
        opened.net.pairs[0].rx.refill().unwrap();
    }
    drop(kept);
    drop(opened.device);
    assert!(matches!(opened.net.pairs[0].rx.recv(), Err(RecvError::Queue(Error::Queue(_)))));
    assert_eq!(opened.arena.free_bytes(), before + 8 * 2048);
}
