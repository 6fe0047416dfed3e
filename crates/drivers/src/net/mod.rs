//! A network driver (5.1).
//!
//! [`NetDriver`] registers on a bus and hands each device that it takes to its owner as a [`Net`]: for each
//! pair of queues an [`RxQueue`] and a [`TxQueue`], which can go to different threads, a [`ControlQueue`] if
//! the device has one, and the [`Link`].
//!
//! | what | how |
//! |---|---|
//! | frames | owned [`Frame`]s, in memory that the device reaches. The header goes into the headroom before a frame, so that a frame is one descriptor; a frame without headroom gets a header of its own |
//! | received frames | are the buffers that the device filled, one or, with MRG_RXBUF, several. [`RxQueue::recycle`] puts them back into the ring, or they are sent on as they are |
//! | offloads | an [`Offload`] with each frame, both ways: checksum, segmentation, and on receive the hash |
//! | control | each command has a deadline, and its answer is checked |
//!
//! No frame costs an allocation once the queues are warm.

mod control;
mod driver;
mod error;
mod frame;
mod info;
mod offload;
#[cfg(feature = "smoltcp")]
mod phy;
mod rss;
mod rx;
#[cfg(feature = "smoltcp")]
mod sum;
mod tx;

pub use control::{ControlQueue, DataQueue, RxMode};
pub use driver::{Link, Net, NetDevice, NetDriver, Options, Pair, open};
pub use error::{
    BadArgument, BadFrame, BadOffload, ControlError, Error, RecvError, SendBatchError, SendCopyError,
    SendError, SendErrorKind,
};
pub use frame::Frame;
pub use info::{HashLimits, Info, RssLimits};
pub use offload::{Checksum, Hash, Offload, Protocol, Segmentation};
#[cfg(feature = "smoltcp")]
pub use phy::{Phy, PhyRxToken, PhyTxToken};
pub use rss::{DEFAULT_KEY, Rss};
pub use rx::{Received, RxQueue};
pub use tx::TxQueue;
pub use virtio_kit::spec::net::{Coalesce, Duplex, GuestOffloads, HashReport, HashTypes};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header: no frame is shorter.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;
/// Bytes of the longest frame that a device may coalesce (5.1.9.3).
pub const MAX_FRAME: usize = 65589;
