//! Interrupts as messages: what the machine does for them.

pub use crate::interrupts::Lines;
use crate::transport::TransportError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// What a function writes, and where, to interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where, as the function sees it.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// One function's MSI-X interrupts, as far as the machine takes part in them.
pub trait Interrupts: Send + Sync {
    /// Makes vectors 0 to `count` - 1 ready to come in, all at once.
    ///
    /// From now on [`Lines::fire`] is to be called whenever one does: by a handler, or where there are none
    /// from within [`wait`](Self::wait). Gives the messages for the function's table, one for each vector; or
    /// none at all if the machine fills the table in and turns MSI-X on by itself, as VFIO does.
    fn arm(&self, count: u16, lines: &Arc<Lines>) -> Result<Vec<Message>, TransportError>;

    /// Undoes [`arm`](Self::arm): nothing fires any more.
    fn disarm(&self);

    /// Waits until `vector` comes in, or for `limit`; whether it did. May also return early.
    fn wait(&self, vector: u16, limit: Duration) -> Result<bool, TransportError>;
}
