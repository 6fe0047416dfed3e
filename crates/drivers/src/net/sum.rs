//! The Internet checksum of TCP and UDP, for stacks that leave it to the device.

use super::ETHERNET_HEADER;
use super::offload::{Checksum, Protocol, Segmentation};
use core::num::NonZeroU16;

/// The transport layer of a frame that has a checksum of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    /// Where it begins, from the start of the frame.
    start: usize,
    /// Where it ends.
    end: usize,
    /// Where its checksum is, from `start`.
    offset: usize,
    /// The sum of the pseudo header, not folded.
    pseudo: u64,
    is_udp: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The sum of a piece of a packet that begins at an even place, not folded.
pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks();
    let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    whole + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

/// The sum in 16 bits, carries added.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

impl Transport {
    /// The transport layer of an Ethernet frame, if it is whole TCP or UDP over IP without anything in between.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET_HEADER..)?;
        let (protocol, header, total, addresses) = match *frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = usize::from(packet.first()? & 0xf) * 4;
                let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
                // More fragments, or not the first one: the sum is that of the whole datagram.
                if header < 20 || packet[0] >> 4 != 4 || word(6)? & 0x3fff != 0 {
                    return None;
                }
                (*packet.get(9)?, header, usize::from(word(2)?), packet.get(12..20)?)
            }
            [0x86, 0xdd] => {
                let payload = u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]);
                (*packet.get(6)?, 40, 40 + usize::from(payload), packet.get(8..40)?)
            }
            _ => return None,
        };
        let (offset, least) = match protocol {
            TCP => (16, 20),
            UDP => (6, 8),
            _ => return None,
        };
        if total < header + least || total > packet.len() {
            return None;
        }
        let pseudo = sum_of(addresses) + u64::from(protocol) + (total - header) as u64;
        let start = ETHERNET_HEADER + header;
        Some(Self { start, end: ETHERNET_HEADER + total, offset, pseudo, is_udp: protocol == UDP })
    }

    /// Whether the checksum in the frame is right. UDP may have none over IPv4, and stacks refuse it over IPv6.
    pub(super) fn is_right(&self, frame: &[u8]) -> bool {
        let Some(segment) = frame.get(self.start..self.end) else { return false };
        let none = self.is_udp && segment.get(self.offset..self.offset + 2) == Some(&[0, 0]);
        none || fold(self.pseudo + sum_of(segment)) == 0xffff
    }

    /// How TCP is to be cut for packets of `mtu` bytes; `None` if it is not TCP, or its headers leave no room.
    pub(super) fn segmentation(&self, frame: &[u8], mtu: u16) -> Option<Segmentation> {
        if self.is_udp {
            return None;
        }
        let headers = self.start + usize::from(frame.get(self.start + 12)? >> 4) * 4;
        let payload = usize::from(mtu).checked_sub(headers - ETHERNET_HEADER)?;
        let protocol = if frame.get(12..14)? == [0x08, 0x00] { Protocol::Tcp4 } else { Protocol::Tcp6 };
        let size = NonZeroU16::new(payload.try_into().ok()?)?;
        Some(Segmentation { protocol, ecn: false, size, header_len: headers.try_into().ok()? })
    }

    /// Puts the sum of the pseudo header where the checksum goes; what is left to do. The frame must end with the
    /// segment, or the device would sum what comes after it.
    pub(super) fn make_partial(&self, frame: &mut [u8]) -> Checksum {
        let at = self.start + self.offset;
        let Some(place) = frame.get_mut(at..at + 2) else { return Checksum::Full };
        place.copy_from_slice(&fold(self.pseudo).to_be_bytes());
        Checksum::Partial { start: self.start as u16, offset: self.offset as u16 }
    }
}
