//! Virtio over MMIO (4.2): a device is a block of registers at a fixed place, with one interrupt line.
//!
//! The driver's end is pure state over traits, as in [`pci`](crate::pci). The machine provides a [`Host`]: mapped registers, memory,
//! time, and if it has any, interrupt lines. A device cannot be found by looking: [`discover`] reads the places
//! where a machine names its devices, [`MmioTransport::open`] makes a [`Transport`](crate::transport::Transport)
//! of one place, and [`MmioBus`] offers the devices of many to drivers.
//!
//! Both versions of the register block are driven: version 2, and the legacy version 1 (4.2.4), which has rings of
//! pages in one piece, and nothing above feature bit 31.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | the device's end |
//! | [`discover`] | places, from a kernel's command line, ACPI, a device tree |

mod block;
mod bus;
pub mod device;
pub mod discover;
mod line;
#[cfg(test)]
mod tests;
mod transport;

pub use bus::{MmioBus, Plug};
pub use transport::{ConfigWatch, MmioTransport};

use crate::clock::Clock;
use crate::interrupts::InterruptLine;
use crate::registers::Registers;
use crate::transport::TransportError;
use alloc::sync::Arc;
use virtio_kit_ring::Arena;
use virtio_kit_spec::Features;

/// Where a device's registers are, and which interrupt is its.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Physical address of the first register.
    pub start: u64,
    /// Bytes of the block, configuration space included; at least 0x100.
    pub len: u64,
    /// Number of the interrupt, as the machine counts them.
    pub interrupt: u32,
}

/// What a machine provides to drivers of its MMIO devices.
pub trait Host: Send + Sync {
    /// The registers at a physical address: a device's block, or a shared memory region of one.
    fn map(&self, start: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError>;

    /// Memory that the device can reach.
    fn arena(&self, place: &Place) -> Arena;

    /// Feature bits without which the device cannot reach that memory
    /// ([`Transport::required_features`](crate::transport::Transport::required_features)).
    fn required_features(&self, place: &Place) -> Features {
        let _ = place;
        Features::EMPTY
    }

    /// The clock for bounded waits.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The device's interrupt line; `None` if it cannot be had, and its status is polled.
    fn line(&self, place: &Place) -> Option<Arc<dyn InterruptLine>> {
        let _ = place;
        None
    }
}
