//! Builds the bare-metal kernel in `guest/`, boots it in QEMU, and checks from outside what its drivers did.
//!
//! The kernel works with every device and prints a line for each. None of it is believed: a disk's content is looked at
//! in its file, before and after, and compared with what [`pattern`] says must be there.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod console;
pub mod disk;
mod error;
pub mod kernel;
mod line;
pub mod machine;
mod net;
#[path = "../../../guest/src/work/pattern.rs"]
pub mod pattern;
mod rng;
pub mod run;
mod scratch;

pub use error::Error;
pub use kernel::Kernel;
pub use machine::Machine;
pub use run::{Boot, Verified};
