//! What is left to do for a frame, and how the header before it says so (5.1.9.1, 5.1.9.2, 5.1.9.4).

use super::error::{BadFrame, BadOffload};
use core::num::NonZeroU16;
use virtio_kit::Features;
use virtio_kit::spec::net::{F, Gso, HashReport, Header, HeaderFlags, HeaderFull, header_size};
use zerocopy::{FromBytes, IntoBytes};

/// What is left to do for a frame that is sent, or was left undone for one that was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum of its transport layer.
    pub checksum: Checksum,
    /// It is longer than what goes over a wire, and has to be cut.
    pub segmentation: Option<Segmentation>,
    /// Received, with HASH_REPORT: its hash. Ignored on sending.
    pub hash: Option<Hash>,
}

/// The checksum of a frame's transport layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Sent: it is in the frame. Received: if there is one, nobody has checked it.
    #[default]
    Full,
    /// Received: the device has checked it (DATA_VALID). Sent: as `Full`.
    Checked,
    /// The frame has the sum of the pseudo header where its checksum goes. Received, its data is known to be
    /// good: it has not been on a wire since it was made.
    Partial {
        /// First byte to sum, from the start of the frame.
        start: u16,
        /// Where the sum goes, from `start`.
        offset: u16,
    },
}

/// How a frame is to be cut, or what the device had put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// The frame's transport.
    pub protocol: Protocol,
    /// TCP: the first segment has CWR set (ECN).
    pub ecn: bool,
    /// Bytes of payload of each segment.
    pub size: NonZeroU16,
    /// Bytes of all headers, that of the transport among them. On sending, exact; received, a hint, and 0 if
    /// the device gave none that could be.
    pub header_len: u16,
}

/// What is segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either, each segment a datagram of its own.
    Udp,
}

/// A received frame's hash (5.1.9.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What it was made of.
    pub report: HashReport,
    /// The hash.
    pub value: u32,
}

impl Protocol {
    const fn gso(self) -> Gso {
        match self {
            Self::Tcp4 => Gso::TCPV4,
            Self::Tcp6 => Gso::TCPV6,
            Self::Udp => Gso::UDP_L4,
        }
    }

    /// The features of which one lets the device take such a frame.
    const fn host(self) -> Features {
        match self {
            Self::Tcp4 => F::HOST_TSO4,
            Self::Tcp6 => F::HOST_TSO6,
            Self::Udp => F::HOST_USO,
        }
    }

    /// The features of which one lets the device give such a frame.
    const fn guest(self) -> Features {
        match self {
            Self::Tcp4 => F::GUEST_TSO4,
            Self::Tcp6 => F::GUEST_TSO6,
            Self::Udp => F::GUEST_USO4.union(F::GUEST_USO6),
        }
    }
}

/// Any of these lets the device give frames longer than the MTU.
pub(super) const GUEST_LARGE: Features =
    F::GUEST_TSO4.union(F::GUEST_TSO6).union(F::GUEST_USO4).union(F::GUEST_USO6);
/// Any of these lets the driver send frames longer than the MTU.
const HOST_LARGE: Features = F::HOST_TSO4.union(F::HOST_TSO6).union(F::HOST_USO);

/// What headers may say, by what was negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    features: Features,
    /// Length of the header.
    pub(super) header: usize,
    /// Whether a frame may be spread over several buffers.
    pub(super) mergeable: bool,
    hints: bool,
}

/// A received header, checked except against the length of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed {
    pub(super) buffers: u16,
    flags: HeaderFlags,
    gso: Gso,
    header_len: u16,
    gso_size: u16,
    csum: (u16, u16),
    hash: Option<Hash>,
}

impl Rules {
    pub(super) fn new(features: Features) -> Self {
        let header = header_size(features);
        let mergeable = features.contains(F::MRG_RXBUF);
        Self { features, header, mergeable, hints: features.intersects(HOST_LARGE) }
    }

    /// The header of a frame of `len` bytes that is to be sent.
    #[inline]
    pub(super) fn build(&self, len: usize, offload: &Offload) -> Result<HeaderFull, BadOffload> {
        let mut full = HeaderFull::default();
        let header = &mut full.tunnel.hash.base;
        if self.hints {
            header.hdr_len = (len.min(usize::from(u16::MAX)) as u16).into();
        }
        if let Checksum::Partial { start, offset } = offload.checksum {
            if !self.features.contains(F::CSUM) {
                return Err(BadOffload::NotNegotiated(F::CSUM));
            }
            if !sum_fits(start, offset, len) {
                return Err(BadOffload::ChecksumOutside { start, offset });
            }
            header.flags = HeaderFlags::NEEDS_CSUM.bits();
            (header.csum_start, header.csum_offset) = (start.into(), offset.into());
        }
        if let Some(segmentation) = &offload.segmentation {
            self.build_segmentation(header, len, segmentation)?;
        }
        Ok(full)
    }

