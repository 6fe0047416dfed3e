//! The tools with which virtio-kit is proved, and with which its users can prove what they build on it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shape`] | every kind of queue that can be negotiated, as a matrix to run a test over |
//! | [`pair`] | both ends of a queue in one thread, every schedule from a seed, checked against a model |
//! | [`ground`] | the memory that pairs are put on |
//! | [`model`] | what a pair must do, written from the rules |
//! | [`raw`] | foreign ends that write any bytes into a ring: the hostile driver and the hostile device |
//! | [`memory`] | memory that all of them share |
//! | [`counting`] | an allocator that counts, for the rule that no request allocates |

pub mod counting;
pub mod ground;
pub mod memory;
pub mod model;
pub mod pair;
pub mod raw;
mod rng;
pub mod shape;

pub use ground::Ground;
pub use memory::SharedMemory;
pub use pair::Pair;
pub use rng::Rng;
pub use shape::Shape;
