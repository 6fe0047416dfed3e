//! Ethernet frames on their way, with what is left to be done to them.

use alloc::boxed::Box;
use alloc::vec;
use virtio_kit::device::{Chain, OutOfBounds, Segments};
use virtio_kit::spec::net::HashReport;

/// Most bytes of a frame without its header: what a receive buffer of 65562 bytes holds (5.1.9.3.1).
pub const MAX_FRAME: usize = 65550;
/// Length of an Ethernet header, and of the shortest frame taken, in bytes.
pub const ETHERNET_HEADER: usize = 14;

/// What is left to be done to a frame, or has been done already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// The packet is to be cut into segments before it reaches a real network.
    pub segmentation: Option<Segmentation>,
}

/// The state of a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame; nobody has looked.
    #[default]
    Unchecked,
    /// Somebody has checked it.
    Valid,
    /// Its field holds the sum of the pseudo header only.
    Partial {
        /// Where summing begins, in bytes from the start of the frame.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
    },
}

/// How a packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// By which protocol.
    pub kind: SegmentKind,
    /// Bytes of payload in each segment but the last. Not 0.
    pub size: u16,
    /// A TCP segment with congestion window reduced (CWR), which only the first segment keeps.
    pub ecn: bool,
}

/// The protocol of a packet that is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either: each segment is a datagram of its own.
    Udp,
}

/// The hash of a packet, as receive-side scaling computes it (5.1.9.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The hash.
    pub value: u32,
    /// What it was made of.
    pub report: HashReport,
}

/// A frame in private memory, waiting to be received.
#[derive(Debug)]
pub struct Frame {
    bytes: Box<[u8]>,
    len: usize,
    /// What is left to be done to it.
    pub offload: Offload,
    /// Its hash, if somebody has computed it.
    pub hash: Option<Hash>,
    /// Segments of it that the driver has already.
    pub(super) delivered: usize,
}

impl Frame {
    /// Space for a frame of up to `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::in_space(vec![0; capacity].into(), 0)
    }

    /// The first `len` bytes of `bytes`.
    pub(super) fn in_space(bytes: Box<[u8]>, len: usize) -> Self {
        let len = len.min(bytes.len());
        Self { bytes, len, offload: Offload::default(), hash: None, delivered: 0 }
    }

    /// The space, to be used again.
    pub(super) fn into_space(self) -> Box<[u8]> {
        self.bytes
    }

    /// Makes this another frame: the first bytes of the space, as many as `fill` says that it wrote.
    pub fn refill(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) {
        self.len = fill(&mut self.bytes).min(self.bytes.len());
        (self.offload, self.hash, self.delivered) = (Offload::default(), None, 0);
    }

    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The frame, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// A frame that a driver sends, still in its chain.
///
/// The driver may change it at any time. What was checked of it is in private memory: its length and
/// `offload`, which names bytes inside the frame, and a segment size above 0 only with a partial checksum.
#[derive(Debug)]
pub struct Outgoing {
    chain: Chain,
    header: usize,
    /// What is left to be done to it.
    pub offload: Offload,
}

impl Outgoing {
    /// A frame after `header` bytes of `chain`, which has that many.
    pub(super) fn new(chain: Chain, header: usize, offload: Offload) -> Self {
        Self { chain, header, offload }
    }

    /// Length in bytes: from 14 to [`MAX_FRAME`].
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.chain.readable_len() - self.header
    }

    /// Copies bytes of the frame from `offset` on, filling `to`.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        self.chain.read_at(self.header + offset, to)
    }

    /// Where the frame lies, for whoever can pass that on.
    pub fn segments(&self) -> Result<Segments<'_>, OutOfBounds> {
        self.chain.readable_range(self.header, self.len())
    }

    /// The chain, to be given back once the frame is sent.
    pub fn into_chain(self) -> Chain {
        self.chain
    }
}
