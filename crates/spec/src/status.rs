//! Device status (2.1).

use core::fmt;

bitflags::bitflags! {
    /// The device status field (2.1). Zero is reset; the driver only ever adds bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Status: u8 {
        /// The driver side has seen the device.
        #[doc(alias = "VIRTIO_CONFIG_S_ACKNOWLEDGE")]
        const ACKNOWLEDGE = 1;
        /// The driver side has a driver for the device.
        #[doc(alias = "VIRTIO_CONFIG_S_DRIVER")]
        const DRIVER = 2;
        /// The driver is ready: the device may work.
        #[doc(alias = "VIRTIO_CONFIG_S_DRIVER_OK")]
        const DRIVER_OK = 4;
        /// Features are settled; to be read back, since the device may refuse.
        #[doc(alias = "VIRTIO_CONFIG_S_FEATURES_OK")]
        const FEATURES_OK = 8;
        /// The device is suspended (3.4).
        #[doc(alias = "VIRTIO_CONFIG_S_SUSPEND")]
        const SUSPEND = 16;
        /// The device cannot go on without a reset. Set by the device.
        #[doc(alias = "VIRTIO_CONFIG_S_NEEDS_RESET")]
        const DEVICE_NEEDS_RESET = 64;
        /// The driver side has given up.
        #[doc(alias = "VIRTIO_CONFIG_S_FAILED")]
        const FAILED = 128;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

impl Status {
    /// No bit: reset.
    pub const RESET: Self = Self::empty();
}

impl fmt::Display for Status {
    /// The names joined by ` | `; `RESET` for zero; unknown bits as a number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("RESET") } else { bitflags::parser::to_writer(self, f) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn bits_have_the_numbers_of_the_document() {
        let all = [
            Status::ACKNOWLEDGE,
            Status::DRIVER,
            Status::DRIVER_OK,
            Status::FEATURES_OK,
            Status::SUSPEND,
            Status::DEVICE_NEEDS_RESET,
            Status::FAILED,
        ];
        assert_eq!(all.map(|s| s.bits()), [1, 2, 4, 8, 16, 64, 128]);
    }

    #[test]
    fn prints_the_names() {
        assert_eq!((Status::ACKNOWLEDGE | Status::DRIVER).to_string(), "ACKNOWLEDGE | DRIVER");
        assert_eq!(Status::RESET.to_string(), "RESET");
        assert_eq!(Status::from_bits_retain(0x21).to_string(), "ACKNOWLEDGE | 0x20");
    }
}
