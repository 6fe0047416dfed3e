//! The few packets that finding a station and pinging it takes: ARP, and ICMP echo over IPv4.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
};
use std::net::Ipv4Addr;
use virtio_kit_drivers::net::Mac;

const BROADCAST: Mac = [0xff; 6];

/// A received frame that means something here, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Who has `to`?
    ArpRequest { from: Ipv4Addr, from_mac: Mac, to: Ipv4Addr },
    /// `from` is at `mac`.
    ArpReply { from: Ipv4Addr, mac: Mac },
    /// A ping.
    EchoRequest { from: Ipv4Addr, to: Ipv4Addr, id: u16, number: u16, data: &'a [u8] },
    /// The answer to one.
    EchoReply { from: Ipv4Addr, to: Ipv4Addr, id: u16, number: u16, data: &'a [u8] },
}

impl<'a> Packet<'a> {
    /// Reads a frame; `None` if it is anything else, or wrong.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Arp => Self::arp(ethernet.payload()),
            EthernetProtocol::Ipv4 => Self::ipv4(ethernet.payload()),
            _ => None,
        }
    }

    fn arp(packet: &[u8]) -> Option<Self> {
        let repr = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = repr
        else {
            return None;
        };
        let (from, mac) = (source_protocol_addr, source_hardware_addr.0);
        match operation {
            ArpOperation::Request => Some(Self::ArpRequest { from, from_mac: mac, to: target_protocol_addr }),
            ArpOperation::Reply => Some(Self::ArpReply { from, mac }),
            ArpOperation::Unknown(_) => None,
        }
    }

    fn ipv4(packet: &'a [u8]) -> Option<Self> {
        let checksums = ChecksumCapabilities::default();
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let ip = Ipv4Repr::parse(&packet, &checksums).ok()?;
        if ip.next_header != IpProtocol::Icmp || packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        let (from, to) = (ip.src_addr, ip.dst_addr);
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        Some(match Icmpv4Repr::parse(&icmp, &checksums).ok()? {
            Icmpv4Repr::EchoRequest { ident, seq_no, data } => {
                Self::EchoRequest { from, to, id: ident, number: seq_no, data }
            }
            Icmpv4Repr::EchoReply { ident, seq_no, data } => {
                Self::EchoReply { from, to, id: ident, number: seq_no, data }
            }
            _ => return None,
        })
    }
}

/// Asks who has an address.
pub(crate) struct Request;

impl Request {
    pub(crate) fn arp(from_mac: Mac, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        arp(ArpOperation::Request, (from_mac, from), ([0; 6], to), BROADCAST)
    }

    pub(crate) fn echo(
        (from_mac, from): (Mac, Ipv4Addr),
        (to_mac, to): (Mac, Ipv4Addr),
        id: u16,
        number: u16,
        data: &[u8],
    ) -> Vec<u8> {
        let icmp = Icmpv4Repr::EchoRequest { ident: id, seq_no: number, data };
        ping((from_mac, from), (to_mac, to), &icmp)
    }
}

/// Answers.
pub(crate) struct Reply;

impl Reply {
    /// `from` is at `from_mac`.
    pub(crate) fn arp(from_mac: Mac, from: Ipv4Addr, to_mac: Mac, to: Ipv4Addr) -> Vec<u8> {
        arp(ArpOperation::Reply, (from_mac, from), (to_mac, to), to_mac)
    }

    pub(crate) fn echo(
        from_mac: Mac,
        from: Ipv4Addr,
        to_mac: Mac,
        to: Ipv4Addr,
        id: u16,
        number: u16,
        data: &[u8],
    ) -> Vec<u8> {
        let icmp = Icmpv4Repr::EchoReply { ident: id, seq_no: number, data };
        ping((from_mac, from), (to_mac, to), &icmp)
    }
}

fn arp(
    operation: ArpOperation,
    source: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
    destination: Mac,
) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut bytes = ethernet(source.0, destination, EthernetProtocol::Arp, arp.buffer_len());
    arp.emit(&mut ArpPacket::new_unchecked(&mut bytes[EthernetFrame::<&[u8]>::header_len()..]));
    bytes
}

fn ping((from_mac, from): (Mac, Ipv4Addr), (to_mac, to): (Mac, Ipv4Addr), icmp: &Icmpv4Repr<'_>) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    };
    let len = ip.buffer_len() + icmp.buffer_len();
    let mut bytes = ethernet(from_mac, to_mac, EthernetProtocol::Ipv4, len);
    let start = EthernetFrame::<&[u8]>::header_len();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[start..start + len]);
    ip.emit(&mut packet, &checksums);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &checksums);
    bytes
}

/// A frame with its header, as long as the shortest at least.
fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, payload: usize) -> Vec<u8> {
    let header = EthernetRepr { src_addr: EthernetAddress(from), dst_addr: EthernetAddress(to), ethertype };
    let mut bytes = vec![0; (header.buffer_len() + payload).max(super::frames::SHORTEST)];
    header.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1));
    const B: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn what_is_written_is_read() {
        let request = Request::arp(A.0, A.1, B.1);
        assert_eq!((request.len(), &request[..6]), (60, &BROADCAST[..]));
        let expected = Packet::ArpRequest { from: A.1, from_mac: A.0, to: B.1 };
        assert_eq!(Packet::parse(&request), Some(expected));
        let reply = Reply::arp(B.0, B.1, A.0, A.1);
        assert_eq!(Packet::parse(&reply), Some(Packet::ArpReply { from: B.1, mac: B.0 }));
        let data = &[7; 100][..];
        let (from, to, id, number) = (A.1, B.1, 3, 4);
        let echo = Request::echo(A, B, id, number, data);
        assert_eq!(Packet::parse(&echo), Some(Packet::EchoRequest { from, to, id, number, data }));
        let back = Reply::echo(A.0, A.1, B.0, B.1, id, number, data);
        assert_eq!(Packet::parse(&back), Some(Packet::EchoReply { from, to, id, number, data }));
    }

    #[test]
    fn a_damaged_ping_is_none() {
        let echo = Request::echo(A, B, 3, 4, &[7; 100]);
        for at in 12..echo.len() {
            let mut damaged = echo.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Packet::parse(&damaged), None, "{at}");
        }
        for len in 0..echo.len() {
            assert_eq!(Packet::parse(&echo[..len]), None, "{len}");
        }
        assert_eq!(Packet::parse(&[0xff; 100]), None);
    }
}
