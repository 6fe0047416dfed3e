//! Block device (5.2). A sector is 512 bytes in every field, whatever `blk_size` says.

mod config;
mod request;
mod zoned;

pub use config::{Config, Geometry, Topology, ZonedCharacteristics, ZonedModel};
pub use request::{
    BARRIER, DiscardFlags, DiscardWriteZeroes, Lifetime, PreEolInfo, RequestHeader, RequestType,
    SCSI_SENSE_SIZE, ScsiTrailer, Status,
};
pub use zoned::{ZoneAppendTrailer, ZoneDescriptor, ZoneReportHeader, ZoneState, ZoneType};

use crate::F as Generic;
use crate::features::Dependency;

/// Bytes in a sector (5.2.6).
pub const SECTOR: usize = 512;
/// Bytes in a device id string: NUL-padded, without a NUL if it has full length (5.2.6).
#[doc(alias = "VIRTIO_BLK_ID_BYTES")]
pub const ID_LEN: usize = 20;

feature_bits! {
/// Feature bits (5.2.3, 5.2.3.1).
pub enum F {
    /// Request barriers. Legacy only.
    BARRIER = 0 "VIRTIO_BLK_F_BARRIER",
    /// `size_max` is valid.
    SIZE_MAX = 1 "VIRTIO_BLK_F_SIZE_MAX",
    /// `seg_max` is valid.
    SEG_MAX = 2 "VIRTIO_BLK_F_SEG_MAX",
    /// `geometry` is valid.
    GEOMETRY = 4 "VIRTIO_BLK_F_GEOMETRY",
    /// Read-only.
    RO = 5 "VIRTIO_BLK_F_RO",
    /// `blk_size` is valid.
    BLK_SIZE = 6 "VIRTIO_BLK_F_BLK_SIZE",
    /// SCSI commands. Legacy only.
    SCSI = 7 "VIRTIO_BLK_F_SCSI",
    /// [`RequestType::FLUSH`].
    #[doc(alias = "VIRTIO_BLK_F_WCE")]
    FLUSH = 9 "VIRTIO_BLK_F_FLUSH",
    /// `topology` is valid.
    TOPOLOGY = 10 "VIRTIO_BLK_F_TOPOLOGY",
    /// `writeback` is valid and can be written.
    CONFIG_WCE = 11 "VIRTIO_BLK_F_CONFIG_WCE",
    /// `num_queues` is valid.
    MQ = 12 "VIRTIO_BLK_F_MQ",
    /// [`RequestType::DISCARD`].
    DISCARD = 13 "VIRTIO_BLK_F_DISCARD",
    /// [`RequestType::WRITE_ZEROES`].
    WRITE_ZEROES = 14 "VIRTIO_BLK_F_WRITE_ZEROES",
    /// [`RequestType::GET_LIFETIME`].
    LIFETIME = 15 "VIRTIO_BLK_F_LIFETIME",
    /// [`RequestType::SECURE_ERASE`].
    SECURE_ERASE = 16 "VIRTIO_BLK_F_SECURE_ERASE",
    /// A zoned device.
    ZONED = 17 "VIRTIO_BLK_F_ZONED",
}
}

/// What the bits require: no zones on a legacy device (5.2.5.2).
pub const DEPENDENCIES: &[Dependency] =
    &[Dependency { feature: F::ZONED, requires_any_of: Generic::VERSION_1 }];

/// What an offer requires, beyond [`DEPENDENCIES`] (5.2.5.2). The driver may accept `CONFIG_WCE` without `FLUSH`.
pub const OFFER_DEPENDENCIES: &[Dependency] =
    &[Dependency { feature: F::CONFIG_WCE, requires_any_of: F::FLUSH }];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{unmet, unmet_offer};
    use crate::{DeviceId, Features};

    #[test]
    fn zoned_needs_version_1() {
        assert!(unmet(F::ZONED, DeviceId::BLOCK).is_some());
        assert_eq!(unmet(F::ZONED | Generic::VERSION_1, DeviceId::BLOCK), None);
    }

    #[test]
    fn config_wce_is_offered_only_with_flush_but_may_be_accepted_alone() {
        assert_eq!(unmet_offer(F::CONFIG_WCE, DeviceId::BLOCK).unwrap().requires_any_of, F::FLUSH);
        assert_eq!(unmet_offer(F::CONFIG_WCE | F::FLUSH, DeviceId::BLOCK), None);
        assert_eq!(unmet(F::CONFIG_WCE, DeviceId::BLOCK), None);
    }

    #[test]
    fn bits_have_the_numbers_of_the_document() {
        let all: Features = F::NAMES.iter().map(|entry| Features::bit(entry.0)).collect();
        assert_eq!(all.bits(), 0x3fef7 & !(1 << 8));
    }
}
