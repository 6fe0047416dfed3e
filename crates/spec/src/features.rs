//! Feature bits (2.2, 6): the 128-bit set, the device-independent bits, names, and what each bit requires.
//!
//! The bits of a device type are in its module: [`net::F`](crate::net::F), [`blk::F`](crate::blk::F), ...

mod dependencies;
mod generic;
mod names;
mod set;

pub use dependencies::{Dependency, dependencies, unmet, unmet_all, unmet_offer};
pub use generic::F;
pub use names::{Named, name};
pub use set::{Features, Iter};

pub(crate) use dependencies::rules;