    fn build_segmentation(
        &self,
        header: &mut Header,
        len: usize,
        segmentation: &Segmentation,
    ) -> Result<(), BadOffload> {
        let Segmentation { protocol, ecn, size, header_len } = *segmentation;
        if !self.features.contains(protocol.host()) {
            return Err(BadOffload::NotNegotiated(protocol.host()));
        }
        if ecn && !self.features.contains(F::HOST_ECN) {
            return Err(BadOffload::NotNegotiated(F::HOST_ECN));
        }
        if header.flags & HeaderFlags::NEEDS_CSUM.bits() == 0 {
            return Err(BadOffload::SegmentsNeedChecksum);
        }
        if header_len == 0 || usize::from(header_len) >= len {
            return Err(BadOffload::HeaderLength(header_len));
        }
        header.gso_type = protocol.gso().0 | if ecn { Gso::ECN.0 } else { 0 };
        header.gso_size = size.get().into();
        header.hdr_len = header_len.into();
        Ok(())
    }

    /// Reads a received header from the first bytes of a frame's first buffer, of which there must be
    /// [`header`](Self::header). What it says of the frame is checked by [`offload`](Self::offload).
    #[inline]
    pub(super) fn parse(&self, bytes: &[u8]) -> Parsed {
        let mut padded = [0; HeaderFull::SIZE];
        let len = bytes.len().min(padded.len());
        padded[..len].copy_from_slice(&bytes[..len]);
        let HeaderFull { tunnel, .. } = HeaderFull::read_from_bytes(&padded).unwrap_or_default();
        let header = tunnel.hash.base;
        let hash = self.features.contains(F::HASH_REPORT).then(|| Hash {
            report: HashReport(tunnel.hash.hash_report.get()),
            value: tunnel.hash.hash_value.get(),
        });
        Parsed {
            // Without MRG_RXBUF it says 1, or should: devices are known that leave it 0.
            buffers: if self.mergeable { header.num_buffers.get() } else { 1 },
            flags: HeaderFlags::from_bits_retain(header.flags),
            gso: Gso(header.gso_type),
            header_len: header.hdr_len.get(),
            gso_size: header.gso_size.get(),
            csum: (header.csum_start.get(), header.csum_offset.get()),
            hash: hash.filter(|hash| hash.report != HashReport::NONE),
        }
    }

    /// What a received header says of a frame of `len` bytes, if it may say that and it can be true.
    #[inline]
    pub(super) fn offload(&self, parsed: &Parsed, len: usize) -> Result<Offload, BadFrame> {
        let checksum = if parsed.flags.contains(HeaderFlags::NEEDS_CSUM) {
            self.partial(parsed, len)?
        } else if parsed.flags.contains(HeaderFlags::DATA_VALID) && self.features.contains(F::GUEST_CSUM) {
            Checksum::Checked
        } else {
            Checksum::Full
        };
        let segmentation = if parsed.gso == Gso::NONE { None } else { self.segmentation(parsed, len)? };
        Ok(Offload { checksum, segmentation, hash: parsed.hash })
    }

    fn partial(&self, parsed: &Parsed, len: usize) -> Result<Checksum, BadFrame> {
        let (start, offset) = parsed.csum;
        if !self.features.contains(F::GUEST_CSUM) {
            return Err(BadFrame::NotNegotiated(F::GUEST_CSUM));
        }
        // Then start and offset mean something else (5.1.9.4.2).
        if parsed.flags.contains(HeaderFlags::RSC_INFO) {
            return Err(BadFrame::NotNegotiated(F::RSC_EXT));
        }
        if !sum_fits(start, offset, len) {
            return Err(BadFrame::ChecksumOutside { start, offset });
        }
        Ok(Checksum::Partial { start, offset })
    }

    fn segmentation(&self, parsed: &Parsed, len: usize) -> Result<Option<Segmentation>, BadFrame> {
        let ecn = parsed.gso.has(Gso::ECN);
        let protocol = match Gso(parsed.gso.0 & !Gso::ECN.0) {
            // The document knows ECN alone as a frame that is not cut (5.1.4.2).
            Gso::NONE => return Ok(None),
            Gso::TCPV4 => Protocol::Tcp4,
            Gso::TCPV6 => Protocol::Tcp6,
            Gso::UDP_L4 => Protocol::Udp,
            _ => return Err(BadFrame::Segmentation(parsed.gso)),
        };
        if !self.features.intersects(protocol.guest()) {
            return Err(BadFrame::NotNegotiated(protocol.guest()));
        }
        if ecn && !self.features.contains(F::GUEST_ECN) {
            return Err(BadFrame::NotNegotiated(F::GUEST_ECN));
        }
        let size = NonZeroU16::new(parsed.gso_size).ok_or(BadFrame::NoSegmentSize)?;
        let header_len = if usize::from(parsed.header_len) < len { parsed.header_len } else { 0 };
        Ok(Some(Segmentation { protocol, ecn, size, header_len }))
    }

