//! Requests: header, data of some types, status byte (5.2.6).

use zerocopy::little_endian::{U16, U32, U64};

wire! {
/// What a request starts with, device-readable (5.2.6). Data follow, then the status byte, device-writable and last.
#[doc(alias = "virtio_blk_req")]
pub struct RequestHeader: 16 {
    /// [`RequestType`].
    #[doc(alias = "type")]
    pub kind: U32,
    /// Zero; in legacy requests the I/O priority.
    #[doc(alias = "ioprio")]
    pub reserved: U32,
    /// Where to read or write, in sectors; zero where it means nothing.
    pub sector: U64,
}

/// A segment of a discard, write zeroes or secure erase request (5.2.6).
#[doc(alias = "virtio_blk_discard_write_zeroes")]
pub struct DiscardWriteZeroes: 16 {
    /// First sector.
    pub sector: U64,
    /// Number of sectors.
    pub num_sectors: U32,
    /// [`DiscardFlags`].
    pub flags: U32,
}

/// What [`RequestType::GET_LIFETIME`] reads (5.2.6).
#[doc(alias = "virtio_blk_lifetime")]
pub struct Lifetime: 6 {
    /// [`PreEolInfo`].
    pub pre_eol_info: U16,
    /// Wear of type A memory: 1 to 10 for each begun tenth of the lifetime, 11 beyond it, 0 if unknown.
    pub device_lifetime_est_typ_a: U16,
    /// Wear of type B memory, likewise.
    pub device_lifetime_est_typ_b: U16,
}

/// What a legacy SCSI request has between sense data and status byte, guest-native in the document (5.2.6.3).
#[doc(alias = "virtio_scsi_pc_req")]
pub struct ScsiTrailer: 16 {
    /// SCSI status, driver and host bytes.
    pub errors: U32,
    /// Length of the data in bytes.
    pub data_len: U32,
    /// Length of the sense data in bytes.
    pub sense_len: U32,
    /// Bytes not transferred.
    pub residual: U32,
}
}

/// Bytes of sense data in a legacy SCSI request (5.2.6.3).
#[doc(alias = "SCSI_SENSE_BUFFERSIZE")]
pub const SCSI_SENSE_SIZE: usize = 96;

/// Added to the type of a legacy request: a barrier, with [`F::BARRIER`](super::F::BARRIER) (5.2.6.3).
#[doc(alias = "VIRTIO_BLK_T_BARRIER")]
pub const BARRIER: u32 = 0x8000_0000;

