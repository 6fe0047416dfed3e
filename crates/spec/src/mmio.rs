//! MMIO transport (4.2): register offsets in bytes. All registers are 32 bits wide and little-endian.

/// What [`MAGIC_VALUE`] reads: "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// What [`VERSION`] reads on a device of this document.
pub const VERSION_MODERN: u32 = 2;
/// What [`VERSION`] reads on a legacy device (4.2.4).
pub const VERSION_LEGACY: u32 = 1;

/// [`MAGIC`]; read.
#[doc(alias = "VIRTIO_MMIO_MAGIC_VALUE")]
pub const MAGIC_VALUE: usize = 0x000;
/// [`VERSION_MODERN`] or [`VERSION_LEGACY`]; read.
#[doc(alias = "VIRTIO_MMIO_VERSION")]
pub const VERSION: usize = 0x004;
/// [`DeviceId`](crate::DeviceId); zero means nothing here, to be skipped silently; read.
#[doc(alias = "VIRTIO_MMIO_DEVICE_ID")]
pub const DEVICE_ID: usize = 0x008;
/// Subsystem vendor id; read.
#[doc(alias = "VIRTIO_MMIO_VENDOR_ID")]
pub const VENDOR_ID: usize = 0x00c;
/// 32 offered features; read.
#[doc(alias = "VIRTIO_MMIO_DEVICE_FEATURES")]
pub const DEVICE_FEATURES: usize = 0x010;
/// Which 32 bits [`DEVICE_FEATURES`] shows; write.
#[doc(alias = "VIRTIO_MMIO_DEVICE_FEATURES_SEL")]
pub const DEVICE_FEATURES_SEL: usize = 0x014;
/// 32 accepted features; write.
#[doc(alias = "VIRTIO_MMIO_DRIVER_FEATURES")]
pub const DRIVER_FEATURES: usize = 0x020;
/// Which 32 bits [`DRIVER_FEATURES`] sets; write.
#[doc(alias = "VIRTIO_MMIO_DRIVER_FEATURES_SEL")]
pub const DRIVER_FEATURES_SEL: usize = 0x024;
/// The queue that the queue registers are about; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_SEL")]
pub const QUEUE_SEL: usize = 0x030;
/// Largest number of entries, zero if there is no such queue; read.
#[doc(alias = "VIRTIO_MMIO_QUEUE_NUM_MAX")]
pub const QUEUE_SIZE_MAX: usize = 0x034;
/// Number of entries; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_NUM")]
pub const QUEUE_SIZE: usize = 0x038;
/// 1 if the queue may be used; read and write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_READY")]
pub const QUEUE_READY: usize = 0x044;
/// Queue index, or [`NotificationData`](crate::notify::NotificationData); write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_NOTIFY")]
pub const QUEUE_NOTIFY: usize = 0x050;
/// [`INTERRUPT_QUEUE`], [`INTERRUPT_CONFIG`]; read.
#[doc(alias = "VIRTIO_MMIO_INTERRUPT_STATUS")]
pub const INTERRUPT_STATUS: usize = 0x060;
/// The bits of [`INTERRUPT_STATUS`] that were handled; write.
#[doc(alias = "VIRTIO_MMIO_INTERRUPT_ACK")]
pub const INTERRUPT_ACK: usize = 0x064;
/// [`Status`](crate::Status), zero resets; read and write.
#[doc(alias = "VIRTIO_MMIO_STATUS")]
pub const STATUS: usize = 0x070;
/// Device address of the descriptor area, low half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_DESC_LOW")]
pub const QUEUE_DESC_LOW: usize = 0x080;
/// Device address of the descriptor area, high half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_DESC_HIGH")]
pub const QUEUE_DESC_HIGH: usize = 0x084;
/// Device address of the driver area, low half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_AVAIL_LOW")]
pub const QUEUE_DRIVER_LOW: usize = 0x090;
/// Device address of the driver area, high half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_AVAIL_HIGH")]
pub const QUEUE_DRIVER_HIGH: usize = 0x094;
/// Device address of the device area, low half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_USED_LOW")]
pub const QUEUE_DEVICE_LOW: usize = 0x0a0;
/// Device address of the device area, high half; write.
#[doc(alias = "VIRTIO_MMIO_QUEUE_USED_HIGH")]
pub const QUEUE_DEVICE_HIGH: usize = 0x0a4;
/// The shared memory region that the following registers are about; write.
#[doc(alias = "VIRTIO_MMIO_SHM_SEL")]
pub const SHM_SEL: usize = 0x0ac;
/// Length of the region in bytes, low half; all ones in both halves if there is none; read.
#[doc(alias = "VIRTIO_MMIO_SHM_LEN_LOW")]
pub const SHM_LEN_LOW: usize = 0x0b0;
/// Length of the region in bytes, high half; read.
#[doc(alias = "VIRTIO_MMIO_SHM_LEN_HIGH")]
pub const SHM_LEN_HIGH: usize = 0x0b4;
/// Physical address of the region, low half; all ones in both halves if there is none; read.
#[doc(alias = "VIRTIO_MMIO_SHM_BASE_LOW")]
pub const SHM_BASE_LOW: usize = 0x0b8;
/// Physical address of the region, high half; read.
#[doc(alias = "VIRTIO_MMIO_SHM_BASE_HIGH")]
pub const SHM_BASE_HIGH: usize = 0x0bc;
/// 1 starts a queue reset and reads 1 until it is done (`RING_RESET`); read and write.
pub const QUEUE_RESET: usize = 0x0c0;
/// Changes with the configuration; read.
#[doc(alias = "VIRTIO_MMIO_CONFIG_GENERATION")]
pub const CONFIG_GENERATION: usize = 0x0fc;
/// Configuration of the device type, in accesses of the fields' own width; read and write.
#[doc(alias = "VIRTIO_MMIO_CONFIG")]
pub const CONFIG: usize = 0x100;

