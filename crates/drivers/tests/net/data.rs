//! Frames through a device that keeps the rules.

use super::scripted::*;
use std::num::NonZeroU16;
use std::task::{Context, Poll, Waker};
use virtio_kit::Features;
use virtio_kit::spec::net::F;
use virtio_kit_drivers::net::{
    BadOffload, Checksum, Error, Frame, HashReport, Offload, Options, Protocol, Received, RecvError,
    Segmentation, SendErrorKind,
};

fn plain() -> Offload {
    Offload::default()
}

#[test]
fn frames_come_back_as_they_were_sent_in_every_layout() {
    for layout in layouts() {
        for features in [Features::EMPTY, F::MRG_RXBUF] {
            let script = Scripted::new(features);
            script.script().mirror = true;
            let mut opened = open(&script, layout, &options());
            let pair = &mut opened.net.pairs[0];
            let mut next = 0u64;
            for round in 0..100u64 {
                let count = 1 + round % 40;
                for i in 0..count {
                    let sent = frame(next + i, 14 + ((next + i) * 37 % 1500) as usize);
                    let mut out = pair.tx.frame(sent.len()).unwrap();
                    out.write(0, &sent).unwrap();
                    pair.tx.send(out, &plain()).unwrap();
                }
                assert!(pair.tx.kick().unwrap());
                for i in 0..count {
                    let Received { frame: got, offload } = match pair.rx.recv().unwrap() {
                        Some(received) => received,
                        None => {
                            assert!(pair.rx.wait(LIMIT).unwrap());
                            pair.rx.recv().unwrap().unwrap()
                        }
                    };
                    assert_eq!(bytes(&got), frame(next + i, got.len()));
                    assert_eq!(offload, plain());
                    pair.rx.recycle(got);
                }
                assert_eq!(pair.rx.recv().unwrap().map(|_| ()), None);
                let mut freed = 0;
                while pair.tx.complete().unwrap().is_some() {
                    freed += 1;
                }
                assert_eq!(freed, count);
                next += count;
            }
            assert_eq!(pair.rx.in_flight(), 256);
        }
    }
}

#[test]
fn copies_go_out_and_in_by_batches() {
    let script = Scripted::new(Features::EMPTY);
    script.script().mirror = true;
    let mut opened = open(&script, layouts()[2], &options());
    let pair = &mut opened.net.pairs[0];
    let (mut sent, mut got) = (0u64, 0u64);
    while got < 5000 {
        while sent < 5000 && sent - got < 200 {
            pair.tx.send_copy(&frame(sent, 60 + (sent % 1000) as usize), &plain()).unwrap();
            sent += 1;
        }
        pair.tx.kick().unwrap();
        let mut back = vec![];
        if pair.rx.recv_batch(64, |received| back.push(received.unwrap())).unwrap() == 0 {
            assert!(pair.rx.wait(LIMIT).unwrap());
        }
        for received in back {
            assert_eq!(bytes(&received.frame), frame(got, 60 + (got % 1000) as usize));
            pair.rx.recycle(received.frame);
            got += 1;
        }
    }
    let mut small = [0; 20];
    pair.tx.send_copy(&frame(7, 100), &plain()).unwrap();
    pair.tx.kick().unwrap();
    assert!(pair.rx.wait(LIMIT).unwrap());
    assert_eq!(pair.rx.recv_copy(&mut small).unwrap(), Some((20, plain())));
    assert_eq!(small[..14], frame(7, 100)[..14]);
}

