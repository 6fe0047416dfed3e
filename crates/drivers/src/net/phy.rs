//! A pair of queues as smoltcp's [`Device`].

use super::offload::{Checksum, Offload};
use super::sum::Transport;
use super::{ETHERNET_HEADER, Pair, Received, RecvError};
use alloc::vec::Vec;
use smoltcp::phy::{
    Checksum as Verify, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant;

/// A pair of queues for smoltcp.
///
/// Frames are copied once each way, since smoltcp works on slices. Checksums of TCP and UDP are the device's work as
/// far as that was agreed on: the stack computes none that the device will, and none is checked twice. smoltcp
/// segments TCP itself, unless [`with_segmentation`](Self::with_segmentation) has the device do it.
#[derive(Debug)]
pub struct Phy {
    pair: Pair,
    capabilities: DeviceCapabilities,
    /// Bytes of a packet that is not cut.
    mtu: u16,
    /// What the stack sees of a received frame, and writes a frame to be sent into.
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl Phy {
    /// Takes a pair over.
    pub fn new(pair: Pair) -> Self {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // Most networks have no longer packets, and a device that has says so.
        let mtu = pair.tx.mtu().unwrap_or(1500);
        let longest = usize::from(mtu) + ETHERNET_HEADER;
        capabilities.max_transmission_unit = longest;
        capabilities.max_burst_size = Some(pair.tx.size().min(pair.rx.size()).into());
        capabilities.checksum = checksums(pair.tx.rules().sends_partial());
        Self { pair, capabilities, mtu, received: Vec::new(), sent: Vec::with_capacity(longest) }
    }

    /// Has the stack send TCP in pieces of up to 64 KiB, which the device cuts into packets, if that was agreed on:
    /// otherwise nothing changes. Whatever else the stack sends must keep to the device's MTU, or is lost.
    pub fn with_segmentation(mut self) -> Self {
        if self.pair.tx.rules().sends_large() {
            self.capabilities.max_transmission_unit = usize::from(u16::MAX) + ETHERNET_HEADER;
        }
        self
    }

    /// The pair, which is not to be used by copying only while smoltcp uses it.
    pub fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    /// The pair, given back.
    pub fn into_pair(self) -> Pair {
        self.pair
    }

    /// Copies the next frame that is good into the buffer for the stack.
    fn next(&mut self) -> bool {
        loop {
            let Received { frame, offload } = match self.pair.rx.recv() {
                Ok(Some(received)) => received,
                // The device is at fault, and the next frame may be good.
                Err(RecvError::Frame(_)) => continue,
                // smoltcp has no word for a device that is gone: then nothing comes.
                Ok(None) | Err(RecvError::Queue(_)) => return false,
            };
            self.received.resize(frame.len(), 0);
            frame.copy_to(&mut self.received);
            self.pair.rx.recycle(frame);
            if is_good(&self.received, offload.checksum) {
                return true;
            }
        }
    }
}

/// Whether a frame may go to a stack that checks no TCP and no UDP itself.
fn is_good(frame: &[u8], checksum: Checksum) -> bool {
    match checksum {
        Checksum::Checked | Checksum::Partial { .. } => true,
        Checksum::Full => Transport::of(frame).is_none_or(|transport| transport.is_right(frame)),
    }
}

/// Received frames are checked here, unless the device has.
fn checksums(sends_partial: bool) -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::default();
    let transport = if sends_partial { Verify::None } else { Verify::Tx };
    (checksums.tcp, checksums.udp) = (transport, transport);
    checksums
}

impl Device for Phy {
    type RxToken<'a> = PhyRxToken<'a>;
    type TxToken<'a> = PhyTxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(PhyRxToken<'_>, PhyTxToken<'_>)> {
        // The stack may answer what it receives.
        if !self.has_room() || !self.next() {
            return None;
        }
        let Self { pair, received, sent, mtu, .. } = self;
        Some((PhyRxToken(received), PhyTxToken { pair, sent, mtu: *mtu }))
    }

    fn transmit(&mut self, _: Instant) -> Option<PhyTxToken<'_>> {
        if !self.has_room() {
            return None;
        }
        let Self { pair, sent, mtu, .. } = self;
        Some(PhyTxToken { pair, sent, mtu: *mtu })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

impl Phy {
    fn has_room(&mut self) -> bool {
        self.pair.tx.reclaim().is_ok() && self.pair.tx.room() > 0
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct PhyRxToken<'a>(&'a [u8]);

impl RxToken for PhyRxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame to be sent.
#[derive(Debug)]
pub struct PhyTxToken<'a> {
    pair: &'a mut Pair,
    sent: &'a mut Vec<u8>,
    mtu: u16,
}

impl TxToken for PhyTxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.sent.clear();
        self.sent.resize(len, 0);
        let result = f(self.sent);
        let mut offload = Offload::default();
        if self.pair.tx.rules().sends_partial()
            && let Some(transport) = Transport::of(self.sent)
        {
            offload.checksum = transport.make_partial(self.sent);
            if len > usize::from(self.mtu) + ETHERNET_HEADER {
                offload.segmentation = transport.segmentation(self.sent, self.mtu);
            }
        }
        // A network may lose frames, and smoltcp sends again what matters.
        if self.pair.tx.send_copy(self.sent, &offload).is_ok() {
            let _ = self.pair.tx.kick();
        }
        result
    }
}
