//! Test frames: each carries pieces with a number and a checksum of their own, and is a packet that any network
//! would carry, so that devices find in it what they look for.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use virtio_kit_drivers::net::{Checksum, ETHERNET_HEADER, Mac, Offload, Protocol, Segmentation};

/// Bytes of the shortest frame, without what the wire adds.
pub(crate) const SHORTEST: usize = 60;
/// Bytes of the longest packet: its length has 16 bits.
pub(crate) const LONGEST: usize = ETHERNET_HEADER + 65535;
/// Bytes of the shortest frame with offloads.
pub(crate) const SHORTEST_OFFLOADED: usize = TCP_START + TCP_HEADER + PIECE;

/// The port that test frames go to.
const PORT: u16 = 0x88b5;
/// The lowest port that they come from; one for each pair of queues.
const FROM: u16 = 0x8000;

const TCP: u8 = 6;
const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const TCP_START: usize = ETHERNET_HEADER + IP_HEADER;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// What a piece begins with: its number in 8 bytes, the pair of queues that it is from and its length in 2 each, and
/// the CRC-32 of these and of what follows in 4.
const PIECE: usize = 16;

/// Whether a frame, of which the first bytes will do, is one.
pub(crate) fn is_one(start: &[u8]) -> bool {
    start.len() >= TCP_START + 4
        && start[12..15] == [0x08, 0x00, 0x45]
        && (start[23] == TCP || start[23] == UDP)
        && start[TCP_START + 2..TCP_START + 4] == PORT.to_be_bytes()
}

/// Makes the frames that one pair of queues sends.
pub(crate) struct Maker {
    pair: u16,
    offloads: bool,
    /// Bytes of the longest piece.
    most: usize,
    header: [u8; TCP_START + TCP_HEADER],
    /// What pieces are filled from, at another place each.
    noise: Box<[u8]>,
}

/// The start of the part of the noise that is used differs by up to so much.
const SHIFTS: u64 = 1 << 14;

impl Maker {
    /// With `offloads` they are TCP whose checksum is left to the device, cut into packets of `mtu` bytes by it if they
    /// are longer; without them UDP without a checksum.
    pub(crate) fn new(
        pair: u16,
        from: (Mac, Ipv4Addr),
        to: (Mac, Ipv4Addr),
        mtu: u16,
        offloads: bool,
    ) -> Self {
        let mut header = [0; TCP_START + TCP_HEADER];
        header[..6].copy_from_slice(&to.0);
        header[6..12].copy_from_slice(&from.0);
        header[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        header[22..24].copy_from_slice(&[64, if offloads { TCP } else { UDP }]);
        header[26..30].copy_from_slice(&from.1.octets());
        header[30..34].copy_from_slice(&to.1.octets());
        header[34..36].copy_from_slice(&FROM.wrapping_add(pair).to_be_bytes());
        header[36..38].copy_from_slice(&PORT.to_be_bytes());
        // ACK, and a window that is open.
        header[46..50].copy_from_slice(&[5 << 4, 0x10, 0xff, 0xff]);
        let most = usize::from(mtu).saturating_sub(IP_HEADER + TCP_HEADER).max(PIECE);
        let mut state = u64::from(pair);
        let noise = (0..LONGEST + SHIFTS as usize).map(|_| crate::demo::content::random(&mut state) as u8);
        Self { pair, offloads, most, header, noise: noise.collect() }
    }

    /// The length that a frame of about `len` bytes has, and its pieces.
    pub(crate) fn shape(&self, len: usize) -> (usize, u64) {
        let headers = self.headers();
        let data = len.clamp(headers + PIECE, LONGEST) - headers;
        if !self.offloads || data <= self.most {
            return (headers + data, 1);
        }
        match data % self.most {
            0 => (headers + data, (data / self.most) as u64),
            rest if rest < PIECE => (headers + data - rest, (data / self.most) as u64),
            _ => (headers + data, (data / self.most) as u64 + 1),
        }
    }

    fn headers(&self) -> usize {
        TCP_START + if self.offloads { TCP_HEADER } else { UDP_HEADER }
    }

    /// Writes a frame whose first piece has this number into bytes that have the length of a [`shape`](Self::shape);
    /// what is left to do for it.
    pub(crate) fn fill(&self, number: u64, bytes: &mut [u8]) -> Offload {
        let headers = self.headers();
        let (head, mut rest) = bytes.split_at_mut(headers);
        head.copy_from_slice(&self.header[..headers]);
        let ip_len = (headers - ETHERNET_HEADER + rest.len()) as u16;
        head[16..18].copy_from_slice(&ip_len.to_be_bytes());
        let sum = !fold(sum_of(&head[ETHERNET_HEADER..TCP_START]));
        head[24..26].copy_from_slice(&sum.to_be_bytes());
        let segments = rest.len() > self.most;
        let mut offload = Offload::default();
        let segment = ip_len - IP_HEADER as u16;
        if self.offloads {
            head[38..42].copy_from_slice(&(number as u32).to_be_bytes());
            // The sum of the pseudo header; the device does the rest.
            let pseudo = fold(sum_of(&head[26..34]) + u64::from(TCP) + u64::from(segment));
            head[50..52].copy_from_slice(&pseudo.to_be_bytes());
            offload.checksum = Checksum::Partial { start: TCP_START as u16, offset: 16 };
            offload.segmentation = NonZeroU16::new(self.most as u16).filter(|_| segments).map(|size| {
                Segmentation { protocol: Protocol::Tcp4, ecn: false, size, header_len: headers as u16 }
            });
        } else {
            head[38..40].copy_from_slice(&segment.to_be_bytes());
        }
        let most = if self.offloads { self.most } else { rest.len() };
        let mut number = number;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at_mut(most.min(rest.len()));
            self.fill_piece(number, piece);
            (number, rest) = (number + 1, more);
        }
        offload
    }