#[test]
fn a_frame_with_headroom_is_one_descriptor_and_one_without_is_two() {
    for layout in layouts() {
        let script = Scripted::new(Features::EMPTY);
        let mut opened = open(&script, layout, &options());
        let tx = &mut opened.net.pairs[0].tx;
        assert_eq!(tx.headroom(), 12);
        let free = opened.arena.free_bytes();
        for (headroom, descriptors) in [(12, 1), (40, 1), (0, 2), (11, 2)] {
            let mut out = Frame::alloc(tx.arena(), headroom, 60).unwrap();
            out.write(0, &frame(1, 60)).unwrap();
            tx.send(out, &plain()).unwrap();
            tx.kick().unwrap();
            let (_, sent, count) = script.script().sent.pop().unwrap();
            assert_eq!((sent.len(), count), (72, descriptors), "headroom {headroom}");
            assert_eq!((&sent[..12], &sent[12..]), (&[0; 12][..], &frame(1, 60)[..]));
            let back = tx.complete().unwrap().unwrap();
            assert_eq!((back.headroom(), back.len()), (headroom, 60));
            assert_eq!(bytes(&back), frame(1, 60));
        }
        // One header of its own is kept for the next frame without headroom.
        assert_eq!(opened.arena.free_bytes(), free - 64);
    }
}

#[test]
fn a_frame_in_many_buffers_goes_out_whole() {
    for layout in layouts() {
        let script = Scripted::new(Features::EMPTY);
        let mut opened = open(&script, layout, &options());
        let tx = &mut opened.net.pairs[0].tx;
        for pieces in [1, 2, 3, 4, 5, 17] {
            let mut out = tx.frame(20).unwrap();
            for _ in 0..pieces {
                out.push(tx.arena().alloc(64).unwrap()).unwrap();
            }
            let whole = frame(pieces, out.len());
            out.write(0, &whole).unwrap();
            tx.send(out, &plain()).unwrap();
            tx.kick().unwrap();
            let (_, sent, _) = script.script().sent.pop().unwrap();
            assert_eq!(sent[12..], whole);
            assert_eq!(tx.complete().unwrap().unwrap().buffers(), 1 + pieces as usize);
        }
        let mut out = tx.frame(20).unwrap();
        for _ in 0..18 {
            out.push(tx.arena().alloc(64).unwrap()).unwrap();
        }
        let error = tx.send(out, &plain()).unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::Queue(_)), "{error}");
        assert_eq!(error.frame.buffers(), 19);
    }
}

#[test]
fn what_was_received_can_be_sent_on_as_it_is() {
    let script = Scripted::new(F::MRG_RXBUF | F::CSUM | F::GUEST_CSUM | F::GUEST_TSO4 | F::HOST_TSO4);
    let mut opened = open(&script, layouts()[0], &options());
    let pair = &mut opened.net.pairs[0];
    let whole = frame(3, 5000);
    let mut first = header(1, 1, [66, 1448, 34, 16, 3]);
    first.extend(&whole[..2036]);
    script.give([first, whole[2036..4084].to_vec(), whole[4084..].to_vec()]);
    opened.end.run(0);
    let Received { frame: got, offload } = pair.rx.recv().unwrap().unwrap();
    let size = NonZeroU16::new(1448).unwrap();
    let segmentation = Segmentation { protocol: Protocol::Tcp4, ecn: false, size, header_len: 66 };
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    assert_eq!(offload, Offload { checksum, segmentation: Some(segmentation), hash: None });
    assert_eq!((bytes(&got), got.buffers()), (whole.clone(), 3));
    pair.tx.send(got, &offload).unwrap();
    pair.tx.kick().unwrap();
    let (_, sent, descriptors) = script.script().sent.pop().unwrap();
    assert_eq!((&sent[12..], descriptors), (&whole[..], 3));
    assert_eq!(sent[..12], header(1, 1, [66, 1448, 34, 16, 0]));
    let back = pair.tx.complete().unwrap().unwrap();
    pair.rx.recycle(back);
    pair.rx.refill().unwrap();
    assert_eq!(pair.rx.in_flight(), 256);
}

