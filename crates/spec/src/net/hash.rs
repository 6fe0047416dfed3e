//! Hashes and receive-side scaling (5.1.9.4.2 to 5.1.9.4.4, 5.1.9.5.6 to 5.1.9.5.8).

use zerocopy::little_endian::{U16, U32};

/// Shortest key that a device with hashing takes as its maximum, in bytes (5.1.4.1).
pub const MIN_RSS_KEY_SIZE: u8 = 40;
/// Smallest maximum of indirection table entries that a device with RSS has (5.1.4.1).
pub const MIN_RSS_TABLE_LENGTH: u16 = 128;

wire! {
/// What hash parameters start with; `hash_key_length` bytes of key follow (5.1.9.5.6).
#[doc(alias = "virtio_net_hash_config")]
pub struct HashConfig: 13 {
    /// [`HashTypes`].
    pub hash_types: U32,
    /// Zero.
    pub reserved: [U16; 4],
    /// Bytes of the key.
    pub hash_key_length: u8,
}

/// What RSS parameters start with (5.1.9.5.7).
///
/// `indirection_table_mask + 1` times [`RssQueue`] follow, then [`RssConfigTail`], then the key.
#[doc(alias = "virtio_net_rss_config")]
pub struct RssConfig: 8 {
    /// [`HashTypes`].
    pub hash_types: U32,
    /// Entries of the table, a power of two, less 1.
    pub indirection_table_mask: U16,
    /// Where packets without a hash go.
    pub unclassified_queue: RssQueue,
}

/// What follows the indirection table; `hash_key_length` bytes of key follow (5.1.9.5.7).
pub struct RssConfigTail: 3 {
    /// Number of transmit queues in use.
    pub max_tx_vq: U16,
    /// Bytes of the key.
    pub hash_key_length: u8,
}

/// A receive queue in RSS parameters (5.1.9.5.7).
#[doc(alias = "rss_rq_id")]
pub struct RssQueue: 2 {
    /// Queue index divided by two: the number of the pair, from 0.
    pub vq_index_1_16: U16,
}

/// Most RSS contexts (5.1.9.5.8).
#[doc(alias = "virtnet_rss_ctx_cap")]
pub struct RssContextCap: 2 {
    /// Not counting the default one.
    pub max_rss_contexts: U16,
}

/// What a context to add or change starts with; RSS parameters follow (5.1.9.5.8).
#[doc(alias = "virtnet_rss_ctx_add_modify")]
pub struct RssContext: 8 {
    /// Id of the context.
    pub rss_ctx_id: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A context to delete (5.1.9.5.8).
#[doc(alias = "virtnet_rss_ctx_del")]
pub struct RssContextDel: 2 {
    /// Id of the context.
    pub rss_ctx_id: U16,
}

/// Tunnels whose inner header is hashed (5.1.9.4.3).
#[doc(alias = "virtnet_hash_tunnel")]
pub struct HashTunnel: 4 {
    /// [`TunnelTypes`].
    pub enabled_tunnel_types: U32,
}
}

bitflags::bitflags! {
    /// What is hashed (5.1.9.4.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct HashTypes: u32 {
        /// IPv4 addresses.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_IPv4")]
        const IPV4 = 1 << 0;
        /// TCP over IPv4: addresses and ports.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_TCPv4")]
        const TCPV4 = 1 << 1;
        /// UDP over IPv4: addresses and ports.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_UDPv4")]
        const UDPV4 = 1 << 2;
        /// IPv6 addresses.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_IPv6")]
        const IPV6 = 1 << 3;
        /// TCP over IPv6: addresses and ports.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_TCPv6")]
        const TCPV6 = 1 << 4;
        /// UDP over IPv6: addresses and ports.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_UDPv6")]
        const UDPV6 = 1 << 5;
        /// IPv6 addresses with extension headers.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_IP_EX")]
        const IP_EX = 1 << 6;
        /// TCP over IPv6 with extension headers.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_TCP_EX")]
        const TCP_EX = 1 << 7;
        /// UDP over IPv6 with extension headers.
        #[doc(alias = "VIRTIO_NET_HASH_TYPE_UDP_EX")]
        const UDP_EX = 1 << 8;

        /// Unknown bits are kept.
        const _ = !0;
    }

    /// Encapsulations with an inner header hash (5.1.9.4.3).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TunnelTypes: u32 {
        /// GRE of RFC 2784.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2784")]
        const GRE_2784 = 1 << 0;
        /// GRE of RFC 2890.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_2890")]
        const GRE_2890 = 1 << 1;
        /// GRE of RFC 7676.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_7676")]
        const GRE_7676 = 1 << 2;
        /// GRE in UDP.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_GRE_UDP")]
        const GRE_UDP = 1 << 3;
        /// VXLAN.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN")]
        const VXLAN = 1 << 4;
        /// VXLAN-GPE.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_VXLAN_GPE")]
        const VXLAN_GPE = 1 << 5;
        /// GENEVE.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_GENEVE")]
        const GENEVE = 1 << 6;
        /// IP in IP.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_IPIP")]
        const IPIP = 1 << 7;
        /// NVGRE.
        #[doc(alias = "VIRTIO_NET_HASH_TUNNEL_TYPE_NVGRE")]
        const NVGRE = 1 << 8;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

codes! {
/// What the reported hash was made of (5.1.9.4.4).
pub struct HashReport: u16 {
    /// No hash.
    NONE = 0 "VIRTIO_NET_HASH_REPORT_NONE",
    /// [`HashTypes::IPV4`].
    IPV4 = 1 "VIRTIO_NET_HASH_REPORT_IPv4",
    /// [`HashTypes::TCPV4`].
    TCPV4 = 2 "VIRTIO_NET_HASH_REPORT_TCPv4",
    /// [`HashTypes::UDPV4`].
    UDPV4 = 3 "VIRTIO_NET_HASH_REPORT_UDPv4",
    /// [`HashTypes::IPV6`].
    IPV6 = 4 "VIRTIO_NET_HASH_REPORT_IPv6",
    /// [`HashTypes::TCPV6`].
    TCPV6 = 5 "VIRTIO_NET_HASH_REPORT_TCPv6",
    /// [`HashTypes::UDPV6`].
    UDPV6 = 6 "VIRTIO_NET_HASH_REPORT_UDPv6",
    /// [`HashTypes::IP_EX`].
    IPV6_EX = 7 "VIRTIO_NET_HASH_REPORT_IPv6_EX",
    /// [`HashTypes::TCP_EX`].
    TCPV6_EX = 8 "VIRTIO_NET_HASH_REPORT_TCPv6_EX",
    /// [`HashTypes::UDP_EX`].
    UDPV6_EX = 9 "VIRTIO_NET_HASH_REPORT_UDPv6_EX",
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_document() {
        assert_eq!(offset_of!(HashConfig, hash_key_length), 12);
        assert_eq!(offset_of!(RssConfig, unclassified_queue), 6);
        assert_eq!(offset_of!(RssConfigTail, hash_key_length), 2);
    }
}
