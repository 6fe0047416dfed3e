//! PCI transport (4.1): capabilities, register layouts, interrupt numbers. Vendor and device ids are in
//! [`device_id`](crate::device_id).

use zerocopy::little_endian::{U16, U32, U64};

/// Capability id of vendor-specific PCI capabilities (4.1.4).
#[doc(alias = "PCI_CAP_ID_VNDR")]
pub const CAP_ID_VENDOR: u8 = 0x09;

/// The largest BAR number a capability may name; others are reserved (4.1.4).
pub const MAX_BAR: u8 = 5;

codes! {
/// What a virtio capability locates (4.1.4).
pub struct CapType: u8 {
    /// Common configuration: [`CommonCfg`].
    COMMON_CFG = 1 "VIRTIO_PCI_CAP_COMMON_CFG",
    /// Notifications: [`NotifyCap`].
    NOTIFY_CFG = 2 "VIRTIO_PCI_CAP_NOTIFY_CFG",
    /// Interrupt status: [`ISR_QUEUE`], [`ISR_CONFIG`].
    ISR_CFG = 3 "VIRTIO_PCI_CAP_ISR_CFG",
    /// Configuration of the device type.
    DEVICE_CFG = 4 "VIRTIO_PCI_CAP_DEVICE_CFG",
    /// Window into the BARs through PCI configuration space: [`CfgCap`].
    PCI_CFG = 5 "VIRTIO_PCI_CAP_PCI_CFG",
    /// Shared memory region: [`Cap64`], its id in `id`.
    SHARED_MEMORY_CFG = 8 "VIRTIO_PCI_CAP_SHARED_MEMORY_CFG",
    /// Data of a vendor: [`VendorData`].
    VENDOR_CFG = 9 "VIRTIO_PCI_CAP_VENDOR_CFG",
}
}

wire! {
/// A virtio capability (4.1.4).
#[doc(alias = "virtio_pci_cap")]
pub struct Cap: 16 {
    /// [`CAP_ID_VENDOR`].
    pub cap_vndr: u8,
    /// Offset of the next capability in configuration space.
    pub cap_next: u8,
    /// Length of this capability in bytes, extra data included. May be longer than known.
    pub cap_len: u8,
    /// [`CapType`].
    pub cfg_type: u8,
    /// BAR number, 0 to [`MAX_BAR`].
    pub bar: u8,
    /// Tells several capabilities of one type apart.
    pub id: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// Offset in the BAR, bytes.
    pub offset: U32,
    /// Length in the BAR, bytes.
    pub length: U32,
}

/// A capability with 64-bit offset and length (4.1.4).
#[doc(alias = "virtio_pci_cap64")]
pub struct Cap64: 24 {
    /// The low halves.
    pub cap: Cap,
    /// High half of the offset.
    pub offset_hi: U32,
    /// High half of the length.
    pub length_hi: U32,
}

/// Notification capability (4.1.4.4).
#[doc(alias = "virtio_pci_notify_cap")]
pub struct NotifyCap: 20 {
    /// Where notifications are.
    pub cap: Cap,
    /// Bytes by which `queue_notify_off` is multiplied; zero is legal.
    pub notify_off_multiplier: U32,
}

/// Configuration access capability (4.1.4.9).
#[doc(alias = "virtio_pci_cfg_cap")]
pub struct CfgCap: 20 {
    /// `bar`, `offset` and `length` (1, 2 or 4) are writable here.
    pub cap: Cap,
    /// The window: reading or writing it accesses the BAR.
    pub pci_cfg_data: [u8; 4],
}

/// Head of a vendor data capability (4.1.4.8). The whole is a multiple of 4 bytes.
#[doc(alias = "virtio_pci_vndr_data")]
pub struct VendorData: 6 {
    /// [`CAP_ID_VENDOR`].
    pub cap_vndr: u8,
    /// Offset of the next capability in configuration space.
    pub cap_next: u8,
    /// Length of this capability in bytes.
    pub cap_len: u8,
    /// [`CapType::VENDOR_CFG`].
    pub cfg_type: u8,
    /// Whose format follows; not 0x1af4.
    pub vendor_id: U16,
}

/// Common configuration (4.1.4.3). Registers are accessed one by one, at the offsets in [`common`].
#[doc(alias = "virtio_pci_common_cfg")]
pub struct CommonCfg: 64 {
    /// Which 32 bits `device_feature` shows.
    pub device_feature_select: U32,
    /// Offered features; read-only for the driver.
    pub device_feature: U32,
    /// Which 32 bits `driver_feature` shows.
    pub driver_feature_select: U32,
    /// Accepted features.
    pub driver_feature: U32,
    /// MSI-X vector for configuration changes, or [`NO_VECTOR`].
    pub config_msix_vector: U16,
    /// Number of queues, administration queues not counted; read-only for the driver.
    pub num_queues: U16,
    /// [`Status`](crate::Status); zero resets.
    pub device_status: u8,
    /// Changes with the configuration; read-only for the driver.
    pub config_generation: u8,
    /// The queue that the following registers are about.
    pub queue_select: U16,
    /// Entries: on reset the maximum, zero if there is no such queue.
    pub queue_size: U16,
    /// MSI-X vector of the queue, or [`NO_VECTOR`].
    pub queue_msix_vector: U16,
    /// 1 if enabled. The driver never writes 0.
    pub queue_enable: U16,
    /// Notification offset, in units of the multiplier; read-only for the driver.
    pub queue_notify_off: U16,
    /// Device address of the descriptor area.
    pub queue_desc: U64,
    /// Device address of the driver area.
    pub queue_driver: U64,
    /// Device address of the device area.
    pub queue_device: U64,
    /// What to write instead of the queue index with `NOTIF_CONFIG_DATA`; read-only for the driver.
    pub queue_notif_config_data: U16,
    /// 1 starts a queue reset and reads 1 until it is done (`RING_RESET`).
    pub queue_reset: U16,
    /// Index of the first administration queue (`ADMIN_VQ`); read-only for the driver.
    pub admin_queue_index: U16,
    /// Number of administration queues (`ADMIN_VQ`); read-only for the driver.
    pub admin_queue_num: U16,
}
}

