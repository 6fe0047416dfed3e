//! Network back-ends of this machine: [`Tap`].

mod header;
mod interface;
mod tap;

pub use interface::OpenError;
pub use tap::{Tap, TapCounters, TapHandle};
