//! How a frame gets into the driver's receive buffers (5.1.9.4).

use super::backend::Receive;
use super::checksum;
use super::counters::Count;
use super::frame::{Checksum, ETHERNET_HEADER, Frame, MAX_FRAME, Offload, SegmentKind};
use super::packet::{self, VLAN_TAG};
use super::segment::{Headers, Malformed, Plan};
use super::settings::Settings;
use super::shared::Shared;
use super::watched::Seen;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::task::Waker;
use virtio_kit::Features;
use virtio_kit::device::{Chain, OutOfBounds, Service, Submitted};
use virtio_kit::spec::net::{F, Gso, GuestOffloads, HeaderFlags, HeaderHash, header_size};
use zerocopy::{FromZeros, IntoBytes};

/// Most frames that are dropped in one run.
const MAX_DROPS: usize = 1024;

/// One receive queue.
///
/// A chain is taken only while a packet waits for it. Chains for a packet that needs several are held until there
/// are enough, and written then; until then they can go back to the ring as if they had never been taken.
pub(super) struct ReceiveService {
    source: Box<dyn Receive>,
    shared: Arc<Shared>,
    settings: Seen<Settings>,
    pair: u16,
    features: Features,
    header: usize,
    /// Most chains of a packet.
    most: usize,
    /// Longest packet that the driver does not segment itself, without a VLAN tag.
    longest: usize,
    waker: Waker,
    /// Chains that nothing was written to, in the order of the ring, and their writable bytes.
    held: VecDeque<Chain>,
    room: usize,
    /// Chains that are filled.
    done: VecDeque<Chain>,
    /// The packet that is next, if there is one.
    next: Option<Next>,
    drops_left: usize,
}

/// A packet that is ready to be written: a whole frame, or the next segment of one.
#[derive(Clone, Copy)]
struct Next {
    /// Bytes with the header.
    needs: usize,
    cut: Cut,
}

#[derive(Clone, Copy)]
enum Cut {
    /// The frame as it is, with the headers' length if the driver is to know it.
    Whole { headers: u16 },
    /// Segment by segment.
    Segments(Plan),
}

impl ReceiveService {
    pub(super) fn new(
        source: Box<dyn Receive>,
        shared: Arc<Shared>,
        pair: u16,
        features: Features,
        size: u16,
        waker: Waker,
    ) -> Self {
        let size = usize::from(size);
        let mtu = shared.mtu().filter(|_| features.contains(F::MTU));
        shared.receives(pair, true);
        Self {
            source,
            settings: shared.settings.see(),
            shared,
            pair,
            features,
            header: header_size(features),
            most: if features.contains(F::MRG_RXBUF) { size } else { 1 },
            longest: mtu.map_or(MAX_FRAME, |mtu| usize::from(mtu) + ETHERNET_HEADER),
            waker,
            held: VecDeque::with_capacity(size),
            room: 0,
            done: VecDeque::with_capacity(size),
            next: None,
            drops_left: MAX_DROPS,
        }
    }

    /// Finds the packet that is next, dropping what the driver does not want or cannot be made good.
    fn look(&mut self) {
        let tally = &self.shared.tally;
        while self.next.is_none() && self.drops_left > 0 {
            let Some(frame) = self.source.peek() else { return };
            let refused = if !self.shared.link_is_up() {
                &tally.receive_link_down
            } else if self.pair >= self.settings.spread.pairs || !self.settings.filter.passes(frame.bytes()) {
                &tally.receive_filtered
            } else {
                match prepare(frame, &self.settings, self.features, &tally.received_checksums) {
                    Ok(cut) => {
                        let (len, longest) = match cut {
                            Cut::Whole { headers: 0 } => (frame.bytes().len(), self.longest),
                            Cut::Whole { .. } => (frame.bytes().len(), MAX_FRAME),
                            Cut::Segments(plan) => (plan.len_of(frame.delivered), self.longest),
                        };
                        let tag = if packet::vlan(frame.bytes()).is_some() { VLAN_TAG } else { 0 };
                        if len <= longest + tag {
                            self.next = Some(Next { needs: self.header + len, cut });
                            return;
                        }
                        &tally.receive_oversize
                    }
                    Err(Malformed) => &tally.receive_malformed,
                }
            };
            refused.one_more();
            self.drops_left -= 1;
            self.source.release();
        }
    }

