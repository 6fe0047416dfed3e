//! What split and packed rings have in common, device's side.

use super::chain::Slot;
use super::error::BadChain;
use super::queue::Position;
use super::resume::{Again, Raw};
use super::walk::Walk;
use crate::mem::Translation;

/// A chain as it stands in the ring, its descriptors walked.
pub(super) struct Taken {
    /// Split: head. Packed: buffer id.
    pub(super) id: u16,
    /// Ring descriptors taken.
    pub(super) descs: u16,
}

/// What a quick look at the ring found.
pub(super) enum Quick {
    /// Nothing is available.
    Nothing,
    /// A chain about which there is nothing rare. The slot says all of it.
    Taken,
    /// Something that takes a closer look, by [`Ring::take`]. Nothing was taken.
    Rare,
}

/// What is written into the ring for used chains.
#[derive(Clone, Copy, Default)]
pub(super) struct UsedEntry {
    pub(super) id: u16,
    pub(super) written: u32,
}

/// The layout of a ring. All state is private to the device.
pub(super) trait Ring {
    /// Walks the next available chain as long as nothing rare comes up, and settles the slot.
    ///
    /// # Safety
    ///
    /// The slot must have space for [`FEW`](super::walk::FEW) segments. Barriers must be those of SMP.
    unsafe fn take_quickly(&mut self, recent: &Translation, slot: &mut Slot) -> Quick;
    /// Walks the next available chain, if there is one.
    fn take(&mut self, walk: &mut Walk<'_>) -> Result<Option<Taken>, BadChain>;
    /// Walks a chain that was taken before the ring's present life.
    fn take_again(&mut self, again: &Again<'_>, walk: &mut Walk<'_>) -> Result<Taken, BadChain>;
    /// A descriptor of the ring as it stands there.
    fn raw(&self, at: u16) -> Option<Raw>;
    /// Takes back used entries among the taken descriptors, which a former life wrote and never published.
    fn forget_unpublished(&mut self);
    /// The id of the chain before the next available one, as it stands in the ring now. Whatever the driver
    /// wrote there, if nothing was taken.
    fn last_id(&self) -> u16;
    /// Makes the last `descs` descriptors available again, which a chain in flight has taken.
    fn step_back(&mut self, descs: u16);
    /// Writes an entry that stands for `chains` used chains of `descs` descriptors together; unpublished.
    fn put_used(&mut self, entry: UsedEntry, chains: u16, descs: u16);
    /// Publishes what was put; whether the driver wants to be notified of it.
    fn publish(&mut self) -> bool;
    /// Whether an available chain waits.
    fn has_available(&self) -> bool;
    /// Asks the driver not to notify.
    fn disable_notifications(&mut self);
    /// Asks the driver to notify of the next available chain; whether one waits already.
    fn enable_notifications(&mut self) -> bool;
    /// Where the ring stands.
    fn position(&self) -> Position;
}
