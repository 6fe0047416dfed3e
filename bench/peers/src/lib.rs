//! What the programs of this package share.

pub mod clock;
pub mod memory;
pub mod minimal;
pub mod noise;
pub mod stub;
pub mod times;
