//! Frames with numbers and sums, sent around.

use std::time::{Duration, Instant};

use crate::common::LONG;
use virtio_kit_drivers::net::{Frame, Offload, Pair, Received};

/// A sum of 64 bits that no swap of bytes leaves the same (FNV-1a).
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// After headers of Ethernet, IP and UDP.
const PAIR: std::ops::Range<usize> = 42..44;
const NUMBER: std::ops::Range<usize> = 44..52;
const SUM: std::ops::Range<usize> = 52..60;

/// Length of a frame: all of the usual ones come up.
fn len_of(number: u64) -> usize {
    60 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % (1514 - 60 + 1)
}

/// Makes frame `number` of a pair.
fn fill(pair: u16, number: u64, bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(SUM.end);
    header.fill(0);
    header[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let len = (46 + body.len()) as u16;
    header[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header[16..18].copy_from_slice(&len.to_be_bytes());
    // A flow for each pair.
    header[34..36].copy_from_slice(&(1000 + pair).to_be_bytes());
    header[36..38].copy_from_slice(&9u16.to_be_bytes());
    header[38..40].copy_from_slice(&(len - 20).to_be_bytes());
    header[PAIR].copy_from_slice(&pair.to_le_bytes());
    header[NUMBER].copy_from_slice(&number.to_le_bytes());
    let mut state = number | 1;
    for b in body.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *b = (state >> 56) as u8;
    }
    header[SUM].copy_from_slice(&sum(body).to_le_bytes());
}

/// The number of a frame whose sum is right.
fn number_of(bytes: &[u8]) -> u64 {
    let read = |range: std::ops::Range<usize>| u64::from_le_bytes(bytes[range].try_into().unwrap());
    assert_eq!(read(SUM), sum(&bytes[SUM.end..]), "corrupt");
    read(NUMBER)
}

/// What a loop had to do.
#[derive(Default)]
pub struct Counts {
    pub notifications: u64,
    pub buffers: u64,
}

/// Sends `count` frames around, with at most as many under way as the receive ring surely has buffers for.
pub fn run(pair: &mut Pair, count: u64) -> Counts {
    let (offload, index) = (Offload::default(), pair.tx.index() / 2);
    let per_frame = (1514 + pair.tx.headroom()).div_ceil(pair.rx.buffer_len());
    let window = (usize::from(pair.rx.size()) / per_frame) as u64;
    let mut idle: Vec<Frame> = Vec::new();
    let mut bytes = [0; 1514];
    let (mut sent, mut got, mut counts) = (0u64, 0u64, Counts::default());
    let mut back: Vec<Received> = Vec::new();
    let mut last = Instant::now();
    while got < count {
        while sent < count && sent - got < window && pair.tx.room() > 0 {
            let len = len_of(sent);
            let mut frame = match idle.pop() {
                Some(frame) => frame,
                None => pair.tx.frame(1514).unwrap(),
            };
            fill(index, sent, &mut bytes[..len]);
            frame.set_len(len).unwrap();
            frame.write(0, &bytes[..len]).unwrap();
            pair.tx.send(frame, &offload).unwrap();
            sent += 1;
        }
        pair.tx.kick().unwrap();
        let came = pair.rx.recv_batch(64, |received| back.push(received.unwrap())).unwrap();
        for Received { frame, offload } in back.drain(..) {
            assert_eq!(offload.segmentation, None);
            let len = frame.copy_to(&mut bytes);
            assert_eq!(frame.len(), len);
            // What goes through one queue keeps its order.
            assert_eq!((&bytes[PAIR], number_of(&bytes[..len])), (&index.to_le_bytes()[..], got));
            assert_eq!(len, len_of(got));
            counts.buffers += frame.buffers() as u64;
            pair.rx.recycle(frame);
            got += 1;
        }
        pair.tx.complete_batch(256, |frame| idle.push(frame)).unwrap();
        if came == 0 {
            assert!(last.elapsed() < LONG, "{got} of {count} came, {sent} were sent");
            // Asleep until the back-end says that there is something.
            pair.rx.wait(Duration::from_millis(100)).unwrap();
        } else {
            // What was received is free again before more is sent.
            pair.rx.refill().unwrap();
            last = Instant::now();
        }
    }
    counts.notifications = pair.tx.stats().notifications;
    assert_eq!(pair.rx.recv().unwrap().map(|_| ()), None);
    counts
}
