//! QEMU's device models without a guest: `-qtest`.
//!
//! QEMU runs with its only CPU halted; this process maps the machine's memory and drives its registers by
//! commands over a socket. To drivers that is a PCI bus like any other: [`Machine`] is a
//! [`Host`](virtio_kit::pci::Host) (and of MMIO devices, a [`Host`](virtio_kit::mmio::Host) too), and what is behind it was written by somebody else.
//!
//! Interrupts are MSI-X messages that write a word of the machine's memory, which is polled: they come in
//! while a queue is waited for, or by [`Machine::poll_interrupts`]. Where there are no messages, on MMIO devices among
//! others, the interrupt status is polled.

pub mod codec;
mod error;
mod firmware;
mod interrupts;
mod link;
mod machine;
mod mmio;
mod options;
mod ram;
mod registers;

pub use error::Error;
pub use machine::Machine;
pub use options::{Board, Options};
