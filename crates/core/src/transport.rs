//! What a mechanism provides to drivers: registers, queue set-up, notifications.
//!
//! An operation here may be slow and may fail. Once a queue runs, the data path touches nothing of it but the
//! queue's [`Notifier`].

use crate::driver::QueueInterrupt;
use crate::registers::Window;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit_ring::Arena;
use virtio_kit_ring::driver::{Quiesced, RingAddrs};
use virtio_kit_spec::notify::NotificationData;
use virtio_kit_spec::{DeviceId, F, Features, Status};

/// What a device is, for matching drivers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PCI vendor id, or the vendor register of MMIO; 0x1af4 where a mechanism has none.
    pub vendor: u32,
    /// The virtio device id, on every transport.
    pub device: DeviceId,
    /// PCI subsystem vendor id, or 0.
    pub subsystem_vendor: u32,
    /// PCI subsystem device id, or 0.
    pub subsystem_device: u32,
    /// PCI class code (24 bits), or 0.
    pub class: u32,
}

impl Identity {
    /// A device of which only the type is known.
    pub fn of(device: DeviceId) -> Self {
        let vendor = virtio_kit_spec::device_id::PCI_VENDOR_ID.into();
        Self { vendor, device, subsystem_vendor: 0, subsystem_device: 0, class: 0 }
    }
}

/// What a queue is to be, told to the device when it is enabled.
#[derive(Clone, Copy, Debug)]
pub struct QueueSetup {
    /// Descriptors of the ring.
    pub size: u16,
    /// Where the ring is.
    pub addrs: RingAddrs,
}

/// One more than the last queue's number, for mechanisms that do not say it: from the sizes of queues, 0 for one that
/// is not there. Queues come one after the other, but for some that a device of few leaves out.
pub(crate) fn count_queues(
    mut size: impl FnMut(u16) -> Result<u16, TransportError>,
) -> Result<u16, TransportError> {
    /// Above this number no queue is left out.
    const MOST_LEFT_OUT: u16 = 8;
    /// A device that never says that there is none is not believed for ever.
    const MOST: u16 = 1024;
    let mut count = 0;
    for queue in 0..MOST {
        if size(queue)? != 0 {
            count = queue + 1;
        } else if queue >= MOST_LEFT_OUT {
            break;
        }
    }
    Ok(count)
}

/// How queues of the legacy interface are made (2.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// A ring is one run of addresses, with its device area at a multiple of this many bytes.
    pub ring_align: usize,
    /// Queues have the size that the device says, and no other.
    pub fixed_size: bool,
}

/// Bits of the device types (2.2): 0 to 23, 42, 50 to 127. Bit 41 is ADMIN_VQ to a modern device.
pub(crate) const DEVICE_FEATURES: Features =
    Features::from_bits(0xff_ffff | 1 << 42 | u128::MAX << 50).difference(F::ADMIN_VQ);

/// What there is of features on a legacy interface (2.2.3), and implemented. ANY_LAYOUT is for drivers to ask for.
pub(crate) const LEGACY_FEATURES: Features =
    Features::from_bits(0xff_ffff).union(F::ANY_LAYOUT).union(F::INDIRECT_DESC).union(F::EVENT_IDX);

/// A mechanism's access to one device, driver's side.
///
/// Implementations are for one device each and are driven by [`crate::driver`], which calls in the order of
/// 3.1.1; they need not check that.
pub trait Transport: Send {
    /// Name of the mechanism, for people: `in-process`, `vhost-user`, `pci`.
    fn name(&self) -> &str;

    /// What the device is.
    fn identity(&self) -> Identity;

    /// Memory that the device can reach, from which rings and buffers are allocated.
    fn arena(&self) -> &Arena;

    /// Feature bits that this mechanism can carry: an allow-list, since a bit it does not know may need
    /// something of it (2.2, 6.3).
    fn allowed_features(&self) -> Features;

    /// Feature bits without which the device cannot reach [`arena`](Self::arena): ACCESS_PLATFORM, where addresses
    /// are those of an IOMMU, or where only some memory is shared with devices at all (6.1).
    fn required_features(&self) -> Features {
        Features::EMPTY
    }

