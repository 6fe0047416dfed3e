//! The hash of receive-side scaling (5.1.9.4.2), and the one by which flows find their queue.

use super::frame::Hash;
use super::packet::{Ip, Layout, TCP, UDP};
use virtio_kit::spec::net::{HashReport, HashTypes};

/// Longest key in bytes: 32 bits more than the longest input, two IPv6 addresses and two ports.
pub(super) const KEY: usize = 40;

/// What can be hashed: everything without extension headers.
pub(super) const SUPPORTED: HashTypes = HashTypes::IPV4
    .union(HashTypes::TCPV4)
    .union(HashTypes::UDPV4)
    .union(HashTypes::IPV6)
    .union(HashTypes::TCPV6)
    .union(HashTypes::UDPV6);

/// What is hashed, and with which key.
#[derive(Clone, Debug)]
pub(super) struct Hashing {
    pub(super) types: HashTypes,
    pub(super) key: [u8; KEY],
}

impl Hashing {
    /// The hash of a packet: over ports too if its type is among those to be hashed so (5.1.9.4.2).
    pub(super) fn hash(&self, frame: &[u8]) -> Option<Hash> {
        let layout = Layout::of(frame)?;
        let (with_tcp, with_udp, plain) = match layout.ip {
            Ip::V4 => (
                (HashTypes::TCPV4, HashReport::TCPV4),
                (HashTypes::UDPV4, HashReport::UDPV4),
                (HashTypes::IPV4, HashReport::IPV4),
            ),
            Ip::V6 => (
                (HashTypes::TCPV6, HashReport::TCPV6),
                (HashTypes::UDPV6, HashReport::UDPV6),
                (HashTypes::IPV6, HashReport::IPV6),
            ),
        };
        let with_ports = match layout.protocol {
            TCP => Some(with_tcp),
            UDP => Some(with_udp),
            _ => None,
        };
        let addresses = layout.addresses(frame);
        if let Some((kind, report)) = with_ports
            && self.types.contains(kind)
            && let Some(ports) = layout.ports(frame)
        {
            return Some(Hash { value: toeplitz(&self.key, [addresses, ports]), report });
        }
        let (kind, report) = plain;
        self.types.contains(kind).then(|| Hash { value: toeplitz(&self.key, [addresses, &[]]), report })
    }
}

/// For each bit of the input that is 1, the 32 bits of the key from there on, all added without carry.
fn toeplitz(key: &[u8; KEY], input: [&[u8]; 2]) -> u32 {
    let [k0, k1, k2, k3, rest @ ..] = key;
    let mut window = u64::from(u32::from_be_bytes([*k0, *k1, *k2, *k3])) << 32;
    let mut result = 0;
    let bytes = input.into_iter().flatten();
    for (byte, next) in bytes.zip(rest.iter().chain(core::iter::repeat(&0))) {
        window |= u64::from(*next) << 24;
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                result ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
    }
    result
}

/// A number that both directions of a flow have in common.
pub(super) fn flow(frame: &[u8]) -> Option<u32> {
    let layout = Layout::of(frame)?;
    let addresses = layout.addresses(frame);
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let mut mixed = u32::from(layout.protocol);
    for (pair, other) in source.chunks(4).zip(destination.chunks(4)) {
        mixed = step(mixed, word(pair) ^ word(other));
    }
    if let Some([a, b, c, d]) = layout.ports(frame) {
        mixed = step(mixed, u32::from(u16::from_be_bytes([*a, *b]) ^ u16::from_be_bytes([*c, *d])));
    }
    Some(mixed)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

fn step(mixed: u32, word: u32) -> u32 {
    let next = (mixed ^ word).wrapping_mul(0x9e37_79b1);
    next ^ next >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Key and cases that hardware is verified with.
    const KNOWN_KEY: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn v4(protocol: u8, source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(source.0);
        frame.extend(destination.0);
        frame.extend(source.1.to_be_bytes());
        frame.extend(destination.1.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn known_packets_have_their_known_hashes() {
        let all = Hashing { types: SUPPORTED, key: KNOWN_KEY };
        let plain = Hashing { types: HashTypes::IPV4 | HashTypes::IPV6, key: KNOWN_KEY };
        let cases = [
            (([66, 9, 149, 187], 2794), ([161, 142, 100, 80], 1766), 0x51cc_c178, 0x323e_8fc2),
            (([199, 92, 111, 2], 14230), ([65, 69, 140, 83], 4739), 0xc626_b0ea, 0xd718_262a),
            (([24, 19, 198, 95], 12898), ([12, 22, 207, 184], 38024), 0x5c2b_394a, 0xd2d0_a5de),
        ];
        for (source, destination, with_ports, without) in cases {
            for (protocol, report) in [(TCP, HashReport::TCPV4), (UDP, HashReport::UDPV4)] {
                let frame = v4(protocol, source, destination);
                assert_eq!(all.hash(&frame), Some(Hash { value: with_ports, report }));
                let report = HashReport::IPV4;
                assert_eq!(plain.hash(&frame), Some(Hash { value: without, report }));
            }
        }
        let none = Hashing { types: HashTypes::TCPV6, key: KNOWN_KEY };
        assert_eq!(none.hash(&v4(TCP, ([1; 4], 1), ([2; 4], 2))), None);
    }

    #[test]
    fn a_known_packet_of_version_6_has_its_known_hash() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
        // From 3ffe:2501:200:1fff::7, port 2794, to 3ffe:2501:200:3::1, port 1766.
        frame.extend([0x3f, 0xfe, 0x25, 1, 2, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
        frame.extend([0x3f, 0xfe, 0x25, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame.extend([0; 16]);
        let all = Hashing { types: SUPPORTED, key: KNOWN_KEY };
        assert_eq!(all.hash(&frame), Some(Hash { value: 0x4020_7d3d, report: HashReport::TCPV6 }));
        let plain = Hashing { types: HashTypes::IPV6, key: KNOWN_KEY };
        assert_eq!(plain.hash(&frame), Some(Hash { value: 0x2cc1_8cd5, report: HashReport::IPV6 }));
    }

    #[test]
    fn both_directions_of_a_flow_have_one_number_and_others_have_others() {
        let (a, b) = (([10, 0, 0, 1], 4000), ([10, 0, 0, 2], 80));
        let there = flow(&v4(TCP, a, b)).unwrap();
        assert_eq!(flow(&v4(TCP, b, a)), Some(there));
        assert_ne!(flow(&v4(UDP, a, b)), Some(there));
        assert_ne!(flow(&v4(TCP, ([10, 0, 0, 1], 4001), b)), Some(there));
    }
}