impl Cap64 {
    /// Offset in the BAR, bytes.
    pub const fn offset(&self) -> u64 {
        self.cap.offset.get() as u64 | (self.offset_hi.get() as u64) << 32
    }

    /// Length in the BAR, bytes.
    pub const fn length(&self) -> u64 {
        self.cap.length.get() as u64 | (self.length_hi.get() as u64) << 32
    }
}

/// Offsets of the common configuration registers in bytes (4.1.4.3). 64-bit ones may be written in halves.
pub mod common {
    /// 32 bits, read and write.
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// 32 bits, read.
    pub const DEVICE_FEATURE: usize = 0x04;
    /// 32 bits, read and write.
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// 32 bits, read and write.
    pub const DRIVER_FEATURE: usize = 0x0c;
    /// 16 bits, read and write.
    pub const CONFIG_MSIX_VECTOR: usize = 0x10;
    /// 16 bits, read.
    pub const NUM_QUEUES: usize = 0x12;
    /// 8 bits, read and write.
    pub const DEVICE_STATUS: usize = 0x14;
    /// 8 bits, read.
    pub const CONFIG_GENERATION: usize = 0x15;
    /// 16 bits, read and write.
    pub const QUEUE_SELECT: usize = 0x16;
    /// 16 bits, read and write.
    pub const QUEUE_SIZE: usize = 0x18;
    /// 16 bits, read and write.
    pub const QUEUE_MSIX_VECTOR: usize = 0x1a;
    /// 16 bits, read and write.
    pub const QUEUE_ENABLE: usize = 0x1c;
    /// 16 bits, read.
    pub const QUEUE_NOTIFY_OFF: usize = 0x1e;
    /// 64 bits, read and write.
    pub const QUEUE_DESC: usize = 0x20;
    /// 64 bits, read and write.
    pub const QUEUE_DRIVER: usize = 0x28;
    /// 64 bits, read and write.
    pub const QUEUE_DEVICE: usize = 0x30;
    /// 16 bits, read. With `NOTIF_CONFIG_DATA`.
    pub const QUEUE_NOTIF_CONFIG_DATA: usize = 0x38;
    /// 16 bits, read and write. With `RING_RESET`.
    pub const QUEUE_RESET: usize = 0x3a;
    /// 16 bits, read. With `ADMIN_VQ`.
    pub const ADMIN_QUEUE_INDEX: usize = 0x3c;
    /// 16 bits, read. With `ADMIN_VQ`.
    pub const ADMIN_QUEUE_NUM: usize = 0x3e;
    /// Bytes up to `queue_notif_config_data`: what a device of version 1.0 has.
    pub const MIN_SIZE: usize = 0x38;
}

