//! The header before each packet (5.1.9), in its five lengths. Receive and transmit use the same one.

use super::F;
use crate::{F as Generic, Features};
use zerocopy::little_endian::{U16, U32};

/// Length of the header in bytes, by what was negotiated (5.1.9.1, 5.1.9.3.1).
///
/// Each field implies those before it. 24 bytes with either of the tunnel bits, HOST or GUEST.
pub const fn header_size(negotiated: Features) -> usize {
    if negotiated.intersects(F::OUT_NET_HEADER.union(F::IPSEC)) {
        HeaderFull::SIZE
    } else if negotiated.intersects(F::HOST_UDP_TUNNEL_GSO.union(F::GUEST_UDP_TUNNEL_GSO)) {
        HeaderTunnel::SIZE
    } else if negotiated.intersects(F::HASH_REPORT) {
        HeaderHash::SIZE
    } else if negotiated.intersects(Generic::VERSION_1.union(F::MRG_RXBUF)) {
        Header::SIZE
    } else {
        HeaderLegacy::SIZE
    }
}

wire! {
/// The legacy header without `MRG_RXBUF`; its fields are guest-native in the document (5.1.9.1).
pub struct HeaderLegacy: 10 {
    /// [`HeaderFlags`].
    pub flags: u8,
    /// [`Gso`].
    pub gso_type: u8,
    /// Length of the packet's headers in bytes: exact with `GUEST_HDRLEN`, otherwise a hint.
    pub hdr_len: U16,
    /// Bytes of payload in a segment.
    pub gso_size: U16,
    /// Where to begin checksumming, in bytes from the packet's start; with `RSC_INFO` the number of segments.
    pub csum_start: U16,
    /// Where to put the checksum, in bytes from `csum_start`; with `RSC_INFO` the number of duplicated ACKs.
    pub csum_offset: U16,
}

/// The header (5.1.9).
#[doc(alias = "virtio_net_hdr")]
#[doc(alias = "virtio_net_hdr_v1")]
pub struct Header: 12 {
    /// [`HeaderFlags`].
    pub flags: u8,
    /// [`Gso`].
    pub gso_type: u8,
    /// Length of the packet's headers in bytes: exact with `GUEST_HDRLEN`, otherwise a hint.
    pub hdr_len: U16,
    /// Bytes of payload in a segment.
    pub gso_size: U16,
    /// Where to begin checksumming, in bytes from the packet's start; with `RSC_INFO` the number of segments.
    pub csum_start: U16,
    /// Where to put the checksum, in bytes from `csum_start`; with `RSC_INFO` the number of duplicated ACKs.
    pub csum_offset: U16,
    /// Receive: number of buffers the packet is spread over, 1 without `MRG_RXBUF`. Transmit: zero.
    pub num_buffers: U16,
}

/// The header with `HASH_REPORT` (5.1.9).
#[doc(alias = "virtio_net_hdr_v1_hash")]
pub struct HeaderHash: 20 {
    /// The first fields.
    pub base: Header,
    /// Hash of the packet (5.1.9.4.4).
    pub hash_value: U32,
    /// [`HashReport`](super::HashReport).
    pub hash_report: U16,
    /// Zero.
    pub padding_reserved: U16,
}

/// The header with UDP tunnel GSO (5.1.9).
#[doc(alias = "virtio_net_hdr_v1_hash_tunnel")]
pub struct HeaderTunnel: 24 {
    /// The first fields.
    pub hash: HeaderHash,
    /// Offset of the outer transport header in bytes.
    pub outer_th_offset: U16,
    /// Offset of the inner network header in bytes.
    pub inner_nh_offset: U16,
}

/// The header with `OUT_NET_HEADER` or `IPSEC` (5.1.9).
pub struct HeaderFull: 32 {
    /// The first fields.
    pub tunnel: HeaderTunnel,
    /// Offset of the outer network header in bytes; zero if not given.
    pub outer_nh_offset: U16,
    /// With `IPSEC`; zero otherwise.
    pub ipsec: IpsecResource,
}

/// The security association of a packet (5.1.9).
#[doc(alias = "ipsec_resource_hdr")]
pub struct IpsecResource: 6 {
    /// Id of the resource object.
    pub resource_id: U32,
    /// [`ResourceObject`](super::ResourceObject).
    pub resource_type: U16,
}
}

