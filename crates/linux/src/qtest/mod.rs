//! QEMU's device models without a guest: `-qtest`.
//!
//! QEMU runs with its only CPU halted; this process maps the machine's memory and drives its registers by
//! commands over a socket. To drivers that is a PCI bus like any other: [`Machine`] is a
//! [`Host`](virtio_kit::pci::Host), and what is behind it was written by somebody else.
//!
//! Interrupts are MSI-X messages that write a word of the machine's memory, which is polled: they come in
//! while a queue is waited for, or by [`Machine::poll_interrupts`].

pub mod codec;
mod error;
mod interrupts;
mod link;
mod machine;
mod options;
mod ram;

pub use error::Error;
pub use machine::Machine;
pub use options::Options;
