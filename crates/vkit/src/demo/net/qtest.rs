//! Test frames through QEMU's device to a socket here, which looks at them and sends them back.

use super::super::rows::{Layout, Outcome, Work};
use super::super::{Stage, bus, qemu};
use super::{check_layout, frames_of};
use crate::failure::{Failure, Result};
use crate::net::frames::{Maker, look};
use crate::net::rounds::{Flow, Receiver, Sender, Window};
use crate::output;
use crate::target::Target;
use crate::target::qtest::Qtest;
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit_drivers::net::{Net, NetDriver, Offload, Options};
use virtio_kit_linux::clock::MonotonicClock;

/// Frames of a row, at most.
const FRAMES: u64 = 20_000;
/// Frames under way: no more than the socket holds, since QEMU 10.0.2 that has to wait for it may not look at a packed
/// ring any more.
const WINDOW: u64 = 8;
/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Frames of a row.
pub(super) fn frames_through(stage: &Stage) -> u64 {
    FRAMES.min(frames_of(stage, Layout::default()) / 16)
}

pub(super) fn play(stage: &Stage, layout: Layout) -> Result<Outcome> {
    if !qemu::is_there() {
        return Ok(Outcome::Skipped(format!("no {} on the PATH", qemu::NAME)));
    }
    let (here, there) = (stage.folder.join("here"), stage.folder.join("there"));
    let _ = std::fs::remove_file(&here);
    let socket = UnixDatagram::bind(&here).map_err(|error| Failure::file(&here, &error))?;
    let ends = format!(
        "local.type=unix,local.path={},remote.type=unix,remote.path={}",
        there.display(),
        here.display()
    );
    let device = Qtest::new("virtio-net-pci", false)
        .with("netdev", "wire")
        .with("packed", if layout.packed { "on" } else { "off" })
        .argument("-netdev", format!("dgram,id=wire,{ends}"));
    let options = Options::new(Arc::new(MonotonicClock));
    let mut taken: bus::Taken<Net> = bus::take(&Target::Qtest(device), DeviceId::NETWORK, 8 << 20, |give| {
        Arc::new(NetDriver::new(options, give))
    })?;
    let net = &mut taken.device;
    check_layout(net.features, layout)?;
    let mac = net.info.mac.unwrap_or_default();
    let pair = net.pairs.first_mut().ok_or_else(|| Failure::new("the device has no queues"))?;
    let count = frames_through(stage);
    stage.bar.set_length(count);
    let flows = [Flow::new(WINDOW)];
    let ends = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)].map(|address| (mac, address));
    let mut sender = Sender::new(&mut pair.tx, Maker::new(0, ends[0], ends[1], 1500, false), &flows[0], 1514);
    let mut receiver = Receiver::new(&mut pair.rx, &flows);
    let began = Instant::now();
    let (went, came) = std::thread::scope(|scope| {
        let mirror = scope.spawn(|| mirror(&socket, &there));
        let went = round(&mut sender, &mut receiver, &flows[0], count, stage);
        // A socket that cannot be shut down has no thread waiting at it.
        let _ = socket.shutdown(Shutdown::Both);
        (went, mirror.join())
    });
    let (time, bytes) = (began.elapsed(), sender.sent_bytes);
    let _ = std::fs::remove_file(&there);
    let came = came.map_err(|_| Failure::new("a thread panicked"))?;
    went?;
    let wrong = (flows[0].lost(), receiver.corrupt, flows[0].out_of_order.load(Relaxed));
    if wrong != (0, 0, 0) || came != count {
        let (lost, corrupt, late) = wrong;
        return Err(Failure::new(format_args!(
            "{lost} frames lost, {corrupt} corrupt, {late} out of order, {came} of {count} right at the socket"
        )));
    }
    let features = output::feature_names(net.features, DeviceId::NETWORK);
    Ok(Outcome::Verified(Work { features, bytes: 2 * bytes, requests: 2 * count, time }))
}

fn round(
    sender: &mut Sender<'_>,
    receiver: &mut Receiver<'_>,
    flow: &Flow,
    count: u64,
    stage: &Stage,
) -> Result<()> {
    let mut moved = Instant::now();
    while flow.got.load(Relaxed) < count {
        let now = Instant::now();
        let len_of = |number: u64| 60 + (number as usize * 997) % 1455;
        let mut worked = sender.turn(Window::Pieces(WINDOW), count, now, len_of)?;
        worked |= receiver.turn()?;
        stage.bar.set_position(flow.got.load(Relaxed));
        if worked {
            moved = now;
        } else if now.duration_since(moved) > PATIENCE {
            break;
        } else {
            receiver.wait(Duration::from_millis(50))?;
        }
    }
    Ok(())
}

/// Sends back what is right; how many frames were.
fn mirror(socket: &UnixDatagram, to: &Path) -> u64 {
    let (mut count, mut frame) = (0, [0; 2048]);
    while let Ok(len @ 1..) = socket.recv(&mut frame) {
        let mut next = None;
        let looked = look(&frame[..len], &Offload::default(), |piece| next = Some(piece.number));
        if looked == Ok(true) && next == Some(count) {
            count += 1;
            // A machine that is gone needs no answer.
            let _ = socket.send_to(&frame[..len], to);
        }
    }
    count
}
