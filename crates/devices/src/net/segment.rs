//! Cutting a packet into segments, each with headers of its own.

use super::checksum;
use super::frame::{SegmentKind, Segmentation};
use super::packet::{Ip, Layout, TCP, UDP, be16};

/// Most bytes of headers that are copied for each segment.
pub(super) const MAX_HEADERS: usize = 256;
/// Most segments of a packet: a full one with the smallest segment that TCP uses in practice, 48 bytes. A
/// driver that asks for more makes others work for it.
const MAX_SEGMENTS: usize = 1366;

const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER: usize = 8;
/// FIN and PSH, which belong to the last segment.
const LAST_FLAGS: u8 = 0x09;
/// CWR, which belongs to the first one.
const FIRST_FLAGS: u8 = 0x80;

/// The packet's headers are not what its segmentation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How a packet is cut. Made of one frame, and good for that only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    layout: Layout,
    /// Bytes of all headers.
    headers: usize,
    size: usize,
    payload: usize,
}

/// The headers of a segment.
pub(super) struct Headers([u8; MAX_HEADERS]);

impl Plan {
    /// Goes through a packet's headers.
    pub(super) fn new(frame: &[u8], segmentation: Segmentation) -> Result<Self, Malformed> {
        let layout = Layout::of(frame).filter(|layout| !layout.fragment).ok_or(Malformed)?;
        let right = match segmentation.kind {
            SegmentKind::TcpV4 => layout.ip == Ip::V4 && layout.protocol == TCP,
            SegmentKind::TcpV6 => layout.ip == Ip::V6 && layout.protocol == TCP,
            SegmentKind::Udp => layout.protocol == UDP,
        };
        let transport_header = match segmentation.kind {
            SegmentKind::Udp => UDP_HEADER,
            _ => usize::from(frame.get(layout.transport + 12).ok_or(Malformed)? >> 4) * 4,
        };
        let headers = layout.transport + transport_header;
        let size = usize::from(segmentation.size);
        let sane = right
            && size > 0
            && (segmentation.kind == SegmentKind::Udp || transport_header >= 20)
            && headers <= frame.len().min(MAX_HEADERS);
        let plan = Self { layout, headers, size, payload: frame.len().saturating_sub(headers) };
        if sane && plan.count() <= MAX_SEGMENTS { Ok(plan) } else { Err(Malformed) }
    }

    /// Bytes of headers before the payload.
    pub(super) fn headers(&self) -> usize {
        self.headers
    }

    /// Where the transport header begins, which is where checksumming does.
    pub(super) fn transport(&self) -> usize {
        self.layout.transport
    }

    /// Where the checksum field is, from there.
    pub(super) fn checksum_offset(&self) -> usize {
        if self.layout.protocol == UDP { UDP_CHECKSUM } else { TCP_CHECKSUM }
    }

    pub(super) fn is_v6(&self) -> bool {
        self.layout.ip == Ip::V6
    }

    /// How many segments there are: at least one.
    pub(super) fn count(&self) -> usize {
        self.payload.div_ceil(self.size.max(1)).max(1)
    }

    /// Length of a segment's payload in bytes.
    fn payload_of(&self, index: usize) -> usize {
        self.payload.saturating_sub(index * self.size).min(self.size)
    }

    /// Length of a segment in bytes.
    pub(super) fn len_of(&self, index: usize) -> usize {
        self.headers + self.payload_of(index)
    }

    /// The two parts of a segment: its headers, made in `space`, and its payload in the frame.
    pub(super) fn segment<'a>(&self, frame: &'a [u8], index: usize, space: &'a mut Headers) -> [&'a [u8]; 2] {
        let start = (self.headers + index * self.size).min(frame.len());
        let payload = &frame[start..(start + self.payload_of(index)).min(frame.len())];
        let headers = &mut space.0[..self.headers];
        headers.copy_from_slice(&frame[..self.headers]);
        self.network_header(headers, index, payload.len());
        self.transport_header(headers, index, payload);
        [headers, payload]
    }

    fn network_header(&self, headers: &mut [u8], index: usize, payload: usize) {
        let at = self.layout.network;
        let len = self.headers - at + payload;
        match self.layout.ip {
            Ip::V4 => {
                let header = &mut headers[at..self.layout.transport];
                put(header, 2, len as u16);
                let id = be16(header, 4).unwrap_or(0).wrapping_add(index as u16);
                put(header, 4, id);
                put(header, 10, 0);
                let checksum = checksum::of_sum(checksum::sum(header));
                put(header, 10, checksum);
            }
            Ip::V6 => put(headers, at + 4, (len - 40) as u16),
        }
    }

    fn transport_header(&self, headers: &mut [u8], index: usize, payload: &[u8]) {
        let len = self.headers - self.layout.transport + payload.len();
        let pseudo = checksum::pseudo_header(headers, &self.layout, self.layout.protocol, len);
        let offset = self.checksum_offset();
        let header = &mut headers[self.layout.transport..];
        if self.layout.protocol == UDP {
            put(header, UDP_LENGTH, len as u16);
        } else {
            if let Some(field) = header[TCP_SEQUENCE..].first_chunk_mut::<4>() {
                let ahead = (index * self.size) as u32;
                *field = u32::from_be_bytes(*field).wrapping_add(ahead).to_be_bytes();
            }
            if index > 0 {
                header[TCP_FLAGS] &= !FIRST_FLAGS;
            }
            if index + 1 < self.count() {
                header[TCP_FLAGS] &= !LAST_FLAGS;
            }
        }
        put(header, offset, 0);
        // A transport header's length is even, so the payload's words are where they were.
        let sum = pseudo + checksum::sum(header) + checksum::sum(payload);
        put(header, offset, checksum::of_sum(sum));
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self([0; MAX_HEADERS])
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
