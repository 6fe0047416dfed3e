//! Configuration space.

use zerocopy::little_endian::{U16, U32, U64};

wire! {
/// Configuration (5.2.4).
#[doc(alias = "virtio_blk_config")]
pub struct Config: 96 {
    /// Size of the device in sectors.
    pub capacity: U64,
    /// Largest segment in bytes, with `SIZE_MAX`.
    pub size_max: U32,
    /// Most data segments in a request, with `SEG_MAX`.
    pub seg_max: U32,
    /// With `GEOMETRY`.
    pub geometry: Geometry,
    /// Bytes in a logical block, for best speed, with `BLK_SIZE`.
    pub blk_size: U32,
    /// With `TOPOLOGY`.
    pub topology: Topology,
    /// 1 for a write-back cache, 0 for write-through, with `CONFIG_WCE`. The driver may write it.
    pub writeback: u8,
    /// Zero.
    pub unused0: u8,
    /// Number of request queues, with `MQ`.
    pub num_queues: U16,
    /// Most sectors in a discard segment, with `DISCARD`.
    pub max_discard_sectors: U32,
    /// Most segments in a discard request, with `DISCARD`.
    pub max_discard_seg: U32,
    /// Alignment for splitting discard requests, in sectors, with `DISCARD`.
    pub discard_sector_alignment: U32,
    /// Most sectors in a write zeroes segment, with `WRITE_ZEROES`.
    pub max_write_zeroes_sectors: U32,
    /// Most segments in a write zeroes request, with `WRITE_ZEROES`.
    pub max_write_zeroes_seg: U32,
    /// 1 if a write zeroes request with the unmap flag may deallocate, with `WRITE_ZEROES`.
    pub write_zeroes_may_unmap: u8,
    /// Zero.
    pub unused1: [u8; 3],
    /// Most sectors in a secure erase segment, with `SECURE_ERASE`.
    pub max_secure_erase_sectors: U32,
    /// Most segments in a secure erase request, with `SECURE_ERASE`.
    pub max_secure_erase_seg: U32,
    /// Alignment for splitting secure erase requests, in sectors, with `SECURE_ERASE`.
    pub secure_erase_sector_alignment: U32,
    /// With `ZONED`.
    pub zoned: ZonedCharacteristics,
}

/// Disk geometry (5.2.4).
#[doc(alias = "virtio_blk_geometry")]
pub struct Geometry: 4 {
    /// Cylinders.
    pub cylinders: U16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// Best alignment and sizes for requests (5.2.4).
#[doc(alias = "virtio_blk_topology")]
pub struct Topology: 8 {
    /// Logical blocks per physical block, as an exponent of two.
    pub physical_block_exp: u8,
    /// Offset of the first aligned logical block, in logical blocks.
    pub alignment_offset: u8,
    /// Smallest good request, in logical blocks.
    pub min_io_size: U16,
    /// Best, and suggested largest, request, in logical blocks.
    pub opt_io_size: U32,
}

/// Characteristics of a zoned device (5.2.4).
#[doc(alias = "virtio_blk_zoned_characteristics")]
pub struct ZonedCharacteristics: 24 {
    /// Size of a zone in sectors; only the last may be smaller.
    pub zone_sectors: U32,
    /// Most open zones; zero for no limit.
    pub max_open_zones: U32,
    /// Most active zones; zero for no limit.
    pub max_active_zones: U32,
    /// Most sectors in a zone append request; zero if there are none.
    pub max_append_sectors: U32,
    /// Unit of writes to sequential zones, in bytes.
    pub write_granularity: U32,
    /// [`ZonedModel`].
    pub model: u8,
    /// Zero.
    pub unused2: [u8; 3],
}
}

codes! {
/// Model of a zoned device (5.2.4).
pub struct ZonedModel: u8 {
    /// To be used as if not zoned.
    NONE = 0 "VIRTIO_BLK_Z_NONE",
    /// Host-managed: sequential writes are required.
    HM = 1 "VIRTIO_BLK_Z_HM",
    /// Host-aware: sequential writes are preferred.
    HA = 2 "VIRTIO_BLK_Z_HA",
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_document() {
        macro_rules! at {
            ($($field:ident $offset:literal)*) => {
                $( assert_eq!(offset_of!(Config, $field), $offset, stringify!($field)); )*
            };
        }
        at! {
            capacity 0
            size_max 8
            seg_max 12
            geometry 16
            blk_size 20
            topology 24
            writeback 32
            num_queues 34
            max_discard_sectors 36
            max_discard_seg 40
            discard_sector_alignment 44
            max_write_zeroes_sectors 48
            max_write_zeroes_seg 52
            write_zeroes_may_unmap 56
            max_secure_erase_sectors 60
            max_secure_erase_seg 64
            secure_erase_sector_alignment 68
            zoned 72
        }
        assert_eq!(offset_of!(ZonedCharacteristics, model), 20);
        assert_eq!(offset_of!(Topology, opt_io_size), 4);
    }
}