// drivernormative:Device Types / Network Device / Device Operation / Packet Transmission
#[test]
fn offloads_that_were_not_agreed_on_or_cannot_be_are_refused_with_the_frame() {
    let size = NonZeroU16::new(1000).unwrap();
    let segments = |protocol, ecn| {
        let segmentation = Some(Segmentation { protocol, ecn, size, header_len: 54 });
        Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, segmentation, hash: None }
    };
    let partial = |start, offset| Offload { checksum: Checksum::Partial { start, offset }, ..plain() };
    let without_checksum = Offload { checksum: Checksum::Full, ..segments(Protocol::Tcp4, false) };
    let headers = |header_len| {
        let segmentation = Some(Segmentation { protocol: Protocol::Tcp4, ecn: false, size, header_len });
        Offload { segmentation, ..segments(Protocol::Tcp4, false) }
    };
    let some = F::CSUM | F::HOST_TSO4;
    let every = some | F::HOST_TSO6 | F::HOST_USO | F::HOST_ECN;
    let cases = [
        (Features::EMPTY, partial(34, 16), Some(BadOffload::NotNegotiated(F::CSUM))),
        (F::CSUM, partial(34, 16), None),
        (F::CSUM, partial(34, 64), None),
        (F::CSUM, partial(34, 65), Some(BadOffload::ChecksumOutside { start: 34, offset: 65 })),
        (F::CSUM, partial(65535, 65535), Some(BadOffload::ChecksumOutside { start: 65535, offset: 65535 })),
        (F::CSUM, segments(Protocol::Tcp4, false), Some(BadOffload::NotNegotiated(F::HOST_TSO4))),
        (some, segments(Protocol::Tcp4, false), None),
        (some, segments(Protocol::Tcp4, true), Some(BadOffload::NotNegotiated(F::HOST_ECN))),
        (some, segments(Protocol::Tcp6, false), Some(BadOffload::NotNegotiated(F::HOST_TSO6))),
        (some, segments(Protocol::Udp, false), Some(BadOffload::NotNegotiated(F::HOST_USO))),
        (every, segments(Protocol::Tcp4, true), None),
        (every, segments(Protocol::Tcp6, true), None),
        (every, segments(Protocol::Udp, false), None),
        (some, without_checksum, Some(BadOffload::SegmentsNeedChecksum)),
        (some, headers(0), Some(BadOffload::HeaderLength(0))),
        (some, headers(100), Some(BadOffload::HeaderLength(100))),
    ];
    for (features, offload, expected) in cases {
        let script = Scripted::new(features);
        let mut opened = open(&script, layouts()[0], &options());
        let tx = &mut opened.net.pairs[0].tx;
        let mut out = tx.frame(100).unwrap();
        out.write(0, &frame(9, 100)).unwrap();
        let sent = tx.send(out, &offload);
        match expected {
            None => {
                sent.unwrap();
                tx.kick().unwrap();
                let (_, bytes, _) = script.script().sent.pop().unwrap();
                // Never a flag but NEEDS_CSUM, and never a number of buffers.
                assert_eq!((bytes[0], &bytes[10..12]), (1, &[0, 0][..]));
            }
            Some(bad) => {
                let error = sent.unwrap_err();
                assert_eq!(error.kind, SendErrorKind::Offload(bad));
                assert_eq!(bytes(&error.frame), frame(9, 100));
            }
        }
    }
}

// drivernormative:Device Types / Network Device / Device configuration layout
#[test]
fn frames_longer_than_the_mtu_are_refused_unless_segmented_or_tagged() {
    let script = Scripted::new(F::MTU | F::CSUM | F::HOST_TSO4);
    script.script().config.mtu = 1000.into();
    let mut opened = open(&script, layouts()[0], &options());
    let tx = &mut opened.net.pairs[0].tx;
    assert_eq!(tx.longest(), 1014);
    let of = |tx: &mut virtio_kit_drivers::net::TxQueue, len, tag: [u8; 2]| {
        let mut out = tx.frame(len).unwrap();
        out.write(0, &vec![0; len]).unwrap();
        if len >= 14 {
            out.write(12, &tag).unwrap();
        }
        tx.send(out, &plain()).map_err(|error| error.kind)
    };
    assert_eq!(of(tx, 1014, [8, 0]), Ok(()));
    assert_eq!(of(tx, 1015, [8, 0]), Err(SendErrorKind::TooLong { len: 1015, most: 1014 }));
    assert_eq!(of(tx, 1018, [0x81, 0]), Ok(()));
    assert_eq!(of(tx, 1019, [0x81, 0]), Err(SendErrorKind::TooLong { len: 1019, most: 1014 }));
    assert_eq!(of(tx, 13, [0; 2]), Err(SendErrorKind::TooShort(13)));
    let size = NonZeroU16::new(900).unwrap();
    let segmentation = Some(Segmentation { protocol: Protocol::Tcp4, ecn: false, size, header_len: 54 });
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let out = tx.frame(60_000).unwrap();
    tx.send(out, &Offload { checksum, segmentation, hash: None }).unwrap();
}

