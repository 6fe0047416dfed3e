//! Who talks to whom, and in which way.

use core::fmt;
use virtio_kit_spec::Features;
use virtio_kit_spec::vsock::{F, Type};

/// The port that means any port, and so is nobody's.
pub const PORT_ANY: u32 = u32::MAX;

/// An end's address (5.10.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Context id: which machine.
    pub cid: u64,
    /// Which service there.
    pub port: u32,
}

impl Address {
    /// An address.
    pub const fn new(cid: u64, port: u32) -> Self {
        Self { cid, port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cid, self.port)
    }
}

/// What a connection carries (5.10.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bytes.
    Stream,
    /// Messages, with their boundaries.
    Seqpacket,
}

impl Kind {
    pub(super) fn of(kind: Type) -> Option<Self> {
        match kind {
            Type::STREAM => Some(Self::Stream),
            Type::SEQPACKET => Some(Self::Seqpacket),
            _ => None,
        }
    }

    pub(super) fn code(self) -> Type {
        match self {
            Self::Stream => Type::STREAM,
            Self::Seqpacket => Type::SEQPACKET,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Seqpacket => "seqpacket",
        })
    }
}

/// Which kinds were agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Streams.
    pub stream: bool,
    /// Messages.
    pub seqpacket: bool,
}

impl Kinds {
    /// What these features mean (5.10.3): streams are there without a bit, unless NO_IMPLIED_STREAM says otherwise.
    pub fn of(features: Features) -> Self {
        Self {
            stream: features.contains(F::STREAM) || !features.contains(F::NO_IMPLIED_STREAM),
            seqpacket: features.contains(F::SEQPACKET),
        }
    }

    /// Whether this kind is among them.
    pub fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Stream => self.stream,
            Kind::Seqpacket => self.seqpacket,
        }
    }
}
