//! Protocol feature bits, and the two feature bits that vhost-user adds to virtio's.

/// Feature bit `VHOST_USER_F_PROTOCOL_FEATURES`: protocol features can be negotiated.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Feature bit `VHOST_F_LOG_ALL`: writes to memory are logged, for migration.
pub const F_LOG_ALL: u64 = 1 << 26;

bitflags::bitflags! {
    /// The `VHOST_USER_PROTOCOL_F_*` bits. Bits without a name are kept as they are.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ProtocolFeatures: u64 {
        /// The back-end tells how many queues it has.
        const MQ = 1 << 0;
        /// The dirty log is shared memory passed with `SET_LOG_BASE`.
        const LOG_SHMFD = 1 << 1;
        /// `SEND_RARP`.
        const RARP = 1 << 2;
        /// Any request can ask for an acknowledgement.
        const REPLY_ACK = 1 << 3;
        /// `NET_SET_MTU`.
        const MTU = 1 << 4;
        /// A channel for the back-end's own requests.
        const BACKEND_REQ = 1 << 5;
        /// `SET_VRING_ENDIAN`.
        const CROSS_ENDIAN = 1 << 6;
        /// The crypto session messages.
        const CRYPTO_SESSION = 1 << 7;
        /// The postcopy messages.
        const PAGEFAULT = 1 << 8;
        /// The configuration space messages.
        const CONFIG = 1 << 9;
        /// The back-end's requests may carry descriptors.
        const BACKEND_SEND_FD = 1 << 10;
        /// `BACKEND_VRING_HOST_NOTIFIER_MSG`.
        const HOST_NOTIFIER = 1 << 11;
        /// In-flight I/O tracking.
        const INFLIGHT_SHMFD = 1 << 12;
        /// `RESET_DEVICE`.
        const RESET_DEVICE = 1 << 13;
        /// Kicks, calls and errors as messages.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory regions added and removed one by one.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// The device status messages.
        const STATUS = 1 << 16;
        /// Regions carry Xen mapping fields.
        const XEN_MMAP = 1 << 17;
        /// The shared object messages.
        const SHARED_OBJECT = 1 << 18;
        /// The device state transfer messages.
        const DEVICE_STATE = 1 << 19;
        /// `GET_VRING_BASE` may leave requests in flight.
        const GET_VRING_BASE_INFLIGHT = 1 << 20;
        /// User addresses are guest physical addresses.
        const GPA_ADDRESSES = 1 << 21;
        /// VIRTIO shared memory regions.
        const SHMEM = 1 << 22;
        const _ = !0;
    }
}

impl ProtocolFeatures {
    /// Features that some member of the set relies on and that are not in it; empty for a sound set.
    ///
    /// In-band notifications need the back-end channel and `REPLY_ACK`; descriptors from the
    /// back-end need its channel, and what carries them needs `BACKEND_SEND_FD`.
    pub fn missing(self) -> Self {
        let rules = [
            (Self::INBAND_NOTIFICATIONS, Self::BACKEND_REQ.union(Self::REPLY_ACK)),
            (Self::BACKEND_SEND_FD, Self::BACKEND_REQ),
            (Self::HOST_NOTIFIER, Self::BACKEND_REQ.union(Self::BACKEND_SEND_FD)),
            (Self::SHMEM, Self::BACKEND_REQ.union(Self::BACKEND_SEND_FD)),
            (Self::GET_VRING_BASE_INFLIGHT, Self::INFLIGHT_SHMFD),
        ];
        let wanted =
            rules.iter().filter(|(f, _)| self.contains(*f)).fold(Self::empty(), |all, (_, r)| all.union(*r));
        wanted.difference(self)
    }
}
