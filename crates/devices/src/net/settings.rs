//! What the driver has set through the control queue, and before that by negotiation.

use super::filter::Filter;
use super::hash::Hashing;
use alloc::vec::Vec;
use virtio_kit::Features;
use virtio_kit::spec::net::{F, GuestOffloads};

/// Everything that can be set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) filter: Filter,
    /// What the driver takes unfinished.
    pub(super) offloads: GuestOffloads,
    pub(super) spread: Spread,
}

/// How received frames are spread over queues, and hashed.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// Pairs in use.
    pub(super) pairs: u16,
    /// Receive-side scaling, if on; otherwise a flow is received where it was sent last.
    pub(super) table: Option<Table>,
    pub(super) hashing: Option<Hashing>,
}

/// The indirection table of receive-side scaling (5.1.9.5.7).
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Pairs by hash: a power of two of them.
    pub(super) entries: Vec<u16>,
    /// Where packets without a hash go.
    pub(super) unclassified: u16,
}

impl Settings {
    /// After negotiation, or before.
    pub(super) fn initial(mac: super::MacAddress, features: Features) -> Self {
        let mut offloads = GuestOffloads::empty();
        for (offload, feature) in OFFLOADS {
            if features.contains(feature) {
                offloads |= offload;
            }
        }
        Self {
            filter: Filter::initial(mac, features.contains(F::CTRL_VLAN)),
            offloads,
            spread: Spread { pairs: 1, table: None, hashing: None },
        }
    }
}

/// Offloads and the features that stand for them.
pub(super) const OFFLOADS: [(GuestOffloads, Features); 6] = [
    (GuestOffloads::CSUM, F::GUEST_CSUM),
    (GuestOffloads::TSO4, F::GUEST_TSO4),
    (GuestOffloads::TSO6, F::GUEST_TSO6),
    (GuestOffloads::ECN, F::GUEST_ECN),
    (GuestOffloads::USO4, F::GUEST_USO4),
    (GuestOffloads::USO6, F::GUEST_USO6),
];

impl Spread {
    /// Whether flows are received where they were sent, and there is a choice.
    #[inline]
    pub(super) fn follows_flows(&self) -> bool {
        self.table.is_none() && self.pairs > 1
    }

    /// Whether a frame's contents do not matter.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.hashing.is_none() && self.table.is_none() && self.pairs == 1
    }
}
