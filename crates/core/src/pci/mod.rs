//! Virtio over PCI (4.1).
//!
//! The driver's end is pure state over traits, so that the same code runs on bare metal, through VFIO and over qtest. The machine
//! provides a [`Host`]: configuration space, mapped BARs, memory, time, and if it has any, interrupts.
//! [`PciTransport::open`] makes a [`Transport`](crate::transport::Transport) of one function, [`LegacyTransport`] of one
//! that has the legacy interface only, [`open`] of either; [`PciHost`] offers all of a host's devices to drivers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | configuration space: addresses, headers, the list of capabilities, the scan of a bus |
//! | [`access`] | the common ways to configuration space: ports (CAM) and memory (ECAM) |
//! | [`bars`] | BARs: how large they are, and placing them where no firmware did |
//! | [`tree`] | numbers and windows for buses behind bridges that firmware left alone |
//! | [`capability`] | where the device's registers are (4.1.4) |
//! | [`device`] | the device's end |
//! | [`interrupts`] | MSI-X as far as the machine takes part |

pub mod access;
pub mod bars;
mod bus;
pub mod capability;
mod common;
pub mod config;
pub mod device;
pub mod interrupts;
mod legacy;
mod msix;
mod notifier;
mod routing;
#[cfg(test)]
mod tests;
mod transport;
pub mod tree;
mod window;

pub use bus::{PciHost, Rescan, key, open};
use config::Function;
pub use config::{Address, ConfigSpace};
pub use interrupts::{Interrupts, Lines, Message};
pub use legacy::LegacyTransport;
pub use routing::ConfigWatch;
pub use transport::PciTransport;

use crate::clock::Clock;
use crate::interrupts::InterruptLine;
use crate::registers::Registers;
use crate::transport::TransportError;
use alloc::sync::Arc;
use virtio_kit_ring::Arena;
use virtio_kit_spec::Features;
use virtio_kit_spec::device_id::{PCI_DEVICE_ID_BASE, PCI_DEVICE_ID_LAST, PCI_VENDOR_ID};

/// Whether a PCI vendor and device id are those of a virtio device, transitional ones among them (4.1.2).
pub fn is_virtio(id: (u16, u16)) -> bool {
    id.0 == PCI_VENDOR_ID && (TRANSITIONAL_FIRST..=PCI_DEVICE_ID_LAST).contains(&id.1)
}

/// Whether a PCI vendor and device id are those of a virtio device that has no legacy interface (4.1.2).
pub fn is_modern(id: (u16, u16)) -> bool {
    is_virtio(id) && id.1 > PCI_DEVICE_ID_BASE
}

/// The first PCI device id that transitional and legacy devices have (4.1.2.3).
const TRANSITIONAL_FIRST: u16 = 0x1000;

/// Whether a function has legacy registers: by its device id, and by its revision, 0 (4.1.2.3).
fn has_legacy<C: ConfigSpace + ?Sized>(function: &Function<'_, C>) -> Result<bool, TransportError> {
    let Some(id) = function.id()? else { return Ok(false) };
    Ok(is_virtio(id) && id.1 < PCI_DEVICE_ID_BASE && function.revision()? == 0)
}

/// What a machine provides to drivers of its PCI functions.
pub trait Host: ConfigSpace {
    /// The registers behind BAR `bar` (0 to 5), of memory or I/O ports, which firmware or [`bars::place`] gave an
    /// address. One that is not there or cannot be mapped is refused as unsupported; modern devices are then driven
    /// through the window in their configuration space (4.1.4.9).
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError>;

    /// Memory that the function can reach.
    fn arena(&self, at: Address) -> Arena;

    /// Feature bits without which the function cannot reach that memory
    /// ([`Transport::required_features`](crate::transport::Transport::required_features)).
    fn required_features(&self, at: Address) -> Features {
        let _ = at;
        Features::EMPTY
    }

    /// The clock for bounded waits.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The function's MSI-X interrupts; `None` if they cannot be had.
    fn interrupts(&self, at: Address) -> Option<Arc<dyn Interrupts>> {
        let _ = at;
        None
    }

    /// The function's interrupt line (INTx), for where there are no messages; `None` if it cannot be had either,
    /// and the interrupt status is polled.
    fn line(&self, at: Address) -> Option<Arc<dyn InterruptLine>> {
        let _ = at;
        None
    }
}
