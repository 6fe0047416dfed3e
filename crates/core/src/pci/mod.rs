//! Virtio over PCI (4.1), driver's side, modern devices.
//!
//! Pure state over traits, so that the same code runs on bare metal, through VFIO and over qtest. The machine
//! provides a [`Host`]: configuration space, mapped BARs, memory, time, and if it has any, interrupts.
//! [`PciTransport::open`] makes a [`Transport`](crate::transport::Transport) of one function.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | configuration space: addresses, headers, the list of capabilities, the scan of a bus |
//! | [`bars`] | BARs: how large they are, and placing them where no firmware did |
//! | [`capability`] | where the device's registers are (4.1.4) |
//! | [`interrupts`] | MSI-X as far as the machine takes part, and the lines that interrupts come in on |

pub mod bars;
pub mod capability;
mod common;
pub mod config;
pub mod interrupts;
mod msix;
mod notifier;
#[cfg(test)]
mod tests;
mod transport;

pub use config::{Address, ConfigSpace};
pub use interrupts::{Interrupts, Lines, Message};
pub use transport::{ConfigWatch, PciTransport};

use crate::clock::Clock;
use crate::registers::Registers;
use crate::transport::TransportError;
use alloc::sync::Arc;
use virtio_kit_ring::Arena;

/// Whether a PCI vendor and device id are those of a virtio device that [`PciTransport`] drives (4.1.2).
pub fn is_modern(id: (u16, u16)) -> bool {
    transport::device_id(Some(id)).is_ok()
}

/// What a machine provides to drivers of its PCI functions.
pub trait Host: ConfigSpace {
    /// The registers behind memory BAR `bar` (0 to 5), which firmware or [`bars::place`] gave an address. A
    /// BAR that is not there, or of I/O ports, is refused as unsupported.
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError>;

    /// Memory that the function can reach.
    fn arena(&self, at: Address) -> Arena;

    /// The clock for bounded waits.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The function's interrupts; `None` if they cannot be had, and its status is polled.
    fn interrupts(&self, at: Address) -> Option<Arc<dyn Interrupts>> {
        let _ = at;
        None
    }
}
