//! What the four driver rings have in common.

use super::error::Broken;
use super::queue::Position;

/// What the queue remembers of a chain in flight, at the index of its slot.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
pub(super) struct Meta {
    /// Bytes that the device may write.
    pub(super) writable: u32,
    /// Ring descriptors taken; 0 when nothing is in flight here.
    pub(super) descs: u16,
    /// For the rings that keep a list of what is free. Split: the last descriptor of the chain. Packed: of a free slot,
    /// the free one after it.
    pub(super) link: u16,
}

/// A chain that the device used: its slot, which is in flight, and the length reported.
///
/// Filled in by [`Ring::next_used`] and not returned: the compiler would pack and unpack it on the way.
#[derive(Default)]
pub(super) struct UsedSlot {
    pub(super) slot: u16,
    pub(super) len: u32,
    /// The device left the length out.
    pub(super) no_len: bool,
    pub(super) meta: Meta,
    pub(super) broken: Option<Broken>,
}

impl UsedSlot {
    /// Something that the ring vouches for.
    #[inline(always)]
    pub(super) fn found(&mut self, slot: u16, len: u32, meta: Meta) -> Found {
        (self.slot, self.len, self.meta) = (slot, len, meta);
        Found::One
    }

    /// Something that is against the rules.
    #[cold]
    pub(super) fn broken(&mut self, broken: Broken) -> Found {
        self.broken = Some(broken);
        Found::Broken
    }
}

/// What [`Ring::next_used`] filled in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    One,
    Broken,
}

/// A position in the ring while a chain is written, with its own copy of what it takes to go on: stores to the
/// ring could otherwise change anything, as far as the compiler knows.
pub(super) trait Cursor {
    /// The slot of the chain, fixed from the start.
    fn slot(&self) -> u16;
    /// What the ring needs to know of the chain in flight, for its [`Meta::link`].
    fn link(&self) -> u16;
    /// Writes the next descriptor. `flags` are WRITE or INDIRECT; `first` and `more` say whether it is the chain's first
    /// and whether another follows.
    fn put(&mut self, addr: u64, len: u32, flags: u16, first: bool, more: bool);
    /// The same for descriptor `index` of a chain that does not go round the end of the ring: some rings have less
    /// to do then.
    #[inline(always)]
    fn put_straight(&mut self, index: u16, addr: u64, len: u32, flags: u16, more: bool) {
        self.put(addr, len, flags, index == 0, more);
    }
}

/// The layout of a ring and the order in which its slots are used. All state is private to the driver.
///
/// `start`, some `put`s and `finish` add one chain; nothing of the ring's state changes before `finish`, and
/// nothing becomes visible to the device before `publish`.
pub(super) trait Ring {
    /// While a chain is written.
    type Cursor: Cursor;
    /// Free descriptors.
    fn room(&self) -> u16;
    /// Free descriptors before the ring goes round, if that makes a difference: no more than there are, and maybe fewer
    /// until [`stretch`](Self::stretch) has counted them anew.
    fn straight(&self) -> u16;
    /// Counts [`straight`](Self::straight) anew.
    fn stretch(&mut self) {}
    /// Begins a chain; there must be room for all of it.
    fn start(&self) -> Self::Cursor;
    /// Undoes what was written: `descs` descriptors, put straight.
    fn abandon(&mut self, cursor: Self::Cursor, descs: u16);
    /// Takes the descriptors written, which must be `descs`, and the slot, of which `link` was the link while it was free.
    fn finish(&mut self, cursor: Self::Cursor, descs: u16, link: u16);
    /// Second word of entry `index` of an indirect table.
    fn table_word(len: u32, write: bool, index: u16, more: bool) -> u64;
    /// Publishes what was added; whether the device wants to be notified of it.
    fn publish(&mut self) -> bool;

    /// The next used chain, in flight by the evidence of `metas`.
    fn next_used(&mut self, metas: &[Meta], used: &mut UsedSlot) -> Found;
    /// Frees the descriptors of a chain that was used, and its slot, which has a link.
    fn release(&mut self, slot: u16, meta: Meta, link: &mut u16);
    /// Whether a used chain waits.
    fn has_used(&self) -> bool;
    /// Asks the device not to notify.
    fn disable_callbacks(&mut self);
    /// Asks the device to notify of the next used chain; whether one waits already.
    fn enable_callbacks(&mut self) -> bool;

    /// Where the ring stands.
    fn position(&self) -> Position;
    /// Puts private state and ring memory back to how they were when the queue was new.
    fn reset(&mut self, metas: &mut [Meta]);
}
