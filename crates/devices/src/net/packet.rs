//! Where the headers of a packet are. Reads private memory that a stranger filled: every offset is checked.

use super::frame::ETHERNET_HEADER;

/// Bytes of a VLAN tag.
pub(super) const VLAN_TAG: usize = 4;
/// Ethernet types.
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IP protocols.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// IPv6 extension headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Most extension headers that are gone through.
const MAX_EXTENSIONS: usize = 8;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Version of the network header, and where its addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ip {
    V4,
    V6,
}

/// The headers of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) ip: Ip,
    /// Where the IP header begins.
    pub(super) network: usize,
    /// Where the transport header begins: at most the frame's length.
    pub(super) transport: usize,
    /// The protocol of what is there.
    pub(super) protocol: u8,
    /// A fragment of a packet.
    pub(super) fragment: bool,
}

/// The big-endian 16 bits at `at`.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The VLAN id of a frame, if it is tagged.
pub(super) fn vlan(frame: &[u8]) -> Option<u16> {
    let kind = be16(frame, 12)?;
    if kind == VLAN { Some(be16(frame, 14)? & 0xfff) } else { None }
}

impl Layout {
    /// The headers of a frame; `None` if it is no IP packet, or is cut off before its transport header.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let mut network = ETHERNET_HEADER;
        let mut kind = be16(frame, network - 2)?;
        for _ in 0..2 {
            if kind == VLAN || kind == SERVICE_VLAN {
                network += VLAN_TAG;
                kind = be16(frame, network - 2)?;
            }
        }
        match kind {
            IPV4 => Self::v4(frame, network),
            IPV6 => Self::v6(frame, network),
            _ => None,
        }
    }

    fn v4(frame: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; 20] = frame.get(network..)?.first_chunk()?;
        let len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || len < 20 || frame.len() < network + len {
            return None;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        Some(Self { ip: Ip::V4, network, transport: network + len, protocol: header[9], fragment })
    }

    fn v6(frame: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; 40] = frame.get(network..)?.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let mut layout =
            Self { ip: Ip::V6, network, transport: network + 40, protocol: header[6], fragment: false };
        for _ in 0..MAX_EXTENSIONS {
            let len = match layout.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    (usize::from(*frame.get(layout.transport + 1)?) + 1) * 8
                }
                FRAGMENT => {
                    layout.fragment = true;
                    8
                }
                _ => return Some(layout),
            };
            layout.protocol = *frame.get(layout.transport)?;
            layout.transport += len;
            if layout.transport > frame.len() {
                return None;
            }
        }
        None
    }

    /// Source and destination address, one after the other.
    pub(super) fn addresses<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        let (start, len) = match self.ip {
            Ip::V4 => (self.network + 12, 8),
            Ip::V6 => (self.network + 8, 32),
        };
        frame.get(start..start + len).unwrap_or_default()
    }

    /// Source and destination port, one after the other, if there are any.
    pub(super) fn ports<'f>(&self, frame: &'f [u8]) -> Option<&'f [u8; 4]> {
        if self.fragment || !(self.protocol == TCP || self.protocol == UDP) {
            return None;
        }
        frame.get(self.transport..)?.first_chunk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(rest);
        frame
    }

    #[test]
    fn no_cut_of_a_packet_is_read_beyond_its_end() {
        let mut v6 = vec![0x60, 0, 0, 0, 0, 40, HOP_BY_HOP, 64];
        v6.extend([0; 32]);
        v6.extend([FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend([DESTINATION, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend([TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend([0; 20]);
        let whole = ethernet(IPV6, &v6);
        let layout = Layout::of(&whole).unwrap();
        assert_eq!((layout.transport, layout.protocol, layout.fragment), (14 + 40 + 32, TCP, true));
        for len in 0..whole.len() {
            let cut = Layout::of(&whole[..len]);
            assert_eq!(cut.is_some(), len >= layout.transport, "{len} bytes");
            if let Some(cut) = cut {
                cut.addresses(&whole[..len]);
                cut.ports(&whole[..len]);
            }
        }
    }

    #[test]
    fn a_header_of_endless_extensions_is_no_packet() {
        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, HOP_BY_HOP, 64];
        v6.extend([0; 32 + 8 * 100]);
        assert_eq!(Layout::of(&ethernet(IPV6, &v6)), None);
    }

    #[test]
    fn tags_are_stepped_over_and_the_outer_one_is_the_id() {
        let mut v4 = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
        v4.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0, 54, 0, 8, 0, 0]);
        let mut tagged = vec![0x61, 0x23, 8, 0];
        tagged.extend(&v4);
        let frame = ethernet(VLAN, &tagged);
        assert_eq!((vlan(&frame), vlan(&ethernet(IPV4, &v4))), (Some(0x123), None));
        let layout = Layout::of(&frame).unwrap();
        assert_eq!(layout.ports(&frame), Some(&[0, 53, 0, 54]));
        assert_eq!(layout.addresses(&frame), [10, 0, 0, 1, 10, 0, 0, 2]);
    }
}