    /// Drops the packet that is next, and what is left of its frame.
    fn drop_next(&mut self) {
        self.shared.tally.receive_no_room.one_more();
        self.next = None;
        self.drops_left = self.drops_left.saturating_sub(1);
        self.source.release();
        self.look();
    }

    /// Writes packets for as long as there are chains for them.
    fn fill(&mut self) {
        while let Some(next) = self.next
            && !self.held.is_empty()
        {
            if self.room >= next.needs {
                self.write(next);
                self.look();
            } else if self.held.len() >= self.most {
                self.drop_next();
            } else {
                return;
            }
        }
    }

    /// Writes the packet that is next into chains that are held, as many as it needs; all but the last are filled
    /// (5.1.9.4.1).
    fn write(&mut self, next: Next) {
        let Some(frame) = self.source.peek() else { return };
        let mut chains = 0;
        let mut room = 0;
        while room < next.needs {
            room += self.held.get(chains).map_or(next.needs, Chain::writable_len);
            chains += 1;
        }
        let header = header(frame, next.cut, self.settings.offloads, self.features, chains as u16);
        let mut space = Headers::default();
        let (parts, last) = match next.cut {
            Cut::Whole { .. } => ([frame.bytes(), &[]], true),
            Cut::Segments(plan) => {
                let index = frame.delivered;
                (plan.segment(frame.bytes(), index, &mut space), index + 1 == plan.count())
            }
        };
        let [mut first, mut second] = parts;
        let mut prefix = &header.as_bytes()[..self.header];
        for _ in 0..chains {
            let Some(mut chain) = self.held.pop_front() else { break };
            self.room -= chain.writable_len();
            for part in [&mut prefix, &mut first, &mut second] {
                // Bounded by what the chain has left, so it cannot fail.
                let _: Result<(), OutOfBounds> = write_some(&mut chain, part);
            }
            self.done.push_back(chain);
        }
        let tally = &self.shared.tally;
        tally.received.one_more();
        tally.received_bytes.add((next.needs - self.header) as u64);
        self.next = None;
        if matches!(next.cut, Cut::Segments(_)) {
            tally.received_segments.one_more();
        }
        if last {
            self.source.release();
        } else if let Some(frame) = self.source.peek() {
            frame.delivered += 1;
        }
    }
}

/// Writes as much of `part` as the chain takes, and leaves the rest.
fn write_some(chain: &mut Chain, part: &mut &[u8]) -> Result<(), OutOfBounds> {
    let (now, later) = part.split_at(part.len().min(chain.writable_left()));
    *part = later;
    chain.write(now)
}

/// Makes a frame one that the driver takes: how it is to be cut.
fn prepare(
    frame: &mut Frame,
    settings: &Settings,
    features: Features,
    completed: &Count,
) -> Result<Cut, Malformed> {
    if features.contains(F::HASH_REPORT)
        && frame.hash.is_none()
        && let Some(hashing) = &settings.spread.hashing
    {
        frame.hash = hashing.hash(frame.bytes());
    }
    let Offload { checksum, segmentation } = frame.offload;
    if let Some(segmentation) = segmentation {
        let plan = Plan::new(frame.bytes(), segmentation)?;
        let Checksum::Partial { start, offset } = checksum else { return Err(Malformed) };
        if (usize::from(start), usize::from(offset)) != (plan.transport(), plan.checksum_offset()) {
            return Err(Malformed);
        }
        let wanted = match (segmentation.kind, plan.is_v6()) {
            (SegmentKind::TcpV4, _) => GuestOffloads::TSO4,
            (SegmentKind::TcpV6, _) => GuestOffloads::TSO6,
            (SegmentKind::Udp, false) => GuestOffloads::USO4,
            (SegmentKind::Udp, true) => GuestOffloads::USO6,
        } | GuestOffloads::CSUM
            | if segmentation.ecn { GuestOffloads::ECN } else { GuestOffloads::empty() };
        // Once some of it is cut, so is the rest.
        return Ok(if settings.offloads.contains(wanted) && frame.delivered == 0 {
            Cut::Whole { headers: plan.headers() as u16 }
        } else {
            Cut::Segments(plan)
        });
    }
    if let Checksum::Partial { start, offset } = checksum {
        if !settings.offloads.contains(GuestOffloads::CSUM) {
            checksum::finish(frame.bytes_mut(), start, offset).map_err(|_| Malformed)?;
            frame.offload.checksum = Checksum::Unchecked;
            completed.one_more();
        } else if usize::from(start) + usize::from(offset) + 2 > frame.bytes().len() {
            return Err(Malformed);
        }
    }
    Ok(Cut::Whole { headers: 0 })
}

