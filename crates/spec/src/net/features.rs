//! Feature bits and what they require.

use crate::features::{Dependency, rules};

feature_bits! {
/// Feature bits (5.1.3, 5.1.3.2). GUEST is what the driver can receive, HOST what the device can.
pub enum F {
    /// The device takes packets with a partial checksum.
    CSUM = 0 "VIRTIO_NET_F_CSUM",
    /// The driver takes packets with a partial checksum.
    GUEST_CSUM = 1 "VIRTIO_NET_F_GUEST_CSUM",
    /// Offloads can be changed through the control queue.
    CTRL_GUEST_OFFLOADS = 2 "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS",
    /// `mtu` is valid.
    MTU = 3 "VIRTIO_NET_F_MTU",
    /// `mac` is valid.
    MAC = 5 "VIRTIO_NET_F_MAC",
    /// The device takes packets of any GSO type. Legacy only.
    GSO = 6 "VIRTIO_NET_F_GSO",
    /// The driver takes TSO over IPv4.
    GUEST_TSO4 = 7 "VIRTIO_NET_F_GUEST_TSO4",
    /// The driver takes TSO over IPv6.
    GUEST_TSO6 = 8 "VIRTIO_NET_F_GUEST_TSO6",
    /// The driver takes TSO with ECN.
    GUEST_ECN = 9 "VIRTIO_NET_F_GUEST_ECN",
    /// The driver takes UFO.
    GUEST_UFO = 10 "VIRTIO_NET_F_GUEST_UFO",
    /// The device takes TSO over IPv4.
    HOST_TSO4 = 11 "VIRTIO_NET_F_HOST_TSO4",
    /// The device takes TSO over IPv6.
    HOST_TSO6 = 12 "VIRTIO_NET_F_HOST_TSO6",
    /// The device takes TSO with ECN.
    HOST_ECN = 13 "VIRTIO_NET_F_HOST_ECN",
    /// The device takes UFO.
    HOST_UFO = 14 "VIRTIO_NET_F_HOST_UFO",
    /// A packet may be spread over several receive buffers.
    MRG_RXBUF = 15 "VIRTIO_NET_F_MRG_RXBUF",
    /// `status` is valid.
    STATUS = 16 "VIRTIO_NET_F_STATUS",
    /// There is a control queue.
    CTRL_VQ = 17 "VIRTIO_NET_F_CTRL_VQ",
    /// Receive modes: promiscuous, all multicast.
    CTRL_RX = 18 "VIRTIO_NET_F_CTRL_RX",
    /// VLAN filter.
    CTRL_VLAN = 19 "VIRTIO_NET_F_CTRL_VLAN",
    /// More receive modes.
    CTRL_RX_EXTRA = 20 "VIRTIO_NET_F_CTRL_RX_EXTRA",
    /// The driver can announce itself when asked.
    GUEST_ANNOUNCE = 21 "VIRTIO_NET_F_GUEST_ANNOUNCE",
    /// Several queue pairs with automatic receive steering.
    MQ = 22 "VIRTIO_NET_F_MQ",
    /// The MAC address can be set.
    CTRL_MAC_ADDR = 23 "VIRTIO_NET_F_CTRL_MAC_ADDR",
    /// The device coalesces TCP over IPv4. Legacy only; later the number means `F::ADMIN_VQ`.
    GUEST_RSC4 = 41 "VIRTIO_NET_F_GUEST_RSC4",
    /// The device coalesces TCP over IPv6. Legacy only.
    GUEST_RSC6 = 42 "VIRTIO_NET_F_GUEST_RSC6",
    /// Statistics through the control queue.
    DEVICE_STATS = 50 "VIRTIO_NET_F_DEVICE_STATS",
    /// Hash over the inner header of tunnelled packets.
    HASH_TUNNEL = 51 "VIRTIO_NET_F_HASH_TUNNEL",
    /// Notification coalescing per queue.
    VQ_NOTF_COAL = 52 "VIRTIO_NET_F_VQ_NOTF_COAL",
    /// Notification coalescing.
    NOTF_COAL = 53 "VIRTIO_NET_F_NOTF_COAL",
    /// The driver takes USO over IPv4.
    GUEST_USO4 = 54 "VIRTIO_NET_F_GUEST_USO4",
    /// The driver takes USO over IPv6.
    GUEST_USO6 = 55 "VIRTIO_NET_F_GUEST_USO6",
    /// The device takes USO.
    HOST_USO = 56 "VIRTIO_NET_F_HOST_USO",
    /// The device reports a hash per packet.
    HASH_REPORT = 57 "VIRTIO_NET_F_HASH_REPORT",
    /// The driver gives exact `hdr_len`.
    GUEST_HDRLEN = 59 "VIRTIO_NET_F_GUEST_HDRLEN",
    /// Receive-side scaling.
    RSS = 60 "VIRTIO_NET_F_RSS",
    /// The device reports coalesced segments and duplicated ACKs.
    RSC_EXT = 61 "VIRTIO_NET_F_RSC_EXT",
    /// The device may stand by for another one with the same MAC address.
    STANDBY = 62 "VIRTIO_NET_F_STANDBY",
    /// `speed` and `duplex` are valid.
    SPEED_DUPLEX = 63 "VIRTIO_NET_F_SPEED_DUPLEX",
    /// Several RSS contexts.
    RSS_CONTEXT = 64 "VIRTIO_NET_F_RSS_CONTEXT",
    /// The driver takes GSO packets in a UDP tunnel.
    GUEST_UDP_TUNNEL_GSO = 65 "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO",
    /// The driver takes them with a partial outer checksum.
    GUEST_UDP_TUNNEL_GSO_CSUM = 66 "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM",
    /// The device takes GSO packets in a UDP tunnel.
    HOST_UDP_TUNNEL_GSO = 67 "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO",
    /// The device takes them with a partial outer checksum.
    HOST_UDP_TUNNEL_GSO_CSUM = 68 "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM",
    /// `outer_nh_offset` may be given.
    OUT_NET_HEADER = 69 "VIRTIO_NET_F_OUT_NET_HEADER",
    /// Inline IPsec.
    IPSEC = 70 "VIRTIO_NET_F_IPSEC",
}
}