    /// The terms of the legacy interface (2.2.3, 2.7.2), if the device is driven by that one. It has neither
    /// FEATURES_OK nor a configuration generation, and feature bits 0 to 31 only.
    fn legacy(&self) -> Option<Legacy> {
        None
    }

    /// Resets the device and waits, for a bounded time, until it says that it is reset (2.4).
    fn reset(&mut self) -> Result<Quiesced, TransportError>;

    /// The device status field (2.1).
    fn status(&mut self) -> Result<Status, TransportError>;

    /// Writes the device status field. Never 0: that is [`reset`](Self::reset).
    fn set_status(&mut self, status: Status) -> Result<(), TransportError>;

    /// Features that the device offers (2.2).
    fn device_features(&mut self) -> Result<Features, TransportError>;

    /// Features that the driver accepts (2.2).
    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError>;

    /// Changes whenever the configuration space did (2.5). A mechanism without one returns 0.
    fn config_generation(&mut self) -> Result<u32, TransportError> {
        Ok(0)
    }

    /// Reads from the configuration space, filling `to`. What lies beyond its end reads as 0.
    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError>;

    /// Writes to the configuration space.
    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError>;

    /// The shared memory region with this id (2.10); `None` if the device has none.
    fn shared_memory(&mut self, id: u8) -> Result<Option<Window>, TransportError> {
        let _ = id;
        Ok(None)
    }

    /// Most descriptors that queue `index` can have; 0 if there is no such queue.
    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError>;

    /// Enables queue `index`. Used-buffer notifications go to `interrupt`.
    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError>;

    /// Resets one queue (2.6.1) and waits, for a bounded time, until that is done.
    fn reset_queue(&mut self, index: u16) -> Result<Quiesced, TransportError>;
}

/// A queue's line to the device, and the driver's way to wait for the device's answer.
pub trait Notifier: Send + Sync {
    /// Notifies the device of available buffers (2.9).
    fn notify(&self, position: NotifyPosition) -> Result<(), TransportError>;

    /// Waits until the device may have used buffers, or for `limit`. `false` if nothing happened.
    ///
    /// Dispatches what came in to the queue's interrupt half. A spurious return of `true` is allowed.
    fn wait(&self, limit: Duration) -> Result<bool, TransportError>;
}

/// Where the available ring stands, for mechanisms that tell the device (NOTIFICATION_DATA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyPosition {
    /// Split: the available index. Packed: offset of the next descriptor, below 32768.
    pub next: u16,
    /// Packed: wrap counter at `next`.
    pub wrap: bool,
    /// The layout is packed.
    pub packed: bool,
}

impl NotifyPosition {
    /// What the device is told of it, for queue `queue`.
    pub fn data(self, queue: u16) -> NotificationData {
        if self.packed {
            NotificationData::packed(queue, self.next, self.wrap)
        } else {
            NotificationData::split(queue, self.next)
        }
    }
}

/// Why a mechanism failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The other end did not answer within the time allowed.
    Timeout,
    /// The other end is gone.
    Disconnected,
    /// The other end broke the protocol of the mechanism.
    Protocol(&'static str),
    /// The other end refused.
    Refused(&'static str),
    /// The mechanism or the device cannot do what was asked.
    Unsupported(&'static str),
    /// There is no such queue.
    NoQueue(u16),
    /// The operating system failed, with its error number.
    Os(i32),
    /// No memory for what the mechanism needs.
    NoMemory,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the device did not answer in time"),
            Self::Disconnected => f.write_str("the device is gone"),
            Self::Protocol(what) => write!(f, "the device broke the protocol: {what}"),
            Self::Refused(what) => write!(f, "the device refused: {what}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::NoQueue(index) => write!(f, "the device has no queue {index}"),
            Self::Os(number) => write!(f, "operating system error {number}"),
            Self::NoMemory => f.write_str("out of memory that the device can reach"),
        }
    }
}

impl core::error::Error for TransportError {}
