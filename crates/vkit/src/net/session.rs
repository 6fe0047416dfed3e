//! A network device, opened and running, and who is at the other end of its wire.

use super::packet::{Packet, Reply, Request};
use crate::failure::{Failure, Result};
use crate::target::{Host, Target};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_kit::driver::Found;
use virtio_kit::spec::net::F;
use virtio_kit::{DeviceId, Features};
use virtio_kit_drivers::net::{
    self, ETHERNET_HEADER, Frame, Info, Link, Mac, NetDevice, Offload, Pair, Received, RecvError,
    SendCopyError, SendErrorKind,
};
use virtio_kit_linux::clock::MonotonicClock;

/// How long any one wait is.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// Bytes of a receive buffer.
const BUFFER: usize = 2048;

/// Descriptors of a queue, at most.
const QUEUE: u16 = 256;

/// An address for a device that has none.
const OWN: Mac = [2, 0x76, 0x6b, 0x69, 0x74, 3];

/// Every feature that leaves something to somebody else.
pub(crate) const OFFLOADS: Features = F::CSUM
    .union(F::GUEST_CSUM)
    .union(F::HOST_TSO4)
    .union(F::HOST_TSO6)
    .union(F::HOST_ECN)
    .union(F::HOST_USO)
    .union(F::GUEST_TSO4)
    .union(F::GUEST_TSO6)
    .union(F::GUEST_ECN)
    .union(F::GUEST_USO4)
    .union(F::GUEST_USO6);

/// What a command needs of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) pairs: u16,
    pub(crate) offloads: bool,
    /// Frames under way on each pair.
    pub(crate) depth: u16,
    /// Bytes of each.
    pub(crate) size: usize,
}

impl Want {
    /// Bytes of memory that the device must reach for it.
    fn memory(&self) -> usize {
        // Without MRG_RXBUF, buffers are as long as frames may get.
        let received = usize::from(QUEUE) * self.size.clamp(9216, 16 << 10).next_power_of_two();
        let sent = usize::from(self.depth.max(QUEUE)) * (self.size + 64).next_power_of_two();
        usize::from(self.pairs) * (received + sent + (256 << 10)) + (2 << 20)
    }
}

/// A network device that this process drives. Dropped, the device is reset before whoever runs it ends.
pub(crate) struct Session {
    /// First, so that the device has let go of what is in flight when its queues are dropped.
    _device: NetDevice,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) mac: Mac,
    pub(crate) info: Info,
    pub(crate) features: Features,
    pub(crate) link: Link,
    pub(crate) host: Host,
}

impl Session {
    /// Opens a target, which must be a network device.
    pub(crate) fn open(target: &Target, want: &Want) -> Result<Self> {
        let opened = target.open(DeviceId::NETWORK, want.memory())?;
        let options = net::Options {
            pairs: want.pairs,
            // There the back-end takes frames, and commands are for whoever is in front of it.
            pairs_without_control: matches!(target, Target::VhostUser(_)),
            queue_size: QUEUE,
            buffer_len: BUFFER,
            without: if want.offloads { F::CTRL_VLAN } else { OFFLOADS | F::CTRL_VLAN },
            ..net::Options::new(Arc::new(MonotonicClock))
        };
        let (net, device) = net::open(Found::new(opened.transport), &options)
            .map_err(|error| Failure::new(format_args!("{target}: {error}")))?;
        let mac = net.info.mac.unwrap_or(OWN);
        let net::Net { pairs, info, features, link, .. } = net;
        Ok(Self { pairs, mac, info, features, link, _device: device, host: opened.host })
    }

    /// Largest packet without the Ethernet header.
    pub(crate) fn mtu(&self) -> u16 {
        self.info.mtu.unwrap_or(1500)
    }

    /// Bytes of the longest frame that is not to be cut.
    pub(crate) fn longest(&self) -> usize {
        usize::from(self.mtu()) + ETHERNET_HEADER
    }

    /// The first pair of queues.
    pub(crate) fn pair(&mut self) -> Result<&mut Pair> {
        self.pairs.first_mut().ok_or_else(|| Failure::new("the device has no queue"))
    }

    /// Asks for `to` until somebody answers, or what is asked comes back, or for `patience`.
    pub(crate) fn find(&mut self, from: Ipv4Addr, to: Ipv4Addr, patience: Duration) -> Result<Other> {
        let mac = self.mac;
        let link = self.link.clone();
        let pair = self.pair()?;
        let deadline = Instant::now() + patience;
        let request = Request::arp(mac, from, to);
        while Instant::now() < deadline {
            send(pair, &request)?;
            let again = (Instant::now() + Duration::from_millis(250)).min(deadline);
            while let Some(bytes) = receive(pair, again)? {
                if bytes == request {
                    return Ok(Other::Loop);
                }
                match Packet::parse(&bytes) {
                    Some(Packet::ArpReply { from, mac }) if from == to => return Ok(Other::At(mac)),
                    other => answer(pair, mac, from, other)?,
                }
            }
        }
        Ok(if link.is_up() { Other::Nobody } else { Other::LinkDown })
    }
}

/// What is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// We ourselves.
    Loop,
    /// Somebody with this address.
    At(Mac),
    /// Nobody who answers.
    Nobody,
    /// No wire.
    LinkDown,
}

/// Answers who asks for us.
pub(crate) fn answer(pair: &mut Pair, mac: Mac, own: Ipv4Addr, packet: Option<Packet<'_>>) -> Result<()> {
    match packet {
        Some(Packet::ArpRequest { from, from_mac, to }) if to == own && from_mac != mac => {
            send(pair, &Reply::arp(mac, own, from_mac, from))
        }
        _ => Ok(()),
    }
}

/// Sends a copy, once there is room for it.
pub(crate) fn send(pair: &mut Pair, bytes: &[u8]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match pair.tx.send_copy(bytes, &Offload::default()) {
            Ok(()) => break,
            Err(SendCopyError::Send(SendErrorKind::Full)) if Instant::now() < deadline => {
                pair.tx.wait(SLICE).map_err(Failure::new)?;
            }
            Err(error) => return Err(Failure::new(error)),
        }
    }
    pair.tx.kick().map_err(Failure::new)?;
    Ok(())
}

/// The next frame until a time, or `None`. Frames that the device got wrong are no frames.
pub(crate) fn receive(pair: &mut Pair, until: Instant) -> Result<Option<Vec<u8>>> {
    loop {
        match pair.rx.recv() {
            Ok(Some(Received { frame, .. })) => {
                let bytes = content(&frame);
                pair.rx.recycle(frame);
                return Ok(Some(bytes));
            }
            Ok(None) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                pair.rx.wait(left.min(SLICE)).map_err(Failure::new)?;
            }
            Err(RecvError::Frame(_)) => {}
            Err(error) => return Err(Failure::new(error)),
        }
    }
}

fn content(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.copy_to(&mut bytes);
    bytes
}