/// Interrupt bit: a queue was used.
#[doc(alias = "VIRTIO_MMIO_INT_VRING")]
pub const INTERRUPT_QUEUE: u32 = 1;
/// Interrupt bit: the configuration changed.
#[doc(alias = "VIRTIO_MMIO_INT_CONFIG")]
pub const INTERRUPT_CONFIG: u32 = 2;

/// What the length and the base of a shared memory region that does not exist read.
pub const SHM_NONE: u64 = u64::MAX;

/// Registers that only legacy devices have (4.2.4); the others of theirs are above, up to [`STATUS`], and [`CONFIG`].
pub mod legacy {
    /// Size of a guest page in bytes, a power of two; write.
    #[doc(alias = "VIRTIO_MMIO_GUEST_PAGE_SIZE")]
    pub const GUEST_PAGE_SIZE: usize = 0x028;
    /// Alignment of the used ring in bytes, a power of two; write.
    #[doc(alias = "VIRTIO_MMIO_QUEUE_ALIGN")]
    pub const QUEUE_ALIGN: usize = 0x03c;
    /// Guest page number of the queue, zero when not in use; read and write.
    #[doc(alias = "VIRTIO_MMIO_QUEUE_PFN")]
    pub const QUEUE_PFN: usize = 0x040;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_is_virt() {
        assert_eq!(MAGIC.to_le_bytes(), *b"virt");
    }

    #[test]
    fn registers_are_words_in_rising_order_below_the_configuration() {
        let all = [
            MAGIC_VALUE,
            VERSION,
            DEVICE_ID,
            VENDOR_ID,
            DEVICE_FEATURES,
            DEVICE_FEATURES_SEL,
            DRIVER_FEATURES,
            DRIVER_FEATURES_SEL,
            legacy::GUEST_PAGE_SIZE,
            QUEUE_SEL,
            QUEUE_SIZE_MAX,
            QUEUE_SIZE,
            legacy::QUEUE_ALIGN,
            legacy::QUEUE_PFN,
            QUEUE_READY,
            QUEUE_NOTIFY,
            INTERRUPT_STATUS,
            INTERRUPT_ACK,
            STATUS,
            QUEUE_DESC_LOW,
            QUEUE_DESC_HIGH,
            QUEUE_DRIVER_LOW,
            QUEUE_DRIVER_HIGH,
            QUEUE_DEVICE_LOW,
            QUEUE_DEVICE_HIGH,
            SHM_SEL,
            SHM_LEN_LOW,
            SHM_LEN_HIGH,
            SHM_BASE_LOW,
            SHM_BASE_HIGH,
            QUEUE_RESET,
            CONFIG_GENERATION,
            CONFIG,
        ];
        assert!(all.iter().all(|offset| offset % 4 == 0));
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(CONFIG, 0x100);
    }
}