bitflags::bitflags! {
    /// The `flags` field (5.1.9).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct HeaderFlags: u8 {
        /// The checksum at `csum_offset` is partial.
        #[doc(alias = "VIRTIO_NET_HDR_F_NEEDS_CSUM")]
        const NEEDS_CSUM = 1;
        /// The checksum was checked.
        #[doc(alias = "VIRTIO_NET_HDR_F_DATA_VALID")]
        const DATA_VALID = 2;
        /// The checksum fields hold what was coalesced.
        #[doc(alias = "VIRTIO_NET_HDR_F_RSC_INFO")]
        const RSC_INFO = 4;
        /// The outer UDP checksum is partial, or on receive was checked.
        #[doc(alias = "VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM")]
        const UDP_TUNNEL_CSUM = 8;
        /// `ipsec` is valid.
        #[doc(alias = "VIRTIO_NET_HDR_F_SECURITY")]
        const SECURITY = 16;
        /// IPsec processing failed.
        #[doc(alias = "VIRTIO_NET_HDR_F_SECURITY_ERR")]
        const SECURITY_ERR = 32;
        /// The security association is about to expire.
        #[doc(alias = "VIRTIO_NET_HDR_F_SECURITY_SA_SOFT_EXPIRY_WARN")]
        const SECURITY_SA_SOFT_EXPIRY_WARN = 64;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

codes! {
/// The `gso_type` field (5.1.9): a type, perhaps with [`ECN`](Self::ECN) or one of the tunnel bits added.
pub struct Gso: u8 {
    /// Not to be segmented.
    NONE = 0 "VIRTIO_NET_HDR_GSO_NONE",
    /// TCP over IPv4.
    TCPV4 = 1 "VIRTIO_NET_HDR_GSO_TCPV4",
    /// UDP fragmentation.
    UDP = 3 "VIRTIO_NET_HDR_GSO_UDP",
    /// TCP over IPv6.
    TCPV6 = 4 "VIRTIO_NET_HDR_GSO_TCPV6",
    /// UDP segmentation.
    UDP_L4 = 5 "VIRTIO_NET_HDR_GSO_UDP_L4",
    /// Bit: in a UDP tunnel over IPv4.
    UDP_TUNNEL_IPV4 = 0x20 "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4",
    /// Bit: in a UDP tunnel over IPv6.
    UDP_TUNNEL_IPV6 = 0x40 "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6",
    /// Bit: TCP with ECN.
    ECN = 0x80 "VIRTIO_NET_HDR_GSO_ECN",
}
}

impl Gso {
    /// The type without the bits.
    #[must_use]
    pub const fn kind(self) -> Self {
        Self(self.0 & !(Self::ECN.0 | Self::UDP_TUNNEL_IPV4.0 | Self::UDP_TUNNEL_IPV6.0))
    }

    /// Whether a bit is set.
    pub const fn has(self, bit: Self) -> bool {
        self.0 & bit.0 == bit.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_document() {
        assert_eq!([offset_of!(Header, hdr_len), offset_of!(Header, gso_size)], [2, 4]);
        assert_eq!([offset_of!(Header, csum_start), offset_of!(Header, csum_offset)], [6, 8]);
        assert_eq!(offset_of!(Header, num_buffers), 10);
        assert_eq!([offset_of!(HeaderHash, hash_value), offset_of!(HeaderHash, hash_report)], [12, 16]);
        assert_eq!(offset_of!(HeaderTunnel, outer_th_offset), 20);
        assert_eq!([offset_of!(HeaderFull, outer_nh_offset), offset_of!(HeaderFull, ipsec)], [24, 26]);
    }

    #[test]
    fn five_sizes_by_features() {
        let v1 = Generic::VERSION_1;
        assert_eq!(header_size(Features::EMPTY), 10);
        assert_eq!(header_size(F::MRG_RXBUF), 12);
        assert_eq!(header_size(v1), 12);
        assert_eq!(header_size(v1 | F::HASH_REPORT), 20);
        assert_eq!(header_size(v1 | F::HOST_UDP_TUNNEL_GSO), 24);
        assert_eq!(header_size(v1 | F::GUEST_UDP_TUNNEL_GSO | F::HASH_REPORT), 24);
        assert_eq!(header_size(v1 | F::OUT_NET_HEADER), 32);
        assert_eq!(header_size(v1 | F::IPSEC), 32);
    }

    #[test]
    fn gso_type_and_bits_come_apart() {
        let gso = Gso(Gso::TCPV6.0 | Gso::ECN.0 | Gso::UDP_TUNNEL_IPV4.0);
        assert_eq!(gso.kind(), Gso::TCPV6);
        assert!(gso.has(Gso::ECN) && gso.has(Gso::UDP_TUNNEL_IPV4) && !gso.has(Gso::UDP_TUNNEL_IPV6));
    }
}
