//! Split ring (2.7): flags, and where everything is. All offsets and sizes are in bytes, all words little-endian.
//!
//! Three areas: descriptors ([`Desc`] each), driver area (available ring, then `used_event`), device area (used
//! ring, then `avail_event`). Sizes always include the event words. `n` is the queue size in entries.

use zerocopy::little_endian::{U16, U32, U64};

/// Largest queue size. Sizes are powers of two.
pub const MAX_SIZE: u16 = 32768;

wire! {
/// A descriptor (2.7.5).
#[doc(alias = "virtq_desc")]
pub struct Desc: 16 {
    /// Device address of the buffer.
    pub addr: U64,
    /// Length of the buffer in bytes.
    pub len: U32,
    /// [`DESC_NEXT`], [`DESC_WRITE`], [`DESC_INDIRECT`].
    pub flags: U16,
    /// The next descriptor of the chain, if [`DESC_NEXT`].
    pub next: U16,
}

/// An entry of the used ring (2.7.8).
#[doc(alias = "virtq_used_elem")]
pub struct UsedElem: 8 {
    /// Head descriptor of the used chain.
    pub id: U32,
    /// Bytes written to the device-writable part, from its start.
    pub len: U32,
}
}

/// Descriptor flag: the chain goes on at `next`.
#[doc(alias = "VIRTQ_DESC_F_NEXT")]
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the buffer is device-writable, otherwise device-readable.
#[doc(alias = "VIRTQ_DESC_F_WRITE")]
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors (2.7.5.3).
#[doc(alias = "VIRTQ_DESC_F_INDIRECT")]
pub const DESC_INDIRECT: u16 = 4;
/// Available ring flag: the driver wants no used buffer notification. Only without `EVENT_IDX` (2.7.7).
#[doc(alias = "VIRTQ_AVAIL_F_NO_INTERRUPT")]
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Used ring flag: the device wants no available buffer notification. Only without `EVENT_IDX` (2.7.10).
#[doc(alias = "VIRTQ_USED_F_NO_NOTIFY")]
pub const USED_NO_NOTIFY: u16 = 1;

/// Alignment of the descriptor area.
pub const DESC_ALIGN: usize = 16;
/// Alignment of the driver area.
pub const DRIVER_ALIGN: usize = 2;
/// Alignment of the device area.
pub const DEVICE_ALIGN: usize = 4;

/// Driver area: `flags`, 16 bits.
pub const AVAIL_FLAGS: usize = 0;
/// Driver area: `idx`, 16 bits.
pub const AVAIL_IDX: usize = 2;
/// Driver area: `ring`, 16 bits per entry.
pub const AVAIL_RING: usize = 4;
/// Device area: `flags`, 16 bits.
pub const USED_FLAGS: usize = 0;
/// Device area: `idx`, 16 bits.
pub const USED_IDX: usize = 2;
/// Device area: `ring`, a [`UsedElem`] per entry.
pub const USED_RING: usize = 4;

/// Size of the descriptor area.
pub const fn desc_size(n: u16) -> usize {
    Desc::SIZE * n as usize
}

/// Size of the driver area.
pub const fn driver_size(n: u16) -> usize {
    used_event(n) + 2
}

/// Size of the device area.
pub const fn device_size(n: u16) -> usize {
    avail_event(n) + 2
}

/// Descriptor area: descriptor `i`.
pub const fn desc(i: u16) -> usize {
    Desc::SIZE * i as usize
}

/// Driver area: entry `i` of the available ring, 16 bits.
pub const fn avail_entry(i: u16) -> usize {
    AVAIL_RING + 2 * i as usize
}

/// Driver area: `used_event`, 16 bits, after the last entry.
pub const fn used_event(n: u16) -> usize {
    avail_entry(n)
}

/// Device area: entry `i` of the used ring, a [`UsedElem`].
pub const fn used_entry(i: u16) -> usize {
    USED_RING + UsedElem::SIZE * i as usize
}

/// Device area: `avail_event`, 16 bits, after the last entry.
pub const fn avail_event(n: u16) -> usize {
    used_entry(n)
}

/// The three areas in one contiguous piece, as the legacy interface has them (2.7.2).
///
/// The descriptor area is at offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyLayout {
    /// Where the driver area is.
    pub driver: usize,
    /// Where the device area is.
    pub device: usize,
    /// Bytes in all, a multiple of the alignment.
    pub size: usize,
}

impl LegacyLayout {
    /// The alignment of the legacy PCI interface (4.1.5.1.3).
    pub const PCI_ALIGN: usize = 4096;

    /// The layout for a queue of `n` entries; `align` is the transport's, a power of two.
    ///
    /// The rounding in the text of 2.7.2 is one off; this is the one in use.
    ///
    /// # Panics
    ///
    /// `align` is not a power of two.
    pub const fn new(n: u16, align: usize) -> Self {
        assert!(align.is_power_of_two());
        let driver = desc_size(n);
        let device = (driver + driver_size(n)).next_multiple_of(align);
        Self { driver, device, size: device + device_size(n).next_multiple_of(align) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_table() {
        for n in [1, 2, 256, MAX_SIZE] {
            let entries = usize::from(n);
            assert_eq!(desc_size(n), 16 * entries);
            assert_eq!(driver_size(n), 6 + 2 * entries);
            assert_eq!(device_size(n), 6 + 8 * entries);
        }
    }

    #[test]
    fn event_words_follow_the_rings() {
        assert_eq!((avail_entry(3), used_event(4)), (10, 12));
        assert_eq!((used_entry(3), avail_event(4)), (28, 36));
    }

    #[test]
    fn field_offsets() {
        use core::mem::offset_of;
        assert_eq!([offset_of!(Desc, addr), offset_of!(Desc, len)], [0, 8]);
        assert_eq!([offset_of!(Desc, flags), offset_of!(Desc, next)], [12, 14]);
    }

    #[test]
    fn legacy_layout_is_the_known_one() {
        // 256 entries: 4096 bytes of descriptors, 518 of driver area, the device area on the next page.
        let layout = LegacyLayout::new(256, LegacyLayout::PCI_ALIGN);
        assert_eq!(layout, LegacyLayout { driver: 4096, device: 8192, size: 12288 });
        let layout = LegacyLayout::new(128, LegacyLayout::PCI_ALIGN);
        assert_eq!(layout, LegacyLayout { driver: 2048, device: 4096, size: 8192 });
    }

    #[test]
    fn legacy_layout_adds_nothing_to_what_is_aligned() {
        // With alignment 2 everything is aligned already.
        let layout = LegacyLayout::new(4, 2);
        assert_eq!(layout, LegacyLayout { driver: 64, device: 78, size: 78 + 38 });
    }
}