/// Offsets of the legacy registers in the I/O BAR 0, in bytes (4.1.4.10). Guest-native endianness in the device
/// configuration, little-endian here.
pub mod legacy {
    /// Feature bits 0 to 31 offered, 32 bits, read.
    #[doc(alias = "VIRTIO_PCI_HOST_FEATURES")]
    pub const DEVICE_FEATURES: usize = 0x00;
    /// Feature bits 0 to 31 accepted, 32 bits, read and write.
    #[doc(alias = "VIRTIO_PCI_GUEST_FEATURES")]
    pub const DRIVER_FEATURES: usize = 0x04;
    /// Page number of the queue, in units of 4096 bytes, 32 bits, read and write.
    #[doc(alias = "VIRTIO_PCI_QUEUE_PFN")]
    pub const QUEUE_ADDRESS: usize = 0x08;
    /// Entries of the queue, 16 bits, read.
    #[doc(alias = "VIRTIO_PCI_QUEUE_NUM")]
    pub const QUEUE_SIZE: usize = 0x0c;
    /// The queue that the others are about, 16 bits, read and write.
    #[doc(alias = "VIRTIO_PCI_QUEUE_SEL")]
    pub const QUEUE_SELECT: usize = 0x0e;
    /// Queue index to notify, 16 bits, read and write.
    #[doc(alias = "VIRTIO_PCI_QUEUE_NOTIFY")]
    pub const QUEUE_NOTIFY: usize = 0x10;
    /// [`Status`](crate::Status), 8 bits, read and write.
    #[doc(alias = "VIRTIO_PCI_STATUS")]
    pub const DEVICE_STATUS: usize = 0x12;
    /// Interrupt status, 8 bits, read.
    #[doc(alias = "VIRTIO_PCI_ISR")]
    pub const ISR_STATUS: usize = 0x13;
    /// MSI-X vector for configuration changes, 16 bits. Only while MSI-X is enabled.
    #[doc(alias = "VIRTIO_MSI_CONFIG_VECTOR")]
    pub const CONFIG_MSIX_VECTOR: usize = 0x14;
    /// MSI-X vector of the queue, 16 bits. Only while MSI-X is enabled.
    #[doc(alias = "VIRTIO_MSI_QUEUE_VECTOR")]
    pub const QUEUE_MSIX_VECTOR: usize = 0x16;
    /// Configuration of the device type while MSI-X is disabled.
    pub const CONFIG: usize = 0x14;
    /// Configuration of the device type while MSI-X is enabled.
    pub const CONFIG_WITH_MSIX: usize = 0x18;
    /// Bytes in a page of [`QUEUE_ADDRESS`].
    pub const PAGE_SIZE: usize = 4096;
}

/// Interrupt status: a queue was used (4.1.4.5). Reading the status clears it.
pub const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration changed; set under MSI-X too.
#[doc(alias = "VIRTIO_PCI_ISR_CONFIG")]
pub const ISR_CONFIG: u8 = 2;

/// "No vector": no interrupt wanted, or, read back, none could be had (4.1.5.1.2).
#[doc(alias = "VIRTIO_MSI_NO_VECTOR")]
pub const NO_VECTOR: u16 = 0xffff;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn capability_fields_are_where_the_document_has_them() {
        assert_eq!([offset_of!(Cap, cfg_type), offset_of!(Cap, bar), offset_of!(Cap, id)], [3, 4, 5]);
        assert_eq!([offset_of!(Cap, offset), offset_of!(Cap, length)], [8, 12]);
        assert_eq!([offset_of!(Cap64, offset_hi), offset_of!(Cap64, length_hi)], [16, 20]);
        assert_eq!(offset_of!(NotifyCap, notify_off_multiplier), 16);
        assert_eq!(offset_of!(CfgCap, pci_cfg_data), 16);
    }

    #[test]
    fn common_offsets_are_those_of_the_struct() {
        macro_rules! same {
            ($($field:ident $offset:ident)*) => {
                $( assert_eq!(offset_of!(CommonCfg, $field), common::$offset, stringify!($field)); )*
            };
        }
        same! {
            device_feature_select DEVICE_FEATURE_SELECT
            device_feature DEVICE_FEATURE
            driver_feature_select DRIVER_FEATURE_SELECT
            driver_feature DRIVER_FEATURE
            config_msix_vector CONFIG_MSIX_VECTOR
            num_queues NUM_QUEUES
            device_status DEVICE_STATUS
            config_generation CONFIG_GENERATION
            queue_select QUEUE_SELECT
            queue_size QUEUE_SIZE
            queue_msix_vector QUEUE_MSIX_VECTOR
            queue_enable QUEUE_ENABLE
            queue_notify_off QUEUE_NOTIFY_OFF
            queue_desc QUEUE_DESC
            queue_driver QUEUE_DRIVER
            queue_device QUEUE_DEVICE
            queue_notif_config_data QUEUE_NOTIF_CONFIG_DATA
            queue_reset QUEUE_RESET
            admin_queue_index ADMIN_QUEUE_INDEX
            admin_queue_num ADMIN_QUEUE_NUM
        }
    }

    #[test]
    fn wide_capabilities_join_their_halves() {
        let cap = Cap { offset: 2.into(), length: 3.into(), ..Cap::default() };
        let cap = Cap64 { cap, offset_hi: 1.into(), length_hi: 4.into() };
        assert_eq!((cap.offset(), cap.length()), (0x1_0000_0002, 0x4_0000_0003));
    }
}
