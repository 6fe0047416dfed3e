//! Names of the bits, for printing.

use core::fmt;

use super::{F, Features};
use crate::{DeviceId, blk, console, net, vsock};

/// The document's name of a bit without its prefix, such as `"CSUM"` or `"RING_PACKED"`.
///
/// Bit 41 is `"ADMIN_VQ"` for every device type, bits 24 to 40 and 43 are generic too.
pub fn name(device: DeviceId, bit: u32) -> Option<&'static str> {
    find(F::NAMES, bit).or_else(|| find(own(device), bit))
}

impl Features {
    /// For printing: the names of the bits, joined by ` | `, a number where there is none.
    pub const fn named(self, device: DeviceId) -> Named {
        Named { features: self, device }
    }
}

/// A set that prints as names; see [`Features::named`].
#[derive(Clone, Copy, Debug)]
pub struct Named {
    features: Features,
    device: DeviceId,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, bit) in self.features.numbers().enumerate() {
            if i > 0 {
                f.write_str(" | ")?;
            }
            match name(self.device, bit) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "bit {bit}")?,
            }
        }
        Ok(())
    }
}

type Names = &'static [(u32, &'static str)];

fn find(names: Names, bit: u32) -> Option<&'static str> {
    names.iter().find(|entry| entry.0 == bit).map(|entry| entry.1)
}

/// Bits of the device types (5.1.3, 5.2.3, ... 5.23.3).
fn own(device: DeviceId) -> Names {
    match device {
        DeviceId::NETWORK => net::F::NAMES,
        DeviceId::BLOCK => blk::F::NAMES,
        DeviceId::CONSOLE => console::F::NAMES,
        DeviceId::SOCKET => vsock::F::NAMES,
        DeviceId::BALLOON => &[
            (0, "MUST_TELL_HOST"),
            (1, "STATS_VQ"),
            (2, "DEFLATE_ON_OOM"),
            (3, "FREE_PAGE_HINT"),
            (4, "PAGE_POISON"),
            (5, "PAGE_REPORTING"),
        ],
        DeviceId::SCSI => &[(0, "INOUT"), (1, "HOTPLUG"), (2, "CHANGE"), (3, "T10_PI")],
        DeviceId::GPU => &[
            (0, "VIRGL"),
            (1, "EDID"),
            (2, "RESOURCE_UUID"),
            (3, "RESOURCE_BLOB"),
            (4, "CONTEXT_INIT"),
            (5, "BLOB_ALIGNMENT"),
        ],
        DeviceId::RTC => &[(0, "ALARM")],
        DeviceId::CRYPTO => &[
            (0, "REVISION_1"),
            (1, "CIPHER_STATELESS_MODE"),
            (2, "HASH_STATELESS_MODE"),
            (3, "MAC_STATELESS_MODE"),
            (4, "AEAD_STATELESS_MODE"),
            (5, "AKCIPHER_STATELESS_MODE"),
        ],
        DeviceId::IOMMU => &[
            (0, "INPUT_RANGE"),
            (1, "DOMAIN_RANGE"),
            (2, "MAP_UNMAP"),
            (3, "BYPASS"),
            (4, "PROBE"),
            (5, "MMIO"),
            (6, "BYPASS_CONFIG"),
        ],
        DeviceId::MEMORY => &[(0, "ACPI_PXM"), (1, "UNPLUGGED_INACCESSIBLE"), (2, "PERSISTENT_SUSPEND")],
        DeviceId::SOUND => &[(0, "CTLS")],
        DeviceId::FILE_SYSTEM => &[(0, "NOTIFICATION")],
        DeviceId::PMEM => &[(0, "SHMEM_REGION")],
        DeviceId::SCMI => &[(0, "P2A_CHANNELS"), (1, "SHARED_MEMORY")],
        DeviceId::I2C => &[(0, "ZERO_LENGTH_REQUEST")],
        DeviceId::CAN => &[(0, "CAN_CLASSIC"), (1, "CAN_FD"), (2, "RTR_FRAMES"), (3, "LATE_TX_ACK")],
        DeviceId::GPIO => &[(0, "IRQ")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn names_and_numbers_are_unique_per_device() {
        for id in 0..64 {
            let names = own(DeviceId(id));
            for (i, a) in names.iter().enumerate() {
                assert_eq!(find(names, a.0), Some(a.1));
                assert!(names[i + 1..].iter().all(|b| b.0 > a.0 && b.1 != a.1), "{a:?}");
                // Generic numbers are not reused, except by the two legacy network bits (5.1.3.2).
                assert!(find(F::NAMES, a.0).is_none() || a.1 == "GUEST_RSC4", "{a:?}");
            }
        }
    }

    #[test]
    fn generic_and_device_names() {
        assert_eq!(name(DeviceId::NETWORK, 0), Some("CSUM"));
        assert_eq!(name(DeviceId::BLOCK, 0), Some("BARRIER"));
        assert_eq!(name(DeviceId::NETWORK, 70), Some("IPSEC"));
        assert_eq!(name(DeviceId::ENTROPY, 34), Some("RING_PACKED"));
        assert_eq!(name(DeviceId::NETWORK, 41), Some("ADMIN_VQ"));
        assert_eq!(name(DeviceId::NETWORK, 42), Some("GUEST_RSC6"));
        assert_eq!(name(DeviceId::ENTROPY, 0), None);
        assert_eq!(name(DeviceId::NETWORK, 200), None);
    }

    #[test]
    fn a_set_prints_as_names() {
        let set = net::F::CSUM | F::VERSION_1 | Features::bit(127);
        assert_eq!(format!("{}", set.named(DeviceId::NETWORK)), "CSUM | VERSION_1 | bit 127");
        assert_eq!(format!("{}", Features::EMPTY.named(DeviceId::NETWORK)), "");
    }
}
