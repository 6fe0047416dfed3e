//! Control queue (5.1.9.5): [`ControlHeader`], the command's data, then device-writable [`Ack`] and result.

use zerocopy::little_endian::{U16, U32};

wire! {
/// What a command starts with (5.1.9.5).
#[doc(alias = "virtio_net_ctrl")]
#[doc(alias = "virtio_net_ctrl_hdr")]
pub struct ControlHeader: 2 {
    /// [`Class`].
    pub class: u8,
    /// Command of the class.
    pub command: u8,
}

/// Data of [`MqCommand::VQ_PAIRS_SET`] (5.1.9.5.6).
#[doc(alias = "virtio_net_ctrl_mq_pairs_set")]
#[doc(alias = "virtio_net_ctrl_mq")]
pub struct QueuePairs: 2 {
    /// Number of pairs to use.
    pub virtqueue_pairs: U16,
}

/// Data of [`CoalesceCommand::TX_SET`] and `RX_SET` (5.1.9.5.10).
#[doc(alias = "virtio_net_ctrl_coal")]
pub struct Coalesce: 8 {
    /// Most packets before a notification.
    pub max_packets: U32,
    /// Longest delay of a notification in microseconds.
    pub max_usecs: U32,
}

/// Data of [`CoalesceCommand::VQ_SET`], data and result of `VQ_GET` (5.1.9.5.10).
#[doc(alias = "virtio_net_ctrl_coal_vq")]
pub struct CoalesceQueue: 12 {
    /// Index of a receive or transmit queue.
    pub vq_index: U16,
    /// Zero.
    pub reserved: U16,
    /// The parameters.
    pub coal: Coalesce,
}

/// Selects a command in the device part for control queue settings (5.1.8.1).
#[doc(alias = "virtio_net_dev_part_cvq_selector")]
pub struct CvqSelector: 8 {
    /// [`Class`].
    pub class: u8,
    /// Command of the class.
    pub command: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
}

codes! {
/// How a command ended (5.1.9.5).
pub struct Ack: u8 {
    /// Done.
    OK = 0 "VIRTIO_NET_OK",
    /// Failed.
    ERR = 1 "VIRTIO_NET_ERR",
}

/// Class of a command (5.1.9.5).
pub struct Class: u8 {
    /// [`RxCommand`].
    RX = 0 "VIRTIO_NET_CTRL_RX",
    /// [`MacCommand`].
    MAC = 1 "VIRTIO_NET_CTRL_MAC",
    /// [`VlanCommand`].
    VLAN = 2 "VIRTIO_NET_CTRL_VLAN",
    /// [`AnnounceCommand`].
    ANNOUNCE = 3 "VIRTIO_NET_CTRL_ANNOUNCE",
    /// [`MqCommand`].
    MQ = 4 "VIRTIO_NET_CTRL_MQ",
    /// [`GuestOffloadsCommand`].
    GUEST_OFFLOADS = 5 "VIRTIO_NET_CTRL_GUEST_OFFLOADS",
    /// [`CoalesceCommand`].
    NOTF_COAL = 6 "VIRTIO_NET_CTRL_NOTF_COAL",
    /// [`HashTunnelCommand`].
    HASH_TUNNEL = 7 "VIRTIO_NET_CTRL_HASH_TUNNEL",
    /// [`StatsCommand`].
    STATS = 8 "VIRTIO_NET_CTRL_STATS",
    /// [`RssContextCommand`].
    RSS_CTX = 9 "VIRTNET_RSS_CTX_CTRL",
}

/// Receive mode (5.1.9.5.1). The data is one byte: 1 for on, 0 for off.
pub struct RxCommand: u8 {
    /// All packets.
    PROMISC = 0 "VIRTIO_NET_CTRL_RX_PROMISC",
    /// All multicast packets.
    ALLMULTI = 1 "VIRTIO_NET_CTRL_RX_ALLMULTI",
    /// All unicast packets.
    ALLUNI = 2 "VIRTIO_NET_CTRL_RX_ALLUNI",
    /// No multicast packets.
    NOMULTI = 3 "VIRTIO_NET_CTRL_RX_NOMULTI",
    /// No unicast packets.
    NOUNI = 4 "VIRTIO_NET_CTRL_RX_NOUNI",
    /// No broadcast packets.
    NOBCAST = 5 "VIRTIO_NET_CTRL_RX_NOBCAST",
}

/// MAC addresses (5.1.9.5.2).
pub struct MacCommand: u8 {
    /// Filter. Data: unicast table, multicast table; each a 32-bit count and as many addresses of 6 bytes.
    #[doc(alias = "virtio_net_ctrl_mac")]
    TABLE_SET = 0 "VIRTIO_NET_CTRL_MAC_TABLE_SET",
    /// The device's own address. Data: 6 bytes.
    ADDR_SET = 1 "VIRTIO_NET_CTRL_MAC_ADDR_SET",
}

/// VLAN filter (5.1.9.5.3). The data is the VLAN id, 16 bits.
pub struct VlanCommand: u8 {
    /// Let it pass.
    ADD = 0 "VIRTIO_NET_CTRL_VLAN_ADD",
    /// Do not let it pass.
    DEL = 1 "VIRTIO_NET_CTRL_VLAN_DEL",
}

/// Announcing (5.1.9.5.4). No data.
pub struct AnnounceCommand: u8 {
    /// The driver has seen [`LinkStatus::ANNOUNCE`](super::LinkStatus::ANNOUNCE).
    ACK = 0 "VIRTIO_NET_CTRL_ANNOUNCE_ACK",
}

/// Several queues (5.1.9.5.5).
pub struct MqCommand: u8 {
    /// Automatic steering. Data: [`QueuePairs`].
    VQ_PAIRS_SET = 0 "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET",
    /// Receive-side scaling. Data: [`RssConfig`](super::RssConfig) and what follows it.
    RSS_CONFIG = 1 "VIRTIO_NET_CTRL_MQ_RSS_CONFIG",
    /// Hash calculation. Data: [`HashConfig`](super::HashConfig) and what follows it.
    HASH_CONFIG = 2 "VIRTIO_NET_CTRL_MQ_HASH_CONFIG",
}

/// Offloads (5.1.9.5.9).
pub struct GuestOffloadsCommand: u8 {
    /// Data: [`GuestOffloads`], 64 bits.
    SET = 0 "VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET",
}

/// Notification coalescing (5.1.9.5.10).
pub struct CoalesceCommand: u8 {
    /// All transmit queues. Data: [`Coalesce`].
    TX_SET = 0 "VIRTIO_NET_CTRL_NOTF_COAL_TX_SET",
    /// All receive queues. Data: [`Coalesce`].
    RX_SET = 1 "VIRTIO_NET_CTRL_NOTF_COAL_RX_SET",
    /// One queue. Data: [`CoalesceQueue`].
    VQ_SET = 2 "VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET",
    /// One queue. Data: the first 4 bytes of [`CoalesceQueue`]; result: [`Coalesce`].
    VQ_GET = 3 "VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET",
}

/// Inner header hash (5.1.9.4.3).
pub struct HashTunnelCommand: u8 {
    /// Data: [`HashTunnel`](super::HashTunnel).
    SET = 0 "VIRTIO_NET_CTRL_HASH_TUNNEL_SET",
}

/// Statistics (5.1.9.5.11).
pub struct StatsCommand: u8 {
    /// Result: [`StatsCapabilities`](super::StatsCapabilities).
    QUERY = 0 "VIRTIO_NET_CTRL_STATS_QUERY",
    /// Data: [`StatsQuery`](super::StatsQuery)s; result: replies, each with a [`StatsHeader`](super::StatsHeader).
    GET = 1 "VIRTIO_NET_CTRL_STATS_GET",
}

/// RSS contexts (5.1.9.5.8).
pub struct RssContextCommand: u8 {
    /// Result: [`RssContextCap`](super::RssContextCap).
    CAP_GET = 0 "VIRTNET_RSS_CTX_CTRL_CAP_GET",
    /// Data: [`RssContext`](super::RssContext) and an RSS configuration.
    ADD = 1 "VIRTNET_RSS_CTX_CTRL_ADD",
    /// Data: [`RssContext`](super::RssContext) and an RSS configuration.
    MOD = 2 "VIRTNET_RSS_CTX_CTRL_MOD",
    /// Data: [`RssContextDel`](super::RssContextDel).
    DEL = 3 "VIRTNET_RSS_CTX_CTRL_DEL",
}
}

bitflags::bitflags! {
    /// Offloads that the driver wants on (5.1.9.5.9). The bit numbers are those of the features, except two.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct GuestOffloads: u64 {
        /// `GUEST_CSUM`.
        const CSUM = 1 << 1;
        /// `GUEST_TSO4`.
        const TSO4 = 1 << 7;
        /// `GUEST_TSO6`.
        const TSO6 = 1 << 8;
        /// `GUEST_ECN`.
        const ECN = 1 << 9;
        /// `GUEST_UFO`.
        const UFO = 1 << 10;
        /// `GUEST_UDP_TUNNEL_GSO`, as feature bit 65.
        const UDP_TUNNEL_GSO = 1 << 46;
        /// `GUEST_UDP_TUNNEL_GSO_CSUM`, as feature bit 66.
        const UDP_TUNNEL_GSO_CSUM = 1 << 47;
        /// `GUEST_USO4`.
        const USO4 = 1 << 54;
        /// `GUEST_USO6`.
        const USO6 = 1 << 55;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::F;
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn offload_bits_are_feature_bits_except_the_tunnel_ones() {
        let same = [
            (GuestOffloads::CSUM, F::GUEST_CSUM),
            (GuestOffloads::TSO4, F::GUEST_TSO4),
            (GuestOffloads::TSO6, F::GUEST_TSO6),
            (GuestOffloads::ECN, F::GUEST_ECN),
            (GuestOffloads::UFO, F::GUEST_UFO),
            (GuestOffloads::USO4, F::GUEST_USO4),
            (GuestOffloads::USO6, F::GUEST_USO6),
        ];
        assert!(same.iter().all(|(offload, feature)| offload.bits() == feature.low()));
    }

    #[test]
    fn command_bytes() {
        let header = ControlHeader { class: Class::MQ.0, command: MqCommand::RSS_CONFIG.0 };
        assert_eq!(header.as_bytes(), [4, 1]);
        let coal = Coalesce { max_packets: 15.into(), max_usecs: 10.into() };
        let queue = CoalesceQueue { vq_index: 3.into(), reserved: 0.into(), coal };
        assert_eq!(queue.as_bytes(), [3, 0, 0, 0, 15, 0, 0, 0, 10, 0, 0, 0]);
    }
}
