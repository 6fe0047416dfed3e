//! What the program around a device, a monitor, does for it and tells it.

use crate::pci::Message;
use virtio_kit_ring::mem::Memory;

/// What a monitor does for a device whose registers it hands accesses to.
///
/// [`set_line`](Self::set_line) and [`message`](Self::message) may be called by whoever runs a queue, and by accesses to
/// registers; they must not call the device.
pub trait Monitor: Send + Sync {
    /// The driver notified queue `queue`, or its device woke it: it is to be run, here and now or by another thread
    /// soon. Called from within an access to a register, or from wherever the device has its work from, with nothing
    /// locked; of the queue that is being run too.
    fn doorbell(&self, queue: u16);

    /// The device's interrupt line is to be raised or lowered.
    fn set_line(&self, raised: bool);

    /// The device interrupts by a message (MSI-X).
    fn message(&self, message: Message) {
        let _ = message;
    }
}

/// The memory that a device reaches.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    /// At the addresses of the guest: what a driver means that has not accepted ACCESS_PLATFORM.
    pub physical: Memory,
    /// At the addresses of the platform, an IOMMU's for one, and only as far as the platform lets the device (6.1):
    /// what a driver means that has. ACCESS_PLATFORM is offered if there is such memory.
    pub platform: Option<Memory>,
}

impl From<Memory> for DeviceMemory {
    fn from(physical: Memory) -> Self {
        Self { physical, platform: None }
    }
}

/// A shared memory region that a device has (2.10), and that the monitor maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// Its id, of the device type's choice.
    pub id: u8,
    /// Where it begins: on MMIO its physical address, on PCI its offset in the BAR of such regions.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}
