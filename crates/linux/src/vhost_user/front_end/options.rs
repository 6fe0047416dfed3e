//! What a front-end is told by its user.

use std::time::Duration;

use virtio_kit_spec::{DeviceId, Features};

use crate::vhost_user::codec::ProtocolFeatures;

/// Protocol features that the front-end implements; it accepts those of them that are offered.
pub const IMPLEMENTED: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::INFLIGHT_SHMFD)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(ProtocolFeatures::STATUS);

/// How to talk to a back-end, and what it does not tell of itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the device is: no message asks for it.
    pub device: DeviceId,
    /// Bytes of shared memory for rings and buffers, rounded up to 4096. Pages are taken when first touched.
    pub arena_len: usize,
    /// How long any one answer may take, and the whole of connecting once the socket is there.
    pub timeout: Duration,
    /// How long to wait for the socket to appear and to be listened on.
    pub patience: Duration,
    /// Most descriptors of a queue: no message asks for it. A power of two, at most 32768.
    pub queue_size: u16,
    /// Number of queues of a back-end that does not tell it (without `MQ`); at most 256.
    pub queues: u16,
    /// Features to let drivers see at most.
    pub features: Features,
    /// Protocol features to accept at most. Only those of [`IMPLEMENTED`] ever are.
    pub protocol: ProtocolFeatures,
    /// For how long to try to connect anew when a running back-end is gone; `None` to give up at once.
    ///
    /// Takes effect only if the back-end keeps a record of what is in flight (`INFLIGHT_SHMFD`). Requests that
    /// were in flight then complete as if nothing had happened. Whoever restarts the back-end must make sure
    /// that the old process has ended: a dead socket does not prove it, and both would write to the same memory.
    pub reconnect: Option<Duration>,
}

impl Options {
    /// 64 MiB of memory, 5 seconds for an answer, no patience, queues of 256, one queue, no reconnecting.
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            arena_len: 64 << 20,
            timeout: Duration::from_secs(5),
            patience: Duration::ZERO,
            queue_size: 256,
            queues: 1,
            features: !Features::EMPTY,
            protocol: IMPLEMENTED,
            reconnect: None,
        }
    }

    /// What to accept if it is offered.
    pub(super) fn wanted(&self) -> ProtocolFeatures {
        let mut wanted = self.protocol & IMPLEMENTED;
        if self.reconnect.is_none() {
            // The record costs the back-end work with every request, for nothing.
            wanted.remove(ProtocolFeatures::INFLIGHT_SHMFD);
        }
        wanted
    }

    /// What is wrong with the options, if anything.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !self.queue_size.is_power_of_two() || self.queue_size > 32768 {
            return Err("queue_size must be a power of two, at most 32768");
        }
        if self.queues == 0 || self.queues > MAX_QUEUES {
            return Err("queues must be 1 to 256");
        }
        if self.timeout.is_zero() {
            return Err("timeout must not be zero");
        }
        Ok(())
    }
}

/// Queue numbers are bytes in the messages that carry descriptors.
pub(super) const MAX_QUEUES: u16 = 256;
