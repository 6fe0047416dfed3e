//! Configuration space, and which queue is which.

use crate::Features;
use zerocopy::little_endian::{U16, U32};

wire! {
/// Configuration, read-only for the driver (5.1.4).
#[doc(alias = "virtio_net_config")]
pub struct Config: 28 {
    /// MAC address, with `MAC`.
    pub mac: [u8; 6],
    /// [`LinkStatus`], with `STATUS`.
    pub status: U16,
    /// Most pairs of queues, with `MQ` or `RSS`.
    pub max_virtqueue_pairs: U16,
    /// Largest packet in bytes without the Ethernet header, with `MTU`.
    pub mtu: U16,
    /// Megabits per second, or [`SPEED_UNKNOWN`], with `SPEED_DUPLEX`.
    pub speed: U32,
    /// [`Duplex`], with `SPEED_DUPLEX`.
    pub duplex: u8,
    /// Longest RSS key in bytes, with `RSS` or `HASH_REPORT`.
    pub rss_max_key_size: u8,
    /// Most entries of the RSS indirection table, with `RSS`.
    pub rss_max_indirection_table_length: U16,
    /// [`HashTypes`](super::HashTypes), with `RSS` or `HASH_REPORT`.
    pub supported_hash_types: U32,
    /// [`TunnelTypes`](super::TunnelTypes), with `HASH_TUNNEL`.
    pub supported_tunnel_types: U32,
}
}

bitflags::bitflags! {
    /// The `status` field (5.1.4).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LinkStatus: u16 {
        /// The link is up.
        #[doc(alias = "VIRTIO_NET_S_LINK_UP")]
        const LINK_UP = 1;
        /// The driver is asked to announce itself.
        #[doc(alias = "VIRTIO_NET_S_ANNOUNCE")]
        const ANNOUNCE = 2;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

codes! {
/// The `duplex` field (5.1.4); the text contradicts itself, this is its layout section and practice.
pub struct Duplex: u8 {
    /// Half duplex.
    HALF = 0,
    /// Full duplex.
    FULL = 1,
    /// Unknown.
    UNKNOWN = 0xff,
}
}

/// `speed` when unknown (5.1.4); so is every value above 0x7fffffff.
pub const SPEED_UNKNOWN: u32 = u32::MAX;
/// Smallest `mtu` in bytes (5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// Fewest queue pairs (5.1.9.5.6).
#[doc(alias = "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN")]
pub const MIN_QUEUE_PAIRS: u16 = 1;
/// Most queue pairs (5.1.4.1, 5.1.9.5.6).
#[doc(alias = "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX")]
pub const MAX_QUEUE_PAIRS: u16 = 0x8000;

/// Queue indices (5.1.2), in 32 bits since the control queue of 0x8000 pairs does not fit into 16.
pub mod queue {
    use super::{super::F, Features};

    /// Receive queue of `pair`, counted from 0.
    pub const fn rx(pair: u16) -> u32 {
        2 * pair as u32
    }

    /// Transmit queue of `pair`, counted from 0.
    pub const fn tx(pair: u16) -> u32 {
        2 * pair as u32 + 1
    }

    /// Control queue: after all `max_pairs` if `MQ` or `RSS` was negotiated, otherwise after the first.
    pub const fn control(negotiated: Features, max_pairs: u16) -> u32 {
        if negotiated.intersects(F::MQ.union(F::RSS)) { 2 * max_pairs as u32 } else { 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::F;
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_document() {
        assert_eq!([offset_of!(Config, status), offset_of!(Config, max_virtqueue_pairs)], [6, 8]);
        assert_eq!([offset_of!(Config, mtu), offset_of!(Config, speed)], [10, 12]);
        assert_eq!([offset_of!(Config, duplex), offset_of!(Config, rss_max_key_size)], [16, 17]);
        assert_eq!(offset_of!(Config, rss_max_indirection_table_length), 18);
        assert_eq!(offset_of!(Config, supported_hash_types), 20);
        assert_eq!(offset_of!(Config, supported_tunnel_types), 24);
    }

    #[test]
    fn the_control_queue_is_placed_by_what_was_negotiated() {
        assert_eq!(queue::control(F::CTRL_VQ, 8), 2);
        assert_eq!(queue::control(F::CTRL_VQ | F::MQ, 8), 16);
        assert_eq!(queue::control(F::CTRL_VQ | F::RSS, 8), 16);
        assert_eq!(queue::control(F::MQ, MAX_QUEUE_PAIRS), 0x10000);
        assert_eq!((queue::rx(3), queue::tx(3)), (6, 7));
    }
}
