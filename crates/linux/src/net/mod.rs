//! Network back-ends of this machine: [`Tap`].

mod header;
mod interface;
mod tap;
mod watch;

pub use interface::OpenError;
pub use tap::{Tap, TapCounters, TapHandle};
