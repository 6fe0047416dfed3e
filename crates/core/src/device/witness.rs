//! Keeping a record of a queue's chains: for transports over which a device's process may die and another go on, or
//! memory is moved while the device writes to it.

use super::{BadChain, Chain, Position, Queue};

/// Sees every step of a queue's chains, between it and the driver.
///
/// The order is that of the names: what `taken` has seen may be worked on, what `completed` has seen is written,
/// what `publishing` has seen may be seen by the driver at any moment, and what `published` has seen, is.
pub trait Witness: Send {
    /// A chain that a former queue took and never used, in the order in which they were taken; `None` after the
    /// last. A record that makes no sense latches the queue.
    fn again(&mut self, queue: &mut Queue) -> Result<Option<Chain>, BadChain>;

    /// A chain was taken, from `before` on. Its work has not begun.
    fn taken(&mut self, queue: &Queue, chain: &Chain, before: Position);

    /// The work of a chain is undone: it counts as never taken.
    fn put_back(&mut self, queue: &Queue, chain: &Chain);

    /// A chain is complete, and will be published.
    fn completed(&mut self, queue: &Queue, chain: &Chain);

    /// What is complete is published next. The ring will then stand at `position`.
    fn publishing(&mut self, queue: &Queue, position: Position);

    /// It is published.
    fn published(&mut self);
}