    /// The bytes of a header that are sent.
    #[inline]
    pub(super) fn bytes<'a>(&self, header: &'a HeaderFull) -> &'a [u8] {
        let bytes = header.as_bytes();
        bytes.get(..self.header).unwrap_or(bytes)
    }

    /// Whether the device may give frames longer than the MTU.
    pub(super) fn receives_large(&self) -> bool {
        self.features.intersects(GUEST_LARGE)
    }

    /// Whether TCP over either may be sent for the device to cut.
    #[cfg(feature = "smoltcp")]
    pub(super) fn sends_large(&self) -> bool {
        self.features.contains(F::CSUM | F::HOST_TSO4 | F::HOST_TSO6)
    }

    /// Whether a partial checksum may be sent.
    #[cfg(feature = "smoltcp")]
    pub(super) fn sends_partial(&self) -> bool {
        self.features.contains(F::CSUM)
    }
}

/// Whether a checksum of two bytes is inside a frame, and sums at least itself.
#[inline]
fn sum_fits(start: u16, offset: u16, len: usize) -> bool {
    usize::from(start) + usize::from(offset) + 2 <= len
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_kit::F as Generic;

    const V1: Features = Generic::VERSION_1;

    #[test]
    fn a_header_is_as_long_as_was_agreed_on_and_the_rest_of_it_is_zero() {
        let cases = [
            (Features::EMPTY, 10),
            (F::MRG_RXBUF, 12),
            (V1, 12),
            (V1 | F::HASH_REPORT, 20),
            (V1 | F::HOST_UDP_TUNNEL_GSO, 24),
            (V1 | F::OUT_NET_HEADER, 32),
        ];
        let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, ..Offload::default() };
        for (features, len) in cases {
            let rules = Rules::new(features | F::CSUM);
            let header = rules.build(100, &offload).unwrap();
            let bytes = rules.bytes(&header);
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes[..10], [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
            assert!(bytes[10..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn what_is_built_for_one_side_is_read_by_the_other() {
        let host = F::CSUM | F::HOST_TSO4 | F::HOST_TSO6 | F::HOST_ECN | F::HOST_USO;
        let guest = F::GUEST_CSUM | F::GUEST_TSO4 | F::GUEST_TSO6 | F::GUEST_ECN | F::GUEST_USO4;
        for sizes in [Features::EMPTY, V1, V1 | F::HASH_REPORT] {
            let (tx, rx) = (Rules::new(host | sizes), Rules::new(guest | sizes));
            for protocol in [Protocol::Tcp4, Protocol::Tcp6, Protocol::Udp] {
                for ecn in [false, true] {
                    let size = NonZeroU16::new(1448).unwrap();
                    let segmentation = Some(Segmentation { protocol, ecn, size, header_len: 66 });
                    let checksum = Checksum::Partial { start: 34, offset: 16 };
                    let offload = Offload { checksum, segmentation, hash: None };
                    let header = tx.build(9000, &offload).unwrap();
                    let parsed = rx.parse(tx.bytes(&header));
                    assert_eq!(parsed.buffers, 1);
                    assert_eq!(rx.offload(&parsed, 9000), Ok(offload));
                }
            }
        }
    }

    #[test]
    fn the_length_of_headers_is_never_less_than_they_are() {
        // Only where segments can be sent does the document want it (5.1.9.2.1).
        let plain = Rules::new(V1 | F::CSUM).build(1514, &Offload::default()).unwrap();
        assert_eq!(plain, HeaderFull::default());
        let rules = Rules::new(V1 | F::CSUM | F::HOST_TSO4);
        let hint = |len| rules.build(len, &Offload::default()).unwrap().tunnel.hash.base.hdr_len.get();
        assert_eq!((hint(60), hint(1514), hint(70_000)), (60, 1514, 65535));
    }

    #[test]
    fn bytes_that_are_not_there_are_zero() {
        let rules = Rules::new(V1 | F::MRG_RXBUF);
        for len in 0..12 {
            assert!(rules.parse(&[1; 12][..len]).buffers != 0x0101 || len == 12);
        }
        assert_eq!(rules.parse(&[1; 12]).buffers, 0x0101);
        assert_eq!(rules.parse(&[1; 64]).buffers, 0x0101);
    }
}
