//! Packets made and verified by another implementation than the device's.

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use virtio_kit::spec::net::{Gso, HeaderFlags, HeaderHash};
use virtio_kit_testkit::Rng;
use zerocopy::FromZeros;

pub(crate) const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub(crate) const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub(crate) const C: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
pub(crate) const ALL: [u8; 6] = [0xff; 6];
pub(crate) const CWR: u8 = 0x80;

/// Protocols of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6];

impl Kind {
    pub(crate) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    pub(crate) fn gso(self) -> Gso {
        match self {
            Self::Tcp4 => Gso::TCPV4,
            Self::Tcp6 => Gso::TCPV6,
            Self::Udp4 | Self::Udp6 => Gso::UDP_L4,
        }
    }
}

/// A frame of `len` bytes that is nothing in particular.
pub(crate) fn plain(destination: [u8; 6], source: [u8; 6], len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut frame: Vec<u8> = [destination, source].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend((frame.len()..len).map(|_| rng.below(256) as u8));
    frame
}

pub(crate) fn payload(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(len as u64);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

/// A complete packet from one station to another.
pub(crate) fn packet(kind: Kind, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![];
    let link = PacketBuilder::ethernet2(A, B);
    let ip = match kind {
        Kind::Tcp4 | Kind::Udp4 => link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        Kind::Tcp6 | Kind::Udp6 => link.ipv6([0xfd; 16], [0xfe; 16], 64),
    };
    if kind.is_tcp() {
        let mut builder = ip.tcp(ports.0, ports.1, 1000, 512).ack(77).psh().fin();
        builder = builder.options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
        builder.write(&mut frame, payload).unwrap();
    } else {
        ip.udp(ports.0, ports.1).write(&mut frame, payload).unwrap();
    }
    frame
}

/// Tags a frame with a VLAN id.
pub(crate) fn tagged(frame: &[u8], id: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0]);
    tagged.extend(id.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// Where a packet's transport header is, and the checksum in it.
pub(crate) fn transport(kind: Kind, frame: &[u8]) -> (u16, u16) {
    let link = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let ip = if matches!(kind, Kind::Tcp4 | Kind::Udp4) { 20 } else { 40 };
    (link + ip, if kind.is_tcp() { 16 } else { 6 })
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.sum()
}

/// Leaves the checksum to the device, as drivers do: the header that says so.
pub(crate) fn leave_checksum(kind: Kind, frame: &mut [u8]) -> HeaderHash {
    let (start, offset) = transport(kind, frame);
    let network = usize::from(start) - if matches!(kind, Kind::Tcp4 | Kind::Udp4) { 8 } else { 32 };
    let len = (frame.len() - usize::from(start)) as u32;
    let protocol = if kind.is_tcp() { 6 } else { 17 };
    let mut pseudo = sum(&frame[network..usize::from(start)]) + protocol + (len & 0xffff) + (len >> 16);
    while pseudo > 0xffff {
        pseudo = (pseudo & 0xffff) + (pseudo >> 16);
    }
    let at = usize::from(start + offset);
    frame[at..at + 2].copy_from_slice(&(pseudo as u16).to_be_bytes());
    let mut header = HeaderHash::new_zeroed();
    header.base.flags = HeaderFlags::NEEDS_CSUM.bits();
    (header.base.csum_start, header.base.csum_offset) = (start.into(), offset.into());
    header
}

/// Leaves checksum and segmentation to the device.
pub(crate) fn leave_segmentation(kind: Kind, frame: &mut [u8], size: u16) -> HeaderHash {
    let mut header = leave_checksum(kind, frame);
    header.base.gso_type = kind.gso().0;
    header.base.gso_size = size.into();
    header
}

/// What a packet holds, all of whose lengths and checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) fin_psh: bool,
    pub(crate) cwr: bool,
    pub(crate) payload: Vec<u8>,
}

/// Verifies a packet.
///
/// # Panics
///
/// If a length or a checksum of it is wrong.
pub(crate) fn check(frame: &[u8]) -> Checked {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a packet");
    let payload = headers.payload.slice();
    let mut checked = Checked { id: 0, sequence: 0, fin_psh: false, cwr: false, payload: payload.to_vec() };
    let transport = headers.transport.expect("a transport header");
    let len = transport.header_len() + payload.len();
    let expected = match headers.net.expect("an IP header") {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(usize::from(ip.total_len), ip.header_len() + len, "total length");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "header checksum");
            checked.id = ip.identification;
            match &transport {
                TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv4(&ip, payload).unwrap(),
                TransportHeader::Udp(udp) => udp.calc_checksum_ipv4(&ip, payload).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(usize::from(ip.payload_length), len, "payload length");
            match &transport {
                TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv6(&ip, payload).unwrap(),
                TransportHeader::Udp(udp) => udp.calc_checksum_ipv6(&ip, payload).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    match transport {
        TransportHeader::Tcp(tcp) => {
            // 0 and 0xffff are the same in this arithmetic.
            assert_eq!(tcp.checksum % 0xffff, expected % 0xffff, "TCP checksum");
            checked.sequence = tcp.sequence_number;
            assert_eq!(tcp.fin, tcp.psh);
            (checked.fin_psh, checked.cwr) = (tcp.fin, tcp.cwr);
        }
        TransportHeader::Udp(udp) => {
            assert_eq!(udp.checksum, expected, "UDP checksum");
            assert_eq!(usize::from(udp.length), len, "UDP length");
        }
        other => panic!("{other:?}"),
    }
    checked
}
