//! The header before each frame of a TAP, little-endian: what is left to be done to it.

use virtio_kit_devices::net::{Checksum, Offload, SegmentKind, Segmentation};
use virtio_kit_spec::net::{Gso, HeaderFlags, HeaderLegacy};
use zerocopy::FromZeros;

/// What the kernel is told of a frame.
pub(super) fn encode(offload: &Offload) -> HeaderLegacy {
    let mut header = HeaderLegacy::new_zeroed();
    match offload.checksum {
        Checksum::Unchecked => {}
        Checksum::Valid => header.flags = HeaderFlags::DATA_VALID.bits(),
        Checksum::Partial { start, offset } => {
            header.flags = HeaderFlags::NEEDS_CSUM.bits();
            (header.csum_start, header.csum_offset) = (start.into(), offset.into());
        }
    }
    if let Some(Segmentation { kind, size, ecn }) = offload.segmentation {
        let kind = match kind {
            SegmentKind::TcpV4 => Gso::TCPV4,
            SegmentKind::TcpV6 => Gso::TCPV6,
            SegmentKind::Udp => Gso::UDP_L4,
        };
        header.gso_type = kind.0 | if ecn { Gso::ECN.0 } else { 0 };
        header.gso_size = size.into();
    }
    header
}

/// What the kernel says of a frame; `None` if that is something that it was not asked for.
pub(super) fn decode(header: &HeaderLegacy) -> Option<Offload> {
    let flags = HeaderFlags::from_bits_retain(header.flags);
    let checksum = if flags.contains(HeaderFlags::NEEDS_CSUM) {
        Checksum::Partial { start: header.csum_start.get(), offset: header.csum_offset.get() }
    } else if flags.contains(HeaderFlags::DATA_VALID) {
        Checksum::Valid
    } else {
        Checksum::Unchecked
    };
    let kind = match Gso(header.gso_type & !Gso::ECN.0) {
        Gso::NONE => return Some(Offload { checksum, segmentation: None }),
        Gso::TCPV4 => SegmentKind::TcpV4,
        Gso::TCPV6 => SegmentKind::TcpV6,
        Gso::UDP_L4 => SegmentKind::Udp,
        _ => return None,
    };
    let (size, ecn) = (header.gso_size.get(), Gso(header.gso_type).has(Gso::ECN));
    let segmentation = Some(Segmentation { kind, size, ecn }).filter(|_| size > 0)?;
    Some(Offload { checksum, segmentation: Some(segmentation) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_said_back() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let mut all = vec![
            Offload::default(),
            Offload { checksum: Checksum::Valid, segmentation: None },
            Offload { checksum: partial, segmentation: None },
        ];
        for (kind, ecn) in [
            (SegmentKind::TcpV4, false),
            (SegmentKind::TcpV4, true),
            (SegmentKind::TcpV6, true),
            (SegmentKind::Udp, false),
        ] {
            let segmentation = Some(Segmentation { kind, size: 1448, ecn });
            all.push(Offload { checksum: partial, segmentation });
        }
        for offload in all {
            assert_eq!(decode(&encode(&offload)), Some(offload));
        }
    }

    #[test]
    fn what_was_not_asked_for_is_nothing() {
        let mut header = HeaderLegacy::new_zeroed();
        header.gso_type = Gso::TCPV4.0;
        assert_eq!(decode(&header), None, "segments of no size");
        header.gso_size = 1000.into();
        assert!(decode(&header).is_some());
        header.gso_type = 0x3f;
        assert_eq!(decode(&header), None);
    }
}