codes! {
/// Request type (5.2.6, 5.2.6.3).
pub struct RequestType: u32 {
    /// Read.
    IN = 0 "VIRTIO_BLK_T_IN",
    /// Write.
    OUT = 1 "VIRTIO_BLK_T_OUT",
    /// SCSI command. Legacy only.
    SCSI_CMD = 2 "VIRTIO_BLK_T_SCSI_CMD",
    /// The same as [`SCSI_CMD`](Self::SCSI_CMD). Legacy only.
    SCSI_CMD_OUT = 3 "VIRTIO_BLK_T_SCSI_CMD_OUT",
    /// Make completed writes persistent.
    FLUSH = 4 "VIRTIO_BLK_T_FLUSH",
    /// The same as [`FLUSH`](Self::FLUSH). Legacy only.
    FLUSH_OUT = 5 "VIRTIO_BLK_T_FLUSH_OUT",
    /// Read the device id string of [`ID_LEN`](super::ID_LEN) bytes.
    GET_ID = 8 "VIRTIO_BLK_T_GET_ID",
    /// Read [`Lifetime`].
    GET_LIFETIME = 10 "VIRTIO_BLK_T_GET_LIFETIME",
    /// Discard [`DiscardWriteZeroes`] segments.
    DISCARD = 11 "VIRTIO_BLK_T_DISCARD",
    /// Write zeroes to [`DiscardWriteZeroes`] segments.
    WRITE_ZEROES = 13 "VIRTIO_BLK_T_WRITE_ZEROES",
    /// Erase [`DiscardWriteZeroes`] segments.
    SECURE_ERASE = 14 "VIRTIO_BLK_T_SECURE_ERASE",
    /// Write at the write pointer of a zone; [`ZoneAppendTrailer`](super::ZoneAppendTrailer) says where.
    ZONE_APPEND = 15 "VIRTIO_BLK_T_ZONE_APPEND",
    /// Read a [`ZoneReportHeader`](super::ZoneReportHeader) and descriptors.
    ZONE_REPORT = 16 "VIRTIO_BLK_T_ZONE_REPORT",
    /// Open a zone.
    ZONE_OPEN = 18 "VIRTIO_BLK_T_ZONE_OPEN",
    /// Close a zone.
    ZONE_CLOSE = 20 "VIRTIO_BLK_T_ZONE_CLOSE",
    /// Finish a zone: it becomes full.
    ZONE_FINISH = 22 "VIRTIO_BLK_T_ZONE_FINISH",
    /// Reset a zone: it becomes empty.
    ZONE_RESET = 24 "VIRTIO_BLK_T_ZONE_RESET",
    /// Reset all zones.
    ZONE_RESET_ALL = 26 "VIRTIO_BLK_T_ZONE_RESET_ALL",
}

/// The status byte (5.2.6).
pub struct Status: u8 {
    /// Done.
    OK = 0 "VIRTIO_BLK_S_OK",
    /// Failed.
    IOERR = 1 "VIRTIO_BLK_S_IOERR",
    /// Not supported by the device.
    UNSUPP = 2 "VIRTIO_BLK_S_UNSUPP",
    /// Not a valid zone request.
    ZONE_INVALID_CMD = 3 "VIRTIO_BLK_S_ZONE_INVALID_CMD",
    /// Not at the write pointer.
    ZONE_UNALIGNED_WP = 4 "VIRTIO_BLK_S_ZONE_UNALIGNED_WP",
    /// Too many open zones.
    ZONE_OPEN_RESOURCE = 5 "VIRTIO_BLK_S_ZONE_OPEN_RESOURCE",
    /// Too many active zones.
    ZONE_ACTIVE_RESOURCE = 6 "VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE",
}

/// How many of the reserved blocks are used up (5.2.6).
pub struct PreEolInfo: u16 {
    /// Unknown.
    UNDEFINED = 0 "VIRTIO_BLK_PRE_EOL_INFO_UNDEFINED",
    /// Less than 80 %.
    NORMAL = 1 "VIRTIO_BLK_PRE_EOL_INFO_NORMAL",
    /// 80 %.
    WARNING = 2 "VIRTIO_BLK_PRE_EOL_INFO_WARNING",
    /// 90 %.
    URGENT = 3 "VIRTIO_BLK_PRE_EOL_INFO_URGENT",
}
}

bitflags::bitflags! {
    /// Flags of [`DiscardWriteZeroes`] (5.2.6). Other bits are zero.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct DiscardFlags: u32 {
        /// Write zeroes only: the device may deallocate, if it then reads zeroes.
        #[doc(alias = "VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP")]
        const UNMAP = 1;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromBytes, IntoBytes};

    #[test]
    fn header_bytes_are_little_endian() {
        let header =
            RequestHeader { kind: RequestType::OUT.0.into(), reserved: 0.into(), sector: 0x0102.into() };
        let bytes = [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(header.as_bytes(), bytes);
        assert_eq!(RequestHeader::read_from_bytes(&bytes), Ok(header));
    }

    #[test]
    fn segment_bytes() {
        let flags = DiscardFlags::UNMAP.bits().into();
        let segment = DiscardWriteZeroes { sector: 8.into(), num_sectors: 2.into(), flags };
        assert_eq!(segment.as_bytes(), [8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn codes_have_names() {
        assert_eq!(RequestType(13).name(), Some("WRITE_ZEROES"));
        assert_eq!(RequestType(12).name(), None);
        assert_eq!(Status(6), Status::ZONE_ACTIVE_RESOURCE);
    }
}