// drivernormative:Device Types / Network Device / Device Operation / Setting Up Receive Buffers
#[test]
fn buffers_are_as_long_as_what_was_agreed_on_needs() {
    let large = F::GUEST_CSUM | F::GUEST_TSO4 | F::GUEST_TSO6 | F::GUEST_USO4 | F::GUEST_USO6;
    let case = |features, mtu: u16, wanted: &Options| {
        let script = Scripted::new(features);
        script.script().config.mtu = mtu.into();
        let opened = open(&script, layouts()[0], wanted);
        (opened.net.pairs[0].rx.buffer_len(), opened.net.features & large)
    };
    let small = Options { queue_size: 16, ..options() };
    assert_eq!(case(Features::EMPTY, 0, &small), (2048, Features::EMPTY));
    assert_eq!(case(F::MTU, 9000, &small), (12 + 9018, Features::EMPTY));
    // Without mergeable buffers the device is not asked to coalesce into what is too short.
    assert_eq!(case(large | F::MTU, 1500, &small), (2048, F::GUEST_CSUM));
    assert_eq!(case(large | F::MRG_RXBUF | F::MTU, 9000, &small), (2048, large));
    let long = Options { buffer_len: 65609, ..small.clone() };
    assert_eq!(case(large, 0, &long), (65609, large));
    let tiny = Options { buffer_len: 1, ..small };
    assert_eq!(case(large | F::MRG_RXBUF, 0, &tiny), (256, large));
    assert_eq!(case(Features::EMPTY, 0, &tiny), (12 + 1518, Features::EMPTY));
}

#[test]
fn hashes_come_with_their_frames_if_they_were_wished_for() {
    let features = F::HASH_REPORT | F::CTRL_VQ;
    let script = Scripted::new(features);
    assert!(!open(&script, layouts()[0], &options()).net.features.contains(F::HASH_REPORT));
    let wish = Options { hash_report: true, ..options() };
    // Without a control queue nobody could say what to hash.
    let alone = Scripted::new(F::HASH_REPORT);
    assert!(!open(&alone, layouts()[0], &wish).net.features.contains(F::HASH_REPORT));
    let mut opened = open(&script, layouts()[0], &wish);
    let pair = &mut opened.net.pairs[0];
    for (report, expected) in [(2u8, Some(HashReport::TCPV4)), (0, None)] {
        let mut first = header(0, 0, [0, 0, 0, 0, 1]);
        first.extend([0x78, 0x56, 0x34, 0x12, report, 0, 0, 0]);
        first.extend(frame(1, 60));
        script.give([first]);
        opened.end.run(0);
        let Received { frame: got, offload } = pair.rx.recv().unwrap().unwrap();
        assert_eq!(bytes(&got), frame(1, 60));
        assert_eq!(offload.hash.map(|hash| (hash.report, hash.value)), expected.map(|r| (r, 0x1234_5678)));
        pair.rx.recycle(got);
    }
    // Sent headers have the same length.
    assert_eq!(pair.tx.headroom(), 20);
    let mut out = pair.tx.frame(60).unwrap();
    out.write(0, &frame(2, 60)).unwrap();
    pair.tx.send(out, &plain()).unwrap();
    pair.tx.kick().unwrap();
    let (_, sent, descriptors) = script.script().sent.pop().unwrap();
    assert_eq!((sent.len(), descriptors), (80, 1));
}

