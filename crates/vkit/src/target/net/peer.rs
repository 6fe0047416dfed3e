//! Who is at the other end of a network device in this process: another one, with a driver that answers.

use super::super::host::join;
use super::super::{Host, Ring};
use crate::failure::{Failure, Result};
use crate::net::frames;
use crate::net::packet::{Packet, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use virtio_kit::device::Device;
use virtio_kit::driver::Found;
use virtio_kit_drivers::net::{self, Error, Mac, Offload, Pair, Received};
use virtio_kit_linux::clock::MonotonicClock;

/// Memory of the driver: its rings, its receive buffers, and a ring full of frames that are on their way back.
const MEMORY: usize = 16 << 20;

/// How long it sleeps at most, so that it notices the end.
const SLICE: Duration = Duration::from_millis(50);

/// A driver that sends back what asks for an answer. Dropped, it ends.
pub(super) struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Takes the device, which has this address.
    pub(super) fn start(device: Box<dyn Device>, mac: Mac) -> Result<Self> {
        let (transport, host) = join(device, Ring::default(), true, MEMORY, Host::default())?;
        let options = net::Options { segments: 64, ..net::Options::new(Arc::new(MonotonicClock)) };
        let (mut net, running) = net::open(Found::new(transport), &options).map_err(Failure::new)?;
        let pair = net.pairs.pop().ok_or_else(|| Failure::new("the peer has no queues"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (until, thread) = (stop.clone(), std::thread::Builder::new().name("peer".into()));
        let thread = thread.spawn(move || {
            // The device lives as long as the thread does. Whoever waits for an answer notices if it ends.
            let _alive = (running, host);
            let _ = serve(pair, mac, &until);
        });
        let thread = thread.map_err(|error| Failure::new(format_args!("no thread: {error}")))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

fn serve(mut pair: Pair, mac: Mac, stop: &AtomicBool) -> std::result::Result<(), Error> {
    let mut came = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let got = pair.rx.recv_batch(64, |received| came.extend(received.ok()))?;
        for received in came.drain(..) {
            turn_round(&mut pair, mac, received);
        }
        pair.tx.kick()?;
        let Pair { rx, tx } = &mut pair;
        tx.complete_batch(256, |frame| rx.recycle(frame))?;
        rx.refill()?;
        if got == 0 {
            rx.wait(SLICE)?;
        }
    }
    Ok(())
}

/// Sends a test frame back as it is, and answers what can be answered.
fn turn_round(pair: &mut Pair, mac: Mac, received: Received) {
    let Received { mut frame, offload } = received;
    let mut start = [0; 128];
    let len = frame.copy_to(&mut start);
    if start[..6] == mac && frames::is_one(&start[..len]) {
        let (to, from) = (&start[6..12], mac);
        // Headers are longer than that.
        let _ = frame.write(0, to).and_then(|()| frame.write(6, &from));
        let offload = Offload { hash: None, ..offload };
        if let Err(refused) = pair.tx.send(frame, &offload) {
            pair.rx.recycle(refused.frame);
        }
        return;
    }
    let mut bytes = vec![0; frame.len()];
    frame.copy_to(&mut bytes);
    pair.rx.recycle(frame);
    let reply = match Packet::parse(&bytes) {
        Some(Packet::ArpRequest { from, from_mac, to }) if from != to => Reply::arp(mac, to, from_mac, from),
        Some(Packet::EchoRequest { from, to, id, number, data }) if bytes[..6] == mac => {
            let mut back = [0; 6];
            back.copy_from_slice(&bytes[6..12]);
            Reply::echo(mac, to, back, from, id, number, data)
        }
        _ => return,
    };
    // A wire may lose frames.
    let _ = pair.tx.send_copy(&reply, &Offload::default());
}