/// The header of a packet (5.1.9.4.1). What has no meaning is 0.
fn header(frame: &Frame, cut: Cut, offloads: GuestOffloads, features: Features, chains: u16) -> HeaderHash {
    let mut header = HeaderHash::new_zeroed();
    let base = &mut header.base;
    base.num_buffers = chains.into();
    if let Cut::Whole { headers } = cut {
        match frame.offload.checksum {
            Checksum::Unchecked => {}
            Checksum::Valid if offloads.contains(GuestOffloads::CSUM) => {
                base.flags = HeaderFlags::DATA_VALID.bits();
            }
            Checksum::Valid => {}
            Checksum::Partial { start, offset } => {
                base.flags = HeaderFlags::NEEDS_CSUM.bits();
                (base.csum_start, base.csum_offset) = (start.into(), offset.into());
            }
        }
        if let Some(segmentation) = frame.offload.segmentation {
            let kind = match segmentation.kind {
                SegmentKind::TcpV4 => Gso::TCPV4,
                SegmentKind::TcpV6 => Gso::TCPV6,
                SegmentKind::Udp => Gso::UDP_L4,
            };
            base.gso_type = kind.0 | if segmentation.ecn { Gso::ECN.0 } else { 0 };
            (base.gso_size, base.hdr_len) = (segmentation.size.into(), headers.into());
        }
    }
    if features.contains(F::HASH_REPORT)
        && let Some(hash) = frame.hash
    {
        header.hash_value = hash.value.into();
        header.hash_report = hash.report.0.into();
    }
    header
}

impl Drop for ReceiveService {
    fn drop(&mut self) {
        self.shared.receives(self.pair, false);
    }
}

impl Service for ReceiveService {
    fn begin_run(&mut self) {
        self.shared.begin_run(self.pair);
        self.drops_left = MAX_DROPS;
        if self.settings.refresh(&self.shared.settings) {
            // What was found to be next may not be any more.
            self.next = None;
        }
        self.look();
        // Frames get lost behind one that has waited for enough chains: it is that which is lost.
        if let Some(next) = self.next
            && !self.held.is_empty()
            && self.room < next.needs
            && self.source.is_full()
        {
            self.drop_next();
        }
        self.fill();
    }

    fn submit(&mut self, chain: Chain) -> Submitted {
        let len = chain.writable_len();
        if len == 0 || (self.held.is_empty() && len < self.header) {
            self.shared.tally.receive_bad_buffer.one_more();
            self.done.push_back(chain);
            return Submitted::Pending;
        }
        self.room += len;
        self.held.push_back(chain);
        self.fill();
        Submitted::Pending
    }

    fn poll(&mut self) -> Option<Chain> {
        self.done.pop_front()
    }

    fn pending(&self) -> usize {
        self.held.len() + self.done.len()
    }

    fn waiting(&self) -> usize {
        self.held.len()
    }

    /// No chain is taken that no packet waits for.
    fn capacity(&self) -> usize {
        if self.next.is_some() { usize::MAX } else { 0 }
    }

    fn withdraw(&mut self) -> Option<Chain> {
        let chain = self.held.pop_back()?;
        self.room -= chain.writable_len();
        Some(chain)
    }

    fn end_run(&mut self) {
        self.shared.end_run(self.pair);
        // A frame that came meanwhile, or many that were dropped: there is more to do.
        if self.next.is_none() && !self.source.arm() {
            self.waker.wake_by_ref();
        }
    }
}