#[test]
fn a_task_is_woken_by_frames_and_by_the_end() {
    for layout in layouts() {
        let script = Scripted::new(Features::EMPTY);
        let mut opened = open(&script, layout, &options());
        let pair = &mut opened.net.pairs[0];
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pair.rx.poll_recv(&mut cx).is_pending());
        assert!(pair.tx.poll_complete(&mut cx).is_pending());
        let mut first = header(0, 0, [0, 0, 0, 0, 1]);
        first.extend(frame(4, 100));
        script.give([first]);
        opened.end.run(0);
        let Poll::Ready(Ok(received)) = pair.rx.poll_recv(&mut cx) else { panic!() };
        assert_eq!(bytes(&received.frame), frame(4, 100));
        pair.tx.send(received.frame, &plain()).unwrap();
        pair.tx.kick().unwrap();
        let Poll::Ready(Ok(back)) = pair.tx.poll_complete(&mut cx) else { panic!() };
        pair.rx.recycle(back);
        drop(opened.device);
        assert!(matches!(pair.rx.poll_recv(&mut cx), Poll::Ready(Err(RecvError::Queue(Error::Queue(_))))));
        assert!(matches!(pair.tx.poll_complete(&mut cx), Poll::Ready(Err(Error::Queue(_)))));
    }
}

#[test]
fn removing_a_device_hands_every_buffer_back() {
    for layout in layouts() {
        let script = Scripted::new(F::CTRL_VQ | F::MRG_RXBUF);
        script.script().keep = true;
        let mut opened = open(&script, layout, &options());
        // Rings stay; everything else comes back.
        let before = opened.arena.free_bytes() + 256 * 2048;
        let pair = &mut opened.net.pairs[0];
        for i in 0..50 {
            let mut out = pair.tx.frame(100).unwrap();
            out.write(0, &frame(i, 100)).unwrap();
            pair.tx.send(out, &plain()).unwrap();
        }
        // Some of them with the device, some not shown yet.
        drop(opened.device);
        let mut numbers = vec![];
        while let Ok(Some(back)) = pair.tx.complete() {
            numbers.push(bytes(&back));
        }
        numbers.sort();
        let mut expected: Vec<_> = (0..50).map(|i| frame(i, 100)).collect();
        expected.sort();
        assert_eq!(numbers, expected);
        assert!(matches!(pair.rx.recv(), Err(RecvError::Queue(_))));
        assert_eq!(opened.arena.free_bytes(), before);
        drop(opened.net);
        assert_eq!(opened.arena.free_bytes(), opened.arena.len());
    }
}

#[test]
fn a_full_queue_gives_the_frame_back() {
    let script = Scripted::new(Features::EMPTY);
    script.script().keep = true;
    let mut opened = open(&script, layouts()[0], &Options { queue_size: 8, ..options() });
    let tx = &mut opened.net.pairs[0].tx;
    let mut made = (0..10).map(|i| {
        let mut out = Frame::alloc(&opened.arena, 12, 100).unwrap();
        out.write(0, &frame(i, 100)).unwrap();
        (out, plain())
    });
    assert_eq!(tx.send_batch(|| made.next()).unwrap(), 8);
    assert_eq!(tx.room(), 0);
    // A full ring asks for no more.
    assert_eq!(tx.send_batch(|| unreachable!()).unwrap(), 0);
    let (ninth, offload) = made.next().unwrap();
    let error = tx.send(ninth, &offload).unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Full);
    assert_eq!(bytes(&error.frame), frame(8, 100));
    tx.kick().unwrap();
    script.script().keep = false;
    assert!(tx.wait(LIMIT).unwrap());
    let mut got = vec![];
    assert_eq!(tx.complete_batch(100, |back| got.push(bytes(&back))).unwrap(), 8);
    got.sort();
    let mut expected: Vec<_> = (0..8).map(|i| frame(i, 100)).collect();
    expected.sort();
    assert_eq!(got, expected);
}
