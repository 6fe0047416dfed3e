//! Test frames from one driver to another across the switch.

use super::super::Stage;
use super::super::content::random;
use super::super::rows::{Layout, Outcome, Work};
use super::frames_of;
use super::station::{Station, switch};
use crate::failure::{Failure, Result};
use crate::net::frames::{Maker, SHORTEST};
use crate::net::packet::Request;
use crate::net::rounds::{Flow, Receiver, Sender, Window};
use crate::net::session::{receive, send};
use crate::output;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;

/// Packets under way: fewer than the receiver has buffers.
const WINDOW: u64 = 192;
/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long any one wait is.
const SLICE: Duration = Duration::from_millis(1);

pub(super) fn play(stage: &Stage, layout: Layout, threads: bool, cut: bool) -> Result<Outcome> {
    let (switch, count) = (switch(), frames_of(stage, layout));
    let mut from = Station::new(&switch, 1, layout, threads, cut)?;
    let mut to = Station::new(&switch, 2, layout, threads, false)?;
    let features = from.net.device.features;
    let ends = [(from.mac, Ipv4Addr::new(10, 0, 0, 1)), (to.mac, Ipv4Addr::new(10, 0, 0, 2))];
    // The switch learns where the receiver is from a frame of its own.
    let hello = Request::arp(ends[1].0, ends[1].1, ends[0].1);
    let [Some(a), Some(b)] = [&mut from, &mut to].map(|station| station.net.device.pairs.first_mut()) else {
        return Err(Failure::new("a device has no queues"));
    };
    send(b, &hello)?;
    let heard = receive(a, Instant::now() + PATIENCE)?;
    heard.ok_or_else(|| Failure::new("the switch floods no broadcast"))?;
    let flows = [Flow::new(WINDOW)];
    let longest = if cut { 64 << 10 } else { 1514 };
    let maker = Maker::new(0, ends[0], ends[1], 1500, cut);
    let mut sender = Sender::new(&mut a.tx, maker, &flows[0], longest);
    let mut receiver = Receiver::new(&mut b.rx, &flows);
    stage.bar.set_length(count);
    let (flow, stop) = (&flows[0], AtomicBool::new(false));
    let len_of = |number: u64| {
        let mut state = number;
        SHORTEST + random(&mut state) as usize % (longest - SHORTEST + 1)
    };
    let began = Instant::now();
    let (sent, received) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while flow.sent.load(Relaxed) < count && !stop.load(Relaxed) {
                if !sender.turn(Window::Pieces(WINDOW), count, Instant::now(), len_of)? {
                    // The receiver's thread takes them off.
                    std::thread::yield_now();
                }
            }
            Ok(())
        });
        let mut moved = Instant::now();
        let received = loop {
            match receiver.turn() {
                Ok(true) => moved = Instant::now(),
                Ok(false) if moved.elapsed() > PATIENCE => break Err(Failure::new("nothing more comes")),
                Ok(false) => {
                    if let Err(failure) = receiver.wait(SLICE) {
                        break Err(failure);
                    }
                }
                Err(failure) => break Err(failure),
            }
            let got = flow.got.load(Relaxed);
            stage.bar.set_position(got);
            if got >= count && flow.under_way() == 0 || sending.is_finished() && receiver.corrupt > 0 {
                break Ok(());
            }
        };
        stop.store(true, Relaxed);
        (sending.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked"))), received)
    });
    let time = began.elapsed();
    let wrong = (flow.lost(), receiver.corrupt, flow.out_of_order.load(Relaxed));
    let (packets, bytes) = (flow.got.load(Relaxed), sender.sent_bytes);
    if wrong != (0, 0, 0) {
        let (lost, corrupt, late) = wrong;
        return Err(Failure::new(format_args!("{lost} frames lost, {corrupt} corrupt, {late} out of order")));
    }
    sent.and(received)?;
    // What the receiver's device knows of it.
    let counters = to.counters();
    let made = (counters.received_segments, counters.received_checksums);
    if counters.received != packets || (made.0 > packets / 2) != cut || (made.1 > 0) != cut {
        return Err(Failure::new(format_args!("the device has seen something else: {counters:?}")));
    }
    let features = output::feature_names(features, DeviceId::NETWORK);
    Ok(Outcome::Verified(Work { features, bytes, requests: packets, time }))
}
