//! virtio-kit: write a virtio driver once and run it over any virtual I/O mechanism; write a virtio device
//! once and serve it over any.
//!
//! Two wings over one ground floor. On the left, drivers register with a [`bus::Bus`], which offers them the
//! devices of whatever back-ends are installed; a driver negotiates with a device it is given
//! ([`driver::Found`]), makes [`driver::Virtqueue`]s and starts it. On the right, a device implements
//! [`device::Device`] and is handed queues to serve. Between the two a [`transport::Transport`] carries
//! registers and notifications; the queues themselves are in `virtio-kit-ring`, and no transport touches
//! them while data moves.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bus`] | drivers, back-ends, matching, hot-plug |
//! | [`driver`] | what a driver does with a device: negotiation, virtqueues, configuration |
//! | [`device`] | what a device implements, and the status machine that drives it |
//! | [`transport`] | what a mechanism provides |
//! | [`in_process`] | the mechanism without a mechanism: both ends in one program |
//! | [`pci`] | devices on a PCI bus |
//! | [`mmio`] | devices that are a block of registers somewhere in memory |
//! | [`interrupts`] | where interrupts end |
//! | [`registers`] | how transports that have registers reach them |
//! | [`vsock`] | the protocol of socket devices, which both ends speak alike |
//!
//! No `std`, no runtime, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod apart;
pub mod bus;
pub mod clock;
pub mod device;
pub mod driver;
pub mod in_process;
pub mod interrupts;
pub mod mmio;
pub mod pci;
pub mod registers;
pub mod transport;
pub mod vsock;
mod window;

pub use apart::Apart;
pub use virtio_kit_ring::{self as ring, AnyChain, Arena, Bufs, Chain, DmaBuf, Domain, Either, Parts};
pub use virtio_kit_spec::{self as spec, DeviceId, F, Features, Status};
pub use window::Window;
