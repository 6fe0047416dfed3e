//! Statistics (5.1.9.5.11). Counters wrap to zero on overflow.

use zerocopy::little_endian::{U16, U64};

wire! {
/// Result of [`StatsCommand::QUERY`](super::StatsCommand::QUERY).
#[doc(alias = "virtio_net_stats_capabilities")]
pub struct StatsCapabilities: 8 {
    /// [`Stats`].
    pub supported_stats_types: [U64; 1],
}

/// Data of [`StatsCommand::GET`](super::StatsCommand::GET), one for each queue.
#[doc(alias = "virtio_net_ctrl_queue_stats")]
pub struct StatsQuery: 16 {
    /// Queue index.
    pub vq_index: U16,
    /// Zero.
    pub reserved: [U16; 3],
    /// [`Stats`].
    pub types_bitmap: [U64; 1],
}

/// What each reply starts with.
#[doc(alias = "virtio_net_stats_reply_hdr")]
pub struct StatsHeader: 8 {
    /// [`StatsReply`].
    #[doc(alias = "type")]
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// Queue index.
    pub vq_index: U16,
    /// Zero.
    pub reserved1: U16,
    /// Length of the reply in bytes, this header included.
    pub size: U16,
}

/// Control queue.
#[doc(alias = "virtio_net_stats_cvq")]
pub struct StatsCvq: 24 {
    /// Header.
    pub hdr: StatsHeader,
    /// Commands.
    pub command_num: U64,
    /// Commands that ended well.
    pub ok_num: U64,
}

/// Receive queue, basic.
#[doc(alias = "virtio_net_stats_rx_basic")]
pub struct StatsRxBasic: 56 {
    /// Header.
    pub hdr: StatsHeader,
    /// Notifications from the driver.
    pub rx_notifications: U64,
    /// Packets.
    pub rx_packets: U64,
    /// Bytes.
    pub rx_bytes: U64,
    /// Interrupts.
    pub rx_interrupts: U64,
    /// Dropped packets.
    pub rx_drops: U64,
    /// Packets dropped for want of buffers.
    pub rx_drop_overruns: U64,
}

/// Transmit queue, basic.
#[doc(alias = "virtio_net_stats_tx_basic")]
pub struct StatsTxBasic: 56 {
    /// Header.
    pub hdr: StatsHeader,
    /// Notifications from the driver.
    pub tx_notifications: U64,
    /// Packets.
    pub tx_packets: U64,
    /// Bytes.
    pub tx_bytes: U64,
    /// Interrupts.
    pub tx_interrupts: U64,
    /// Dropped packets.
    pub tx_drops: U64,
    /// Packets dropped since malformed.
    pub tx_drop_malformed: U64,
}

/// Receive queue, checksums.
#[doc(alias = "virtio_net_stats_rx_csum")]
pub struct StatsRxCsum: 40 {
    /// Header.
    pub hdr: StatsHeader,
    /// Packets with `DATA_VALID`.
    pub rx_csum_valid: U64,
    /// Packets with `NEEDS_CSUM`.
    pub rx_needs_csum: U64,
    /// Packets without checksum help.
    pub rx_csum_none: U64,
    /// Packets with a wrong checksum.
    pub rx_csum_bad: U64,
}

/// Transmit queue, checksums.
#[doc(alias = "virtio_net_stats_tx_csum")]
pub struct StatsTxCsum: 24 {
    /// Header.
    pub hdr: StatsHeader,
    /// Packets without checksum work.
    pub tx_csum_none: U64,
    /// Packets that needed a checksum.
    pub tx_needs_csum: U64,
}

/// Receive queue, coalescing.
#[doc(alias = "virtio_net_stats_rx_gso")]
pub struct StatsRxGso: 40 {
    /// Header.
    pub hdr: StatsHeader,
    /// GSO packets.
    pub rx_gso_packets: U64,
    /// Bytes in them.
    pub rx_gso_bytes: U64,
    /// Packets that were coalesced.
    pub rx_gso_packets_coalesced: U64,
    /// Bytes in them.
    pub rx_gso_bytes_coalesced: U64,
}

/// Transmit queue, segmentation.
#[doc(alias = "virtio_net_stats_tx_gso")]
pub struct StatsTxGso: 56 {
    /// Header.
    pub hdr: StatsHeader,
    /// GSO packets.
    pub tx_gso_packets: U64,
    /// Bytes in them.
    pub tx_gso_bytes: U64,
    /// Segments made.
    pub tx_gso_segments: U64,
    /// Bytes in them.
    pub tx_gso_segments_bytes: U64,
    /// GSO packets that were not segmented.
    pub tx_gso_packets_noseg: U64,
    /// Bytes in them.
    pub tx_gso_bytes_noseg: U64,
}

/// Receive queue, rate limits.
#[doc(alias = "virtio_net_stats_rx_speed")]
pub struct StatsRxSpeed: 24 {
    /// Header.
    pub hdr: StatsHeader,
    /// Packets dropped since they came faster than `speed`.
    pub rx_packets_allowance_exceeded: U64,
    /// Bytes in them.
    pub rx_bytes_allowance_exceeded: U64,
}

/// Transmit queue, rate limits.
#[doc(alias = "virtio_net_stats_tx_speed")]
pub struct StatsTxSpeed: 24 {
    /// Header.
    pub hdr: StatsHeader,
    /// Packets dropped since they came faster than `speed`.
    pub tx_packets_allowance_exceeded: U64,
    /// Bytes in them.
    pub tx_bytes_allowance_exceeded: U64,
}
}

