//! What virtio-kit needs of this kernel, which is all that porting it takes. See `docs/porting.md`.
//!
//! | module | what it gives |
//! |---|---|
//! | [`memory`] | memory that devices can reach |
//! | [`clock`] | time, for deadlines |
//! | [`registers`] | registers in memory |
//! | [`pci`] | PCI configuration space, BARs |
//! | [`msix`] | interrupts of PCI functions |
//! | [`mmio`] | where MMIO devices are |
//! | [`lines`] | interrupt lines of devices |

pub mod clock;
pub mod lines;
pub mod memory;
pub mod mmio;
pub mod msix;
pub mod pci;
pub mod registers;