    fn fill_piece(&self, number: u64, piece: &mut [u8]) {
        let len = piece.len() as u16;
        let (head, body) = piece.split_at_mut(PIECE.min(piece.len()));
        let shift = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % SHIFTS;
        body.copy_from_slice(&self.noise[shift as usize..][..body.len()]);
        head[..8].copy_from_slice(&number.to_le_bytes());
        head[8..10].copy_from_slice(&self.pair.to_le_bytes());
        head[10..12].copy_from_slice(&len.to_le_bytes());
        let sum = crc(&head[..12], body);
        head[12..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// A piece that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) pair: u16,
    pub(crate) number: u64,
}

/// What is wrong with a test frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// Hands the pieces of a test frame to `each`; `false` if it is none.
pub(crate) fn look(frame: &[u8], offload: &Offload, mut each: impl FnMut(Piece)) -> Result<bool, Corrupt> {
    if !is_one(frame) {
        return Ok(false);
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let headers = if frame[23] == TCP { TCP_HEADER } else { UDP_HEADER };
    let packet = frame.get(ETHERNET_HEADER..ETHERNET_HEADER + total).ok_or(Corrupt)?;
    let mut rest = packet.get(IP_HEADER + headers..).ok_or(Corrupt)?;
    if fold(sum_of(&packet[..IP_HEADER])) != 0xffff {
        return Err(Corrupt);
    }
    // A checksum that is there must be right, whoever has made it.
    if frame[23] == TCP && offload.checksum == Checksum::Full {
        let segment = &packet[IP_HEADER..];
        let sum = sum_of(&packet[12..IP_HEADER]) + u64::from(TCP) + segment.len() as u64 + sum_of(segment);
        if fold(sum) != 0xffff {
            return Err(Corrupt);
        }
    }
    while !rest.is_empty() {
        let head = rest.first_chunk::<PIECE>().ok_or(Corrupt)?;
        let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let (piece, more) = rest.split_at_checked(word(10).into()).ok_or(Corrupt)?;
        let sum = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        if piece.len() < PIECE || crc(&head[..12], &piece[PIECE..]) != sum {
            return Err(Corrupt);
        }
        let [a, b, c, d, e, f, g, h, ..] = *head;
        each(Piece { pair: word(8), number: u64::from_le_bytes([a, b, c, d, e, f, g, h]) });
        rest = more;
    }
    Ok(true)
}

fn crc(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

/// The sum of a piece of a packet that begins at an even place, not folded.
fn sum_of(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks();
    let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    whole + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

/// The sum in 16 bits, carries added.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket, UdpPacket};

    const A: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1));
    const B: (Mac, Ipv4Addr) = ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 0, 0, 2));

    fn pieces(frame: &[u8], offload: &Offload) -> Result<Vec<Piece>, Corrupt> {
        let mut all = Vec::new();
        look(frame, offload, |piece| all.push(piece)).map(|is_one| if is_one { all } else { vec![] })
    }

    #[test]
    fn frames_are_what_they_should_be_for_anybody_and_their_pieces_come_out() {
        for offloads in [false, true] {
            let maker = Maker::new(3, A, B, 1500, offloads);
            for len in (60..3000).chain([9000, 20_000, 65_000, LONGEST]) {
                let (len, count) = maker.shape(len);
                let mut frame = vec![0; len];
                let offload = maker.fill(7, &mut frame);
                let expected: Vec<_> = (7..7 + count).map(|number| Piece { pair: 3, number }).collect();
                assert_eq!(pieces(&frame, &offload), Ok(expected), "{len}");
                assert_eq!(offload.segmentation.is_some(), count > 1);
                let ethernet = EthernetFrame::new_checked(&frame).unwrap();
                let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
                assert!(ip.verify_checksum());
                assert_eq!(ip.total_len() as usize, len - 14);
                if offloads {
                    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
                    let Checksum::Partial { start, offset } = offload.checksum else { panic!("{offload:?}") };
                    let mut summed = tcp.into_inner().to_vec();
                    let sum = !fold(sum_of(&summed));
                    summed[usize::from(offset)..][..2].copy_from_slice(&sum.to_be_bytes());
                    assert_eq!(start, 34);
                    let tcp = TcpPacket::new_checked(&summed).unwrap();
                    assert!(tcp.verify_checksum(&A.1.into(), &B.1.into()));
                } else {
                    UdpPacket::new_checked(ip.payload()).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_damaged_byte_is_found_wherever_it_is() {
        let maker = Maker::new(0, A, B, 1500, false);
        let mut frame = vec![0; 200];
        let offload = maker.fill(1, &mut frame);
        // Ports are nobody's business but those who look for them.
        for at in (14..34).chain(42..200) {
            let mut damaged = frame.clone();
            damaged[at] ^= 4;
            assert!(pieces(&damaged, &offload).is_err() || !is_one(&damaged), "{at}");
        }
        for len in 0..200 {
            assert!(matches!(pieces(&frame[..len], &offload), Err(Corrupt)) || len < 38, "{len}");
        }
    }
}
