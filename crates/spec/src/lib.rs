//! Names and layouts of the OASIS virtio 1.4 document, and nothing else.
//!
//! Both ends of a queue use these definitions: no logic lives here beyond accessors, and nothing allocates.
//! Names follow the document by rule: `VIRTIO_NET_F_CSUM` is [`net::F::CSUM`], `struct virtio_blk_config` is
//! [`blk::Config`]. The C name is a doc alias, so searching for it finds the item.
//!
//! | section | what | module |
//! |---|---|---|
//! | 2.1 | device status | [`status`]: [`Status`] |
//! | 2.2, 6 | feature bits, their names and what each requires | [`features`]: [`Features`], [`F`] |
//! | 2.7 | split ring | [`split`] |
//! | 2.8 | packed ring | [`packed`] |
//! | 2.9 | notification data | [`notify`] |
//! | 4.1 | PCI capabilities and registers | [`pci`] |
//! | 4.2 | MMIO registers | [`mmio`] |
//! | 5 | device ids | [`device_id`]: [`DeviceId`] |
//! | 5.1 | network | [`net`] |
//! | 5.2 | block | [`blk`] |
//! | 5.3 | console | [`console`] |
//! | 5.4 | entropy | [`entropy`] |
//! | 5.10 | socket | [`vsock`] |
//!
//! Three kinds of items, each recognisable at sight:
//!
//! - *Wire structs* ([`net::Config`], [`blk::RequestHeader`]) have little-endian fields ([`le`]), alignment 1 and a
//!   size asserted at compile time; [`zerocopy`] turns them into bytes and back.
//! - *Codes* ([`DeviceId`], [`blk::RequestType`]) are open newtypes over the integer on the wire: any value can be
//!   held, known ones are constants that can be matched and have a `name()`.
//! - *Sets* ([`Features`], [`Status`], [`net::HeaderFlags`]) combine with `|`; unknown bits survive a round trip.
//!
//! ```
//! use virtio_kit_spec::{DeviceId, F, Features, blk, features};
//!
//! let offered = F::VERSION_1 | blk::F::FLUSH | blk::F::CONFIG_WCE;
//! assert!(offered.contains(blk::F::FLUSH));
//! assert_eq!(offered.word(1), 1);
//! assert_eq!(features::name(DeviceId::BLOCK, 9), Some("FLUSH"));
//! assert_eq!(features::unmet(offered, DeviceId::BLOCK), None);
//! assert!(features::unmet(Features::EMPTY | F::RING_PACKED, DeviceId::BLOCK).is_some());
//! ```

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[macro_use]
mod macros;

pub mod device_id;
pub mod features;
pub mod status;

pub mod notify;
pub mod packed;
pub mod split;

pub mod mmio;
pub mod pci;

pub mod blk;
pub mod console;
pub mod entropy;
pub mod net;
pub mod vsock;

pub use device_id::DeviceId;
pub use features::{F, Features};
pub use status::Status;

/// The crate that turns wire structs into bytes and back.
pub use zerocopy;
/// Little-endian integers, the fields of wire structs.
pub use zerocopy::little_endian as le;
