//! Packed ring (2.8): flags, and where everything is. All offsets and sizes are in bytes, all words little-endian.
//!
//! Three areas: the descriptor ring ([`Desc`] each), and one [`EventSuppress`] each for driver and device.

use zerocopy::little_endian::{U16, U32, U64};

/// Largest queue size. Any size from 1 on is allowed.
pub const MAX_SIZE: u16 = 32768;

wire! {
/// A descriptor, available or used (2.8.13).
#[doc(alias = "pvirtq_desc")]
pub struct Desc: 16 {
    /// Device address of the buffer.
    pub addr: U64,
    /// Length of the buffer, or bytes written, in bytes.
    pub len: U32,
    /// Buffer id.
    pub id: U16,
    /// [`DESC_NEXT`], [`DESC_WRITE`], [`DESC_INDIRECT`], [`DESC_AVAIL`], [`DESC_USED`].
    pub flags: U16,
}

/// Event suppression structure (2.8.14).
#[doc(alias = "pvirtq_event_suppress")]
pub struct EventSuppress: 4 {
    /// The position for [`EVENT_DESC`]: see [`event_pos`].
    pub desc: U16,
    /// [`EVENT_ENABLE`], [`EVENT_DISABLE`], [`EVENT_DESC`] in the low two bits; the others are zero.
    pub flags: U16,
}
}

/// Descriptor flag: the buffer goes on in the next descriptor.
#[doc(alias = "VIRTQ_DESC_F_NEXT")]
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the buffer is device-writable; in a used descriptor: `len` is meaningful.
#[doc(alias = "VIRTQ_DESC_F_WRITE")]
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors (2.8.7).
#[doc(alias = "VIRTQ_DESC_F_INDIRECT")]
pub const DESC_INDIRECT: u16 = 4;
/// Descriptor flag: equal to the wrap counter of the side that wrote the descriptor (2.8.1).
#[doc(alias = "VIRTQ_DESC_F_AVAIL")]
pub const DESC_AVAIL: u16 = 1 << 7;
/// Descriptor flag: unequal to the driver's wrap counter when made available, equal to the device's when used.
#[doc(alias = "VIRTQ_DESC_F_USED")]
pub const DESC_USED: u16 = 1 << 15;

/// Event flags: notify always (2.8.10).
#[doc(alias = "RING_EVENT_FLAGS_ENABLE")]
pub const EVENT_ENABLE: u16 = 0;
/// Event flags: notify never.
#[doc(alias = "RING_EVENT_FLAGS_DISABLE")]
pub const EVENT_DISABLE: u16 = 1;
/// Event flags: notify at the position in `desc`. Only with `EVENT_IDX`.
#[doc(alias = "RING_EVENT_FLAGS_DESC")]
pub const EVENT_DESC: u16 = 2;
/// The bits of the event flags word that are in use.
pub const EVENT_FLAGS_MASK: u16 = 3;

/// Alignment of the descriptor ring.
pub const DESC_ALIGN: usize = 16;
/// Alignment of each event suppression structure.
pub const EVENT_ALIGN: usize = 4;
/// Size of the driver area, and of the device area.
pub const EVENT_SIZE: usize = EventSuppress::SIZE;

/// Offset of `addr` in a descriptor, 64 bits.
pub const DESC_ADDR_OFFSET: usize = 0;
/// Offset of `len` in a descriptor, 32 bits.
pub const DESC_LEN_OFFSET: usize = 8;
/// Offset of `id` in a descriptor, 16 bits.
pub const DESC_ID_OFFSET: usize = 12;
/// Offset of `flags` in a descriptor, 16 bits.
pub const DESC_FLAGS_OFFSET: usize = 14;
/// Offset of `desc` in an event suppression structure, 16 bits.
pub const EVENT_DESC_OFFSET: usize = 0;
/// Offset of `flags` in an event suppression structure, 16 bits.
pub const EVENT_FLAGS_OFFSET: usize = 2;

/// Size of the descriptor ring of `n` entries.
pub const fn desc_size(n: u16) -> usize {
    Desc::SIZE * n as usize
}

/// Where descriptor `i` is in the ring.
pub const fn desc(i: u16) -> usize {
    Desc::SIZE * i as usize
}

/// The `desc` word: 15 bits of ring position and the wrap counter in bit 15 (2.8.14).
pub const fn event_word(pos: u16, wrap: bool) -> u16 {
    pos & 0x7fff | (wrap as u16) << 15
}

/// Ring position and wrap counter in a `desc` word.
pub const fn event_pos(word: u16) -> (u16, bool) {
    (word & 0x7fff, word >> 15 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn sizes_are_those_of_the_table() {
        assert_eq!([desc_size(1), desc_size(3), desc_size(MAX_SIZE)], [16, 48, 524_288]);
        assert_eq!(EVENT_SIZE, 4);
    }

    #[test]
    fn offsets_are_those_of_the_structs() {
        assert_eq!(offset_of!(Desc, addr), DESC_ADDR_OFFSET);
        assert_eq!(offset_of!(Desc, len), DESC_LEN_OFFSET);
        assert_eq!(offset_of!(Desc, id), DESC_ID_OFFSET);
        assert_eq!(offset_of!(Desc, flags), DESC_FLAGS_OFFSET);
        assert_eq!(offset_of!(EventSuppress, desc), EVENT_DESC_OFFSET);
        assert_eq!(offset_of!(EventSuppress, flags), EVENT_FLAGS_OFFSET);
    }

    #[test]
    fn event_words_round_trip() {
        for (pos, wrap, word) in [(0, false, 0), (0, true, 0x8000), (32767, true, 0xffff), (5, false, 5)] {
            assert_eq!(event_word(pos, wrap), word);
            assert_eq!(event_pos(word), (pos, wrap));
        }
    }
}