/// What the bits require: the 26 rules of 5.1.3.1.
///
/// `RSC_EXT` is about receiving, as 5.1.9.4 has it, so it requires GUEST bits; 5.1.3.1 names the HOST ones.
pub const DEPENDENCIES: &[Dependency] = rules! {
    GUEST_TSO4: GUEST_CSUM;
    GUEST_TSO6: GUEST_CSUM;
    GUEST_ECN: GUEST_TSO4 | GUEST_TSO6;
    GUEST_UFO: GUEST_CSUM;
    GUEST_USO4: GUEST_CSUM;
    GUEST_USO6: GUEST_CSUM;
    GUEST_UDP_TUNNEL_GSO: GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6;
    GUEST_UDP_TUNNEL_GSO_CSUM: GUEST_UDP_TUNNEL_GSO;
    HOST_TSO4: CSUM;
    HOST_TSO6: CSUM;
    HOST_ECN: HOST_TSO4 | HOST_TSO6;
    HOST_UFO: CSUM;
    HOST_USO: CSUM;
    HOST_UDP_TUNNEL_GSO: HOST_TSO4, HOST_TSO6, HOST_USO;
    HOST_UDP_TUNNEL_GSO_CSUM: HOST_UDP_TUNNEL_GSO;
    CTRL_RX: CTRL_VQ;
    CTRL_VLAN: CTRL_VQ;
    GUEST_ANNOUNCE: CTRL_VQ;
    MQ: CTRL_VQ;
    CTRL_MAC_ADDR: CTRL_VQ;
    NOTF_COAL: CTRL_VQ;
    RSC_EXT: GUEST_TSO4 | GUEST_TSO6;
    RSS: CTRL_VQ;
    VQ_NOTF_COAL: CTRL_VQ;
    HASH_TUNNEL: CTRL_VQ, RSS | HASH_REPORT;
    RSS_CONTEXT: CTRL_VQ, RSS;
};

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::features::unmet;
    use crate::{DeviceId, Features};
    use std::vec::Vec;

    /// `feature` with all of `valid` is fine; without any one of the `needed` sets it is not.
    fn case(feature: Features, valid: Features, needed: &[Features]) {
        assert_eq!(unmet(feature | valid, DeviceId::NETWORK), None);
        for &missing in needed {
            // Take away what is needed, and keep the rest of the set as it is.
            let broken = unmet((feature | valid) - missing, DeviceId::NETWORK);
            assert!(broken.is_some(), "{feature:?} without {missing:?}");
            let own =
                DEPENDENCIES.iter().any(|rule| rule.feature == feature && rule.requires_any_of == missing);
            assert!(own, "no rule {feature:?} needs {missing:?}");
        }
        assert!(unmet(feature, DeviceId::NETWORK).is_some());
    }

    const GUEST_ALL: Features =
        F::GUEST_CSUM.union(F::GUEST_TSO4).union(F::GUEST_TSO6).union(F::GUEST_USO4).union(F::GUEST_USO6);
    const HOST_ALL: Features = F::CSUM.union(F::HOST_TSO4).union(F::HOST_TSO6).union(F::HOST_USO);

    #[test]
    fn guest_offloads_need_guest_csum() {
        for feature in [F::GUEST_TSO4, F::GUEST_TSO6, F::GUEST_UFO, F::GUEST_USO4, F::GUEST_USO6] {
            case(feature, F::GUEST_CSUM, &[F::GUEST_CSUM]);
        }
    }

    #[test]
    fn host_offloads_need_csum() {
        for feature in [F::HOST_TSO4, F::HOST_TSO6, F::HOST_UFO, F::HOST_USO] {
            case(feature, F::CSUM, &[F::CSUM]);
        }
    }

    #[test]
    fn ecn_needs_one_of_the_tso_bits() {
        for tso in [F::GUEST_TSO4, F::GUEST_TSO6] {
            case(F::GUEST_ECN, F::GUEST_CSUM | tso, &[F::GUEST_TSO4 | F::GUEST_TSO6]);
        }
        for tso in [F::HOST_TSO4, F::HOST_TSO6] {
            case(F::HOST_ECN, F::CSUM | tso, &[F::HOST_TSO4 | F::HOST_TSO6]);
        }
    }

    #[test]
    fn tunnel_gso_needs_all_of_the_segmentation_bits() {
        let guest = [F::GUEST_TSO4, F::GUEST_TSO6, F::GUEST_USO4, F::GUEST_USO6];
        case(F::GUEST_UDP_TUNNEL_GSO, GUEST_ALL, &guest);
        case(F::HOST_UDP_TUNNEL_GSO, HOST_ALL, &[F::HOST_TSO4, F::HOST_TSO6, F::HOST_USO]);
    }

    #[test]
    fn tunnel_checksum_needs_tunnel_gso() {
        let guest = GUEST_ALL | F::GUEST_UDP_TUNNEL_GSO;
        case(F::GUEST_UDP_TUNNEL_GSO_CSUM, guest, &[F::GUEST_UDP_TUNNEL_GSO]);
        let host = HOST_ALL | F::HOST_UDP_TUNNEL_GSO;
        case(F::HOST_UDP_TUNNEL_GSO_CSUM, host, &[F::HOST_UDP_TUNNEL_GSO]);
    }

    #[test]
    fn what_is_controlled_needs_the_control_queue() {
        for feature in [
            F::CTRL_RX,
            F::CTRL_VLAN,
            F::GUEST_ANNOUNCE,
            F::MQ,
            F::CTRL_MAC_ADDR,
            F::NOTF_COAL,
            F::RSS,
            F::VQ_NOTF_COAL,
        ] {
            case(feature, F::CTRL_VQ, &[F::CTRL_VQ]);
        }
    }

    #[test]
    fn coalescing_reports_need_receive_tso() {
        for tso in [F::GUEST_TSO4, F::GUEST_TSO6] {
            case(F::RSC_EXT, F::GUEST_CSUM | tso, &[F::GUEST_TSO4 | F::GUEST_TSO6]);
        }
    }

    #[test]
    fn tunnel_hash_needs_the_control_queue_and_a_hash() {
        case(F::HASH_TUNNEL, F::CTRL_VQ | F::RSS, &[F::CTRL_VQ, F::RSS | F::HASH_REPORT]);
        case(F::HASH_TUNNEL, F::CTRL_VQ | F::HASH_REPORT, &[F::CTRL_VQ, F::RSS | F::HASH_REPORT]);
    }

    #[test]
    fn rss_contexts_need_the_control_queue_and_rss() {
        case(F::RSS_CONTEXT, F::CTRL_VQ | F::RSS, &[F::CTRL_VQ, F::RSS]);
    }

    #[test]
    fn there_are_26_bits_with_rules() {
        let mut features: Vec<_> = DEPENDENCIES.iter().map(|rule| rule.feature.bits()).collect();
        features.sort_unstable();
        features.dedup();
        assert_eq!(features.len(), 26);
    }

    #[test]
    fn the_other_bits_stand_alone() {
        let free = F::CTRL_RX_EXTRA | F::CTRL_GUEST_OFFLOADS | F::HASH_REPORT | F::MRG_RXBUF | F::IPSEC;
        assert_eq!(unmet(free, DeviceId::NETWORK), None);
    }
}
