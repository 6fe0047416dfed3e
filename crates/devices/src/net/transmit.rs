//! What the device does with a frame that the driver sends (5.1.9.2).

use super::backend::Transmit;
use super::counters::{Count, Tally};
use super::frame::{Checksum, ETHERNET_HEADER, MAX_FRAME, Offload, Outgoing, SegmentKind, Segmentation};
use super::packet::VLAN_TAG;
use super::settings::Settings;
use super::shared::Shared;
use super::watched::Seen;
use alloc::boxed::Box;
use alloc::sync::Arc;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError, Service, Submitted};
use virtio_kit::spec::net::{F, Gso, Header, HeaderFlags, header_size};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a frame that name its flow, as a rule.
const FLOW_HEADERS: usize = 96;

/// One transmit queue.
pub(super) struct TransmitService {
    out: Box<dyn Transmit>,
    shared: Arc<Shared>,
    settings: Seen<Settings>,
    pair: u16,
    features: Features,
    header: usize,
    /// Longest frame that is not to be segmented.
    longest: usize,
}

impl TransmitService {
    pub(super) fn new(out: Box<dyn Transmit>, shared: Arc<Shared>, pair: u16, features: Features) -> Self {
        let mtu = shared.mtu().filter(|_| features.contains(F::MTU));
        Self {
            out,
            settings: shared.settings.see(),
            pair,
            features,
            header: header_size(features),
            longest: mtu.map_or(MAX_FRAME, |mtu| usize::from(mtu) + ETHERNET_HEADER + VLAN_TAG),
            shared,
        }
    }

    /// What is left to be done to a frame, or what it counts as when it is dropped.
    fn check<'t>(&self, chain: &Chain, tally: &'t Tally) -> Result<Offload, &'t Count> {
        let len = chain.readable_len().saturating_sub(self.header);
        if len < ETHERNET_HEADER {
            return Err(&tally.send_short);
        }
        let mut header = Header::new_zeroed();
        chain.read_at(0, header.as_mut_bytes()).map_err(|_| &tally.send_short)?;
        let offload = self.offload(&header, len).ok_or(&tally.send_bad_header)?;
        if len > MAX_FRAME || (offload.segmentation.is_none() && len > self.longest) {
            return Err(&tally.send_oversize);
        }
        if !self.shared.link_is_up() {
            return Err(&tally.send_link_down);
        }
        Ok(offload)
    }

    /// What the header says, if it may say that of a frame of `len` bytes. `hdr_len` and `num_buffers` are not
    /// relied on (5.1.9.2.2), and bits of `flags` that mean nothing here are not looked at.
    fn offload(&self, header: &Header, len: usize) -> Option<Offload> {
        let mut offload = Offload::default();
        if HeaderFlags::from_bits_retain(header.flags).contains(HeaderFlags::NEEDS_CSUM) {
            let (start, offset) = (header.csum_start.get(), header.csum_offset.get());
            if !self.features.contains(F::CSUM) || usize::from(start) + usize::from(offset) + 2 > len {
                return None;
            }
            offload.checksum = Checksum::Partial { start, offset };
        }
        let gso = Gso(header.gso_type);
        if gso == Gso::NONE {
            return Some(offload);
        }
        let kind = match Gso(gso.0 & !Gso::ECN.0) {
            Gso::TCPV4 if self.features.contains(F::HOST_TSO4) => SegmentKind::TcpV4,
            Gso::TCPV6 if self.features.contains(F::HOST_TSO6) => SegmentKind::TcpV6,
            Gso::UDP_L4 if self.features.contains(F::HOST_USO) => SegmentKind::Udp,
            _ => return None,
        };
        let (size, ecn) = (header.gso_size.get(), gso.has(Gso::ECN));
        let ecn_allowed = self.features.contains(F::HOST_ECN) && kind != SegmentKind::Udp;
        if size == 0 || offload.checksum == Checksum::Unchecked || (ecn && !ecn_allowed) {
            return None;
        }
        offload.segmentation = Some(Segmentation { kind, size, ecn });
        Some(offload)
    }

    /// Notes where the frame's flow is sent, so that it is received there.
    fn note_flow(&self, frame: &Outgoing) {
        let mut head = [0; FLOW_HEADERS];
        let head = &mut head[..frame.len().min(FLOW_HEADERS)];
        if frame.read_at(0, head).is_ok() {
            self.shared.flows.sent(head, self.pair);
        }
    }
}

impl Service for TransmitService {
    fn begin_run(&mut self) {
        self.settings.refresh(&self.shared.settings);
    }

    fn submit(&mut self, chain: Chain) -> Submitted {
        let offload = match self.check(&chain, &self.shared.tally) {
            Ok(offload) => offload,
            Err(count) => {
                count.one_more();
                return Submitted::Done(chain);
            }
        };
        let frame = Outgoing::new(chain, self.header, offload);
        self.shared.tally.sent.one_more();
        self.shared.tally.sent_bytes.add(frame.len() as u64);
        if self.settings.spread.follows_flows() {
            self.note_flow(&frame);
        }
        self.out.submit(frame).map_or(Submitted::Pending, Submitted::Done)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.out.commit()
    }

    fn poll(&mut self) -> Option<Chain> {
        self.out.poll()
    }

    fn pending(&self) -> usize {
        self.out.pending()
    }

    fn capacity(&self) -> usize {
        self.out.capacity()
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.out.wait()
    }
}