bitflags::bitflags! {
    /// Kinds of statistics: bit n is the [`StatsReply`] n.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Stats: u64 {
        /// [`StatsRxBasic`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_RX_BASIC")]
        const RX_BASIC = 1 << 0;
        /// [`StatsRxCsum`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_RX_CSUM")]
        const RX_CSUM = 1 << 1;
        /// [`StatsRxGso`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_RX_GSO")]
        const RX_GSO = 1 << 2;
        /// [`StatsRxSpeed`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_RX_SPEED")]
        const RX_SPEED = 1 << 3;
        /// [`StatsTxBasic`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_TX_BASIC")]
        const TX_BASIC = 1 << 16;
        /// [`StatsTxCsum`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_TX_CSUM")]
        const TX_CSUM = 1 << 17;
        /// [`StatsTxGso`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_TX_GSO")]
        const TX_GSO = 1 << 18;
        /// [`StatsTxSpeed`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_TX_SPEED")]
        const TX_SPEED = 1 << 19;
        /// [`StatsCvq`].
        #[doc(alias = "VIRTIO_NET_STATS_TYPE_CVQ")]
        const CVQ = 1 << 32;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

codes! {
/// Which statistics a reply holds.
pub struct StatsReply: u8 {
    /// [`StatsRxBasic`].
    RX_BASIC = 0 "VIRTIO_NET_STATS_TYPE_REPLY_RX_BASIC",
    /// [`StatsRxCsum`].
    RX_CSUM = 1 "VIRTIO_NET_STATS_TYPE_REPLY_RX_CSUM",
    /// [`StatsRxGso`].
    RX_GSO = 2 "VIRTIO_NET_STATS_TYPE_REPLY_RX_GSO",
    /// [`StatsRxSpeed`].
    RX_SPEED = 3 "VIRTIO_NET_STATS_TYPE_REPLY_RX_SPEED",
    /// [`StatsTxBasic`].
    TX_BASIC = 16 "VIRTIO_NET_STATS_TYPE_REPLY_TX_BASIC",
    /// [`StatsTxCsum`].
    TX_CSUM = 17 "VIRTIO_NET_STATS_TYPE_REPLY_TX_CSUM",
    /// [`StatsTxGso`].
    TX_GSO = 18 "VIRTIO_NET_STATS_TYPE_REPLY_TX_GSO",
    /// [`StatsTxSpeed`].
    TX_SPEED = 19 "VIRTIO_NET_STATS_TYPE_REPLY_TX_SPEED",
    /// [`StatsCvq`].
    CVQ = 32 "VIRTIO_NET_STATS_TYPE_REPLY_CVQ",
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_bits_and_reply_numbers_agree() {
        for (name, bit) in Stats::all().iter_names() {
            assert_eq!(StatsReply(bit.bits().trailing_zeros() as u8).name(), Some(name));
        }
    }
}
