//! What an available buffer notification carries (2.9).

/// The 32 bits of a notification when [`NOTIFICATION_DATA`](crate::F::NOTIFICATION_DATA) was negotiated.
///
/// Without it the notification is `vq` alone, in 16 bits (PCI) or 32 (MMIO). CCW carries the value big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationData {
    /// The queue index, or on PCI with [`NOTIF_CONFIG_DATA`](crate::F::NOTIF_CONFIG_DATA) the value of
    /// `queue_notif_config_data` (4.1.5.2).
    pub vq: u16,
    /// Where the next available entry will be written: 15 bits.
    pub next_off: u16,
    /// Packed: the driver's wrap counter there. Split: bit 15 of the available index.
    pub next_wrap: bool,
}

impl NotificationData {
    /// For a split ring, from the available index just published.
    pub const fn split(vq: u16, avail_idx: u16) -> Self {
        Self { vq, next_off: avail_idx & 0x7fff, next_wrap: avail_idx >> 15 != 0 }
    }

    /// For a packed ring, from the next position and the wrap counter there.
    pub const fn packed(vq: u16, next_off: u16, next_wrap: bool) -> Self {
        Self { vq, next_off: next_off & 0x7fff, next_wrap }
    }

    /// The value to write.
    pub const fn to_u32(self) -> u32 {
        self.vq as u32 | (self.avail_idx() as u32) << 16
    }

    /// From the value written.
    pub const fn from_u32(value: u32) -> Self {
        Self::split(value as u16, (value >> 16) as u16)
    }

    /// For a split ring, the available index: `next_off` with `next_wrap` as bit 15.
    pub const fn avail_idx(self) -> u16 {
        self.next_off & 0x7fff | (self.next_wrap as u16) << 15
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_carries_the_whole_available_index() {
        for idx in [0, 1, 0x7fff, 0x8000, 0xffff] {
            let data = NotificationData::split(3, idx);
            assert_eq!(data.to_u32(), 3 | u32::from(idx) << 16);
            assert_eq!(NotificationData::from_u32(data.to_u32()), data);
            assert_eq!(data.avail_idx(), idx);
        }
    }

    #[test]
    fn packed_carries_position_and_wrap() {
        let data = NotificationData::packed(0xffff, 5, true);
        assert_eq!(data.to_u32(), 0x8005_ffff);
        assert_eq!(NotificationData::from_u32(0x8005_ffff), data);
        assert_eq!(NotificationData::packed(1, 5, false).to_u32(), 0x0005_0001);
    }
}
