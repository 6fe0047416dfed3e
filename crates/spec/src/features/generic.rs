//! The device-independent bits.

feature_bits! {
/// Device-independent feature bits (6, 6.3).
pub enum F {
    /// Notify when the device runs out of available buffers even if notifications are suppressed. Legacy only.
    NOTIFY_ON_EMPTY = 24 "VIRTIO_F_NOTIFY_ON_EMPTY",
    /// The device accepts any descriptor layout. Legacy only; always so with [`VERSION_1`](Self::VERSION_1).
    ANY_LAYOUT = 27 "VIRTIO_F_ANY_LAYOUT",
    /// Indirect descriptor tables (2.7.5.3, 2.8.7).
    INDIRECT_DESC = 28 "VIRTIO_F_INDIRECT_DESC",
    /// Notification suppression by event index (2.7.7, 2.7.10, 2.8.10).
    EVENT_IDX = 29 "VIRTIO_F_EVENT_IDX",
    /// The interface of version 1.0 and later, not the legacy one.
    VERSION_1 = 32 "VIRTIO_F_VERSION_1",
    /// Device addresses are those of the platform (IOMMU, limited access), not guest-physical ones.
    #[doc(alias = "VIRTIO_F_IOMMU_PLATFORM")]
    ACCESS_PLATFORM = 33 "VIRTIO_F_ACCESS_PLATFORM",
    /// Packed ring layout (2.8).
    RING_PACKED = 34 "VIRTIO_F_RING_PACKED",
    /// Buffers are used in the order in which they were made available (2.7.9, 2.8.8).
    IN_ORDER = 35 "VIRTIO_F_IN_ORDER",
    /// Memory accesses are ordered as the platform's devices need, not as between CPUs.
    ORDER_PLATFORM = 36 "VIRTIO_F_ORDER_PLATFORM",
    /// Single root I/O virtualization. PCI only.
    SR_IOV = 37 "VIRTIO_F_SR_IOV",
    /// Available buffer notifications carry the ring position (2.9).
    NOTIFICATION_DATA = 38 "VIRTIO_F_NOTIFICATION_DATA",
    /// Available buffer notifications carry a value that the device chose instead of the queue index. PCI only.
    NOTIF_CONFIG_DATA = 39 "VIRTIO_F_NOTIF_CONFIG_DATA",
    /// Queues can be reset one by one (2.6.1).
    RING_RESET = 40 "VIRTIO_F_RING_RESET",
    /// Administration virtqueues (2.13). PCI only. On legacy network devices the number means something else.
    ADMIN_VQ = 41 "VIRTIO_F_ADMIN_VQ",
    /// The driver can suspend the device (3.4).
    SUSPEND = 43 "VIRTIO_F_SUSPEND",
}
}
