//! TCP by smoltcp between two drivers across the switch.

use super::super::Stage;
use super::super::content::{Content, Hash};
use super::super::rows::{Layout, Outcome, Work};
use super::bytes_of;
use super::station::{Station, switch};
use crate::failure::{Failure, Result};
use crate::output;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Now;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit_drivers::net::{Mac, Phy};

const PORT: u16 = 7;
/// Bytes that may be under way: fewer than the switch has buffers for.
const WINDOW: usize = 512 << 10;
/// Bytes that are made at a time.
const PIECE: usize = 256 << 10;
/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn play(
    stage: &Stage,
    layout: Layout,
    threads: bool,
    offloads: bool,
    number: u64,
) -> Result<Outcome> {
    let switch = switch();
    let mut ends = [1, 2].map(|number| Station::new(&switch, number, layout, threads, offloads));
    let [Ok(from), Ok(to)] = &mut ends else {
        return Err(ends.into_iter().find_map(Result::err).unwrap_or_else(|| Failure::new("no station")));
    };
    let (pairs, features) =
        ([from.net.device.pairs.pop(), to.net.device.pairs.pop()], from.net.device.features);
    let [Some(a), Some(b)] = pairs else { return Err(Failure::new("a device has no queues")) };
    let size = bytes_of(stage, layout);
    stage.bar.set_length(size);
    let (stop, content) = (AtomicBool::new(false), Content::Seed(number));
    let (mut a, mut b) = (Stack::new(a, from.mac, 1), Stack::new(b, to.mac, 2));
    let began = Instant::now();
    let (sent, received) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = send(&mut a, size, &content, &stop);
            if sent.is_err() { stopping(&stop, sent) } else { sent }
        });
        let received = stopping(&stop, receive(&mut b, &stage.bar, &stop));
        (sending.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked"))), received)
    });
    let time = began.elapsed();
    let (sent, received) = (sent?, received?);
    if sent != received {
        return Err(Failure::new("what arrived is not what was sent"));
    }
    // What the devices know of it.
    let (switched, from, to) = (switch.counters().switched, from.counters(), to.counters());
    // First the devices go, so that what they have comes back.
    drop(ends);
    let large = from.sent_bytes / from.sent.max(1) > 1514;
    if to.received_bytes < size || from.sent_bytes < size || large != offloads {
        return Err(Failure::new(format_args!("the devices have seen something else: {from:?}, {to:?}")));
    }
    let features = output::feature_names(features, DeviceId::NETWORK);
    Ok(Outcome::Verified(Work { features, bytes: size, requests: switched, time }))
}

/// The other end need not wait any more.
fn stopping<T>(stop: &AtomicBool, done: Result<T>) -> Result<T> {
    stop.store(true, Ordering::Relaxed);
    done
}

/// smoltcp on a pair of queues.
struct Stack {
    phy: Phy,
    interface: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
    moved: Instant,
}

fn address(number: u8) -> IpAddress {
    IpAddress::v4(10, 0, 0, number)
}

impl Stack {
    fn new(pair: virtio_kit_drivers::net::Pair, mac: Mac, number: u8) -> Self {
        let mut phy = Phy::new(pair).with_segmentation();
        let config = Config::new(EthernetAddress(mac).into());
        let mut interface = Interface::new(config, &mut phy, Now::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The first address finds its place.
            let _ = addresses.push(IpCidr::new(address(number), 24));
        });
        let (sockets, began) = (SocketSet::new(Vec::new()), Instant::now());
        Self { phy, interface, sockets, began, moved: began }
    }

    /// Turns the stack once; waits if there is nothing to do. `false` to end since the other end did.
    fn turn(&mut self, worked: bool, stop: &AtomicBool) -> Result<bool> {
        let now = Now::from_micros(self.began.elapsed().as_micros() as i64);
        let polled = self.interface.poll(now, &mut self.phy, &mut self.sockets);
        if worked || polled == PollResult::SocketStateChanged {
            self.moved = Instant::now();
            return Ok(true);
        }
        if self.moved.elapsed() > PATIENCE {
            return Err(Failure::new("nothing more comes"));
        }
        let limit = self.interface.poll_delay(now, &self.sockets).map_or(1000, |delay| delay.total_micros());
        let limit = Duration::from_micros(limit.clamp(1, 1000));
        self.phy.pair().rx.wait(limit).map_err(Failure::new)?;
        Ok(!stop.load(Ordering::Relaxed))
    }
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; WINDOW]);
    Socket::new(buffer(), buffer())
}

fn send(stack: &mut Stack, size: u64, content: &Content, stop: &AtomicBool) -> Result<Hash> {
    let handle = stack.sockets.add(socket());
    let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
    socket.connect(stack.interface.context(), (address(2), PORT), 5000).map_err(Failure::new)?;
    let mut hasher = Sha256::new();
    let (mut piece, mut ready, mut at) = (vec![0; PIECE], 0..0, 0);
    loop {
        let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
        let mut worked = false;
        while socket.can_send() {
            if ready.is_empty() {
                let len = (PIECE as u64).min(size - at) as usize;
                if len == 0 {
                    socket.close();
                    break;
                }
                content.fill(at, &mut piece[..len]).map_err(Failure::new)?;
                hasher.update(&piece[..len]);
                (ready, at) = (0..len, at + len as u64);
            }
            let sent = socket.send_slice(&piece[ready.clone()]).map_err(Failure::new)?;
            ready.start += sent;
            worked |= sent > 0;
            if sent == 0 {
                break;
            }
        }
        // The other end has all of it.
        if at == size && ready.is_empty() && stop.load(Ordering::Relaxed) {
            return Ok(hasher.finalize().into());
        }
        if !stack.turn(worked, stop)? && (at < size || !ready.is_empty()) {
            return Err(Failure::new("the other end has failed"));
        }
    }
}

fn receive(stack: &mut Stack, bar: &ProgressBar, stop: &AtomicBool) -> Result<Hash> {
    let handle = stack.sockets.add(socket());
    stack.sockets.get_mut::<Socket<'_>>(handle).listen(PORT).map_err(Failure::new)?;
    let (mut hasher, mut got) = (Sha256::new(), 0);
    loop {
        let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
        let mut worked = false;
        while socket.can_recv() {
            let len = socket.recv(|bytes| {
                hasher.update(&*bytes);
                (bytes.len(), bytes.len())
            });
            got += len.map_err(Failure::new)? as u64;
            worked = true;
        }
        bar.set_position(got);
        if socket.state() == State::CloseWait && !socket.can_recv() {
            return Ok(hasher.finalize().into());
        }
        if !stack.turn(worked, stop)? {
            return Err(Failure::new("the other end has failed"));
        }
    }
}
