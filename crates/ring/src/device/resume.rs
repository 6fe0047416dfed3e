//! What a queue needs to know to go on with the chains of one that died with them.

/// A descriptor as it stands in a ring: of a packed ring at a position, of a split one at an index of its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// Address of the buffer, or of the indirect table.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Packed: the buffer id. Split: the next index.
    pub id: u16,
    /// Flags; in a packed ring with the two that tell laps apart.
    pub flags: u16,
}

/// A chain that was taken and never used by a queue that is no more. Whoever kept the record need not be trusted:
/// it is checked like any chain.
#[derive(Clone, Copy, Debug)]
pub enum Again<'a> {
    /// Of a split ring, by its head: a driver leaves the descriptors alone until they are used.
    Head(u16),
    /// Of a packed ring, by its descriptors: in the ring others may have taken their place.
    Descriptors {
        /// The buffer id.
        id: u16,
        /// All of its descriptors, in order.
        list: &'a [Raw],
    },
}
