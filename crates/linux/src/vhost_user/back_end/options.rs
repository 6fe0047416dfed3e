//! What a back-end offers.

use virtio_kit_spec::{F, Features};

use crate::vhost_user::codec::ProtocolFeatures;

/// Ring features that the transport carries.
///
/// Not: NOTIFICATION_DATA (an event descriptor carries no data), RING_RESET (no message for it), ACCESS_PLATFORM
/// (addresses would go through the IOTLB messages), ORDER_PLATFORM (both ends are processes).
pub const RING_FEATURES: Features =
    F::INDIRECT_DESC.union(F::EVENT_IDX).union(F::VERSION_1).union(F::RING_PACKED).union(F::IN_ORDER);

/// Protocol features that the back-end implements.
pub const IMPLEMENTED: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::INFLIGHT_SHMFD)
    .union(ProtocolFeatures::LOG_SHMFD)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(ProtocolFeatures::STATUS);

/// What to offer to front-ends, and how much to let them ask for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ring features to offer; only those of [`RING_FEATURES`] ever are.
    pub ring_features: Features,
    /// Protocol features to offer; only those of [`IMPLEMENTED`] ever are. Front-ends such as QEMU take whatever
    /// is offered.
    pub protocol: ProtocolFeatures,
    /// Most descriptors of a queue. No message tells front-ends, so this is no limit of the device but of the
    /// memory that a queue may cost here.
    pub max_queue_size: u16,
    /// Most memory regions at a time.
    pub max_regions: u16,
}

impl Default for Options {
    /// Everything; queues of up to 1024, which is the most that QEMU's devices have, and 509 regions.
    fn default() -> Self {
        Self { ring_features: RING_FEATURES, protocol: IMPLEMENTED, max_queue_size: 1024, max_regions: 509 }
    }
}
