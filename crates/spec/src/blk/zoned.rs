//! Zone requests (5.2.6).

use zerocopy::little_endian::U64;

wire! {
/// What a zone append request ends with, device-writable (5.2.6).
#[doc(alias = "virtio_blk_req_za")]
pub struct ZoneAppendTrailer: 9 {
    /// Where the data went, in sectors.
    pub append_sector: U64,
    /// [`Status`](super::Status).
    pub status: u8,
}

/// What a zone report starts with; [`ZoneDescriptor`]s follow (5.2.6).
#[doc(alias = "virtio_blk_zone_report")]
pub struct ZoneReportHeader: 64 {
    /// Number of descriptors that follow.
    pub nr_zones: U64,
    /// Zero.
    pub reserved: [u8; 56],
}

/// A zone (5.2.6).
#[doc(alias = "virtio_blk_zone_descriptor")]
pub struct ZoneDescriptor: 64 {
    /// Usable sectors.
    pub z_cap: U64,
    /// First sector.
    pub z_start: U64,
    /// Write pointer: the sector to write next.
    pub z_wp: U64,
    /// [`ZoneType`].
    pub z_type: u8,
    /// [`ZoneState`].
    pub z_state: u8,
    /// Zero.
    pub reserved: [u8; 38],
}
}

codes! {
/// Type of a zone (5.2.6).
pub struct ZoneType: u8 {
    /// Conventional: any order of writes.
    CONV = 1 "VIRTIO_BLK_ZT_CONV",
    /// Sequential writes required.
    SWR = 2 "VIRTIO_BLK_ZT_SWR",
    /// Sequential writes preferred.
    SWP = 3 "VIRTIO_BLK_ZT_SWP",
}

/// State of a zone (5.2.6).
pub struct ZoneState: u8 {
    /// No write pointer: a conventional zone.
    NOT_WP = 0 "VIRTIO_BLK_ZS_NOT_WP",
    /// Empty.
    EMPTY = 1 "VIRTIO_BLK_ZS_EMPTY",
    /// Opened by a write.
    IOPEN = 2 "VIRTIO_BLK_ZS_IOPEN",
    /// Opened by a request.
    EOPEN = 3 "VIRTIO_BLK_ZS_EOPEN",
    /// Closed.
    CLOSED = 4 "VIRTIO_BLK_ZS_CLOSED",
    /// Can only be read.
    RDONLY = 13 "VIRTIO_BLK_ZS_RDONLY",
    /// Full.
    FULL = 14 "VIRTIO_BLK_ZS_FULL",
    /// Lost.
    OFFLINE = 15 "VIRTIO_BLK_ZS_OFFLINE",
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn descriptor_offsets() {
        assert_eq!([offset_of!(ZoneDescriptor, z_wp), offset_of!(ZoneDescriptor, z_type)], [16, 24]);
        assert_eq!(offset_of!(ZoneDescriptor, reserved), 26);
        assert_eq!(offset_of!(ZoneAppendTrailer, status), 8);
    }
}
