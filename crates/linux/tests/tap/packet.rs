//! Packets that the kernel takes for real.

use virtio_kit_drivers::net::Mac;

pub const MAC: Mac = [2, 0, 0, 0, 0, 0x10];
pub const OTHER: Mac = [2, 0, 0, 0, 0, 0x20];

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub v6: bool,
    pub udp: bool,
    pub to: Mac,
    pub source_port: u16,
    pub payload: usize,
}

/// Ones' complement sum.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

impl Packet {
    /// Where the transport begins.
    pub fn start(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 }
    }

    /// Where its checksum is from there.
    pub fn offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    pub fn headers(&self) -> usize {
        self.start() + if self.udp { 8 } else { 20 }
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    /// The sum of the pseudo header of a segment with `payload` bytes.
    fn pseudo(&self, frame: &[u8], payload: usize) -> u16 {
        let addresses = if self.v6 { &frame[22..54] } else { &frame[26..34] };
        let len = (self.headers() - self.start() + payload) as u16;
        sum(&[addresses, &[0, self.protocol()], &len.to_be_bytes()])
    }

    /// The frame, whose transport checksum is that of the pseudo header only.
    pub fn partial(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(OTHER);
        let transport = (self.headers() - self.start() + self.payload) as u16;
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(transport.to_be_bytes());
            frame.extend([self.protocol(), 64]);
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        } else {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + transport).to_be_bytes());
            frame.extend([0, 1, 0, 0, 64, self.protocol(), 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let check = !sum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
        }
        frame.extend(self.source_port.to_be_bytes());
        frame.extend([0, 80]);
        if self.udp {
            frame.extend(transport.to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
        }
        frame.extend((0..self.payload).map(|at| (at * 31 + at / 256) as u8));
        let at = self.start() + self.offset();
        let pseudo = self.pseudo(&frame, self.payload);
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        frame
    }

    /// Whether the transport checksum of a frame of `payload` bytes of data is right.
    pub fn is_whole(&self, frame: &[u8], payload: usize) -> bool {
        let pseudo = self.pseudo(frame, payload);
        sum(&[&pseudo.to_be_bytes(), &frame[self.start()..]]) == 0xffff
    }

    /// What the hash of TCP or UDP is made of: addresses and ports.
    pub fn flow(&self) -> Vec<u8> {
        let frame = self.partial();
        let addresses = if self.v6 { &frame[22..54] } else { &frame[26..34] };
        [addresses, &frame[self.start()..self.start() + 4]].concat()
    }
}

/// The hash that receive-side scaling uses.
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window = |at: usize| (0..32).fold(0u32, |value, i| value << 1 | u32::from(bit(key, at + i)));
    (0..input.len() * 8).filter(|&at| bit(input, at)).fold(0, |hash, at| hash ^ window(at))
}
