//! Once its queues are warm, the network driver allocates nothing for a frame.
//!
//! A test of its own, since it needs an allocator of its own.

#[path = "net/scripted.rs"]
mod scripted;

use scripted::{Scripted, frame, header, layouts, open, options};
use virtio_kit::spec::net::F;
use virtio_kit_drivers::net::{Frame, Offload, Received};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Calls of the driver's functions in one round: frames go out and come back, in all the ways there are.
fn round(opened: &mut scripted::Opened, idle: &mut Vec<Frame>, back: &mut Vec<Received>) -> u64 {
    let pair = &mut opened.net.pairs[0];
    let mut calls = 0;
    let bytes = frame(1, 1000);
    calls += calls_during(|| {
        for _ in 0..16 {
            let mut out = idle.pop().unwrap();
            out.write(0, &bytes).unwrap();
            pair.tx.send(out, &Offload::default()).unwrap();
        }
        let mut left = 15;
        let mut next = || {
            left = i32::checked_sub(left, 1).filter(|&left| left >= 0)?;
            Some((idle.pop()?, Offload::default()))
        };
        assert_eq!(pair.tx.send_batch(&mut next).unwrap(), 15);
    });
    // The device's own work is not the driver's.
    pair.tx.kick().unwrap();
    // And one frame in three buffers.
    let mut first = header(0, 0, [0, 0, 0, 0, 3]);
    first.extend(&bytes);
    opened.script.give([first, bytes.clone(), bytes.clone()]);
    opened.end.run(0);
    let pair = &mut opened.net.pairs[0];
    let mut got = 0;
    while got < 32 {
        calls += calls_during(|| {
            got += pair.rx.recv_batch(20, |received| back.push(received.unwrap())).unwrap();
            if let Some(received) = pair.rx.recv().unwrap() {
                back.push(received);
                got += 1;
            }
            back.drain(..).for_each(|received| pair.rx.recycle(received.frame));
        });
    }
    calls += calls_during(|| {
        pair.rx.refill().unwrap();
        pair.tx.complete_batch(100, |frame| idle.push(frame)).unwrap();
    });
    calls
}

#[test]
fn frames_cost_no_allocation_in_any_layout() {
    for layout in layouts() {
        let script = Scripted::new(F::MRG_RXBUF | F::CSUM);
        script.script().mirror = true;
        let mut opened = open(&script, layout, &options());
        let tx = &opened.net.pairs[0].tx;
        // Half of them without headroom, so that they need headers of their own.
        let mut idle: Vec<Frame> = (0..64)
            .map(|i| Frame::alloc(tx.arena(), if i % 2 == 0 { 12 } else { 0 }, 1000).unwrap())
            .collect();
        let mut back = Vec::with_capacity(64);
        for _ in 0..20 {
            round(&mut opened, &mut idle, &mut back);
        }
        let calls: u64 = (0..200).map(|_| round(&mut opened, &mut idle, &mut back)).sum();
        assert_eq!(calls, 0, "{layout:?}");
    }
}

#[test]
fn copies_cost_no_allocation_either() {
    let script = Scripted::new(F::MRG_RXBUF);
    let mut opened = open(&script, layouts()[0], &options());
    let tx = &mut opened.net.pairs[0].tx;
    let bytes = frame(1, 1500);
    let mut calls = 0;
    for warm in 0..200u64 {
        let here = calls_during(|| {
            for len in [60, 1500, 300, 999] {
                tx.send_copy(&bytes[..len], &Offload::default()).unwrap();
            }
        });
        tx.kick().unwrap();
        script.script().sent.clear();
        calls += if warm < 20 { 0 } else { here };
    }
    assert_eq!(calls, 0);
}
