//! Device ids (5) and the PCI ids made from them (4.1.2).

codes! {
/// A device type (5). The same number on every transport.
pub struct DeviceId: u32 {
    /// Invalid; on MMIO a place without a device, to be skipped silently (4.2.2.2).
    INVALID = 0,
    /// Network card (5.1).
    NETWORK = 1 "VIRTIO_ID_NET",
    /// Block device (5.2).
    BLOCK = 2 "VIRTIO_ID_BLOCK",
    /// Console (5.3).
    CONSOLE = 3 "VIRTIO_ID_CONSOLE",
    /// Entropy source (5.4).
    ENTROPY = 4 "VIRTIO_ID_RNG",
    /// Traditional memory balloon (5.5).
    BALLOON = 5 "VIRTIO_ID_BALLOON",
    /// ioMemory; number reserved.
    IO_MEMORY = 6,
    /// rpmsg; number reserved.
    RPMSG = 7,
    /// SCSI host (5.6).
    SCSI = 8 "VIRTIO_ID_SCSI",
    /// 9P transport; number reserved.
    NINE_P = 9 "VIRTIO_ID_9P",
    /// mac80211 wireless; number reserved.
    MAC80211_WLAN = 10,
    /// rproc serial; number reserved.
    RPROC_SERIAL = 11,
    /// CAIF; number reserved.
    CAIF = 12,
    /// New memory balloon; number reserved.
    MEMORY_BALLOON = 13,
    /// Graphics (5.7).
    GPU = 16 "VIRTIO_ID_GPU",
    /// Real time clock (5.23).
    RTC = 17 "VIRTIO_ID_CLOCK",
    /// Input: keyboard, pointer, ... (5.8).
    INPUT = 18 "VIRTIO_ID_INPUT",
    /// Socket (5.10).
    SOCKET = 19 "VIRTIO_ID_VSOCK",
    /// Crypto (5.9).
    CRYPTO = 20 "VIRTIO_ID_CRYPTO",
    /// Signal distribution module; number reserved.
    SIGNAL_DISTRIBUTION = 21,
    /// pstore; number reserved.
    PSTORE = 22,
    /// IOMMU (5.13).
    IOMMU = 23 "VIRTIO_ID_IOMMU",
    /// Memory hot-plug (5.15).
    MEMORY = 24 "VIRTIO_ID_MEM",
    /// Sound (5.14).
    SOUND = 25 "VIRTIO_ID_SOUND",
    /// File system (5.11).
    FILE_SYSTEM = 26 "VIRTIO_ID_FS",
    /// Persistent memory (5.19).
    PMEM = 27 "VIRTIO_ID_PMEM",
    /// Replay protected memory block (5.12).
    RPMB = 28 "VIRTIO_ID_RPMB",
    /// mac80211 wireless simulation; number reserved.
    MAC80211_HWSIM = 29,
    /// Video encoder; number reserved.
    VIDEO_ENCODER = 30,
    /// Video decoder; number reserved.
    VIDEO_DECODER = 31,
    /// System control and management interface (5.17).
    SCMI = 32 "VIRTIO_ID_SCMI",
    /// Nitro secure module; number reserved.
    NITRO_SECURE_MODULE = 33,
    /// I2C adapter (5.16).
    I2C = 34 "VIRTIO_ID_I2C_ADAPTER",
    /// Watchdog; number reserved.
    WATCHDOG = 35,
    /// CAN controller (5.20).
    CAN = 36 "VIRTIO_ID_CAN",
    /// Parameter server; number reserved.
    PARAMETER_SERVER = 38,
    /// Audio policy; number reserved.
    AUDIO_POLICY = 39,
    /// Bluetooth; number reserved.
    BLUETOOTH = 40,
    /// GPIO controller (5.18).
    GPIO = 41 "VIRTIO_ID_GPIO",
    /// RDMA; number reserved.
    RDMA = 42,
    /// Camera; number reserved.
    CAMERA = 43,
    /// ISM; number reserved.
    ISM = 44,
    /// SPI controller (5.21).
    SPI = 45 "VIRTIO_ID_SPI",
    /// Trusted execution environment; number reserved.
    TEE = 46,
    /// CPU balloon; number reserved.
    CPU_BALLOON = 47,
    /// Media: cameras, codecs (5.22).
    MEDIA = 48 "VIRTIO_ID_MEDIA",
    /// USB controller; number reserved.
    USB = 49,
}
}

/// PCI vendor id of every virtio device (4.1.2.1).
pub const PCI_VENDOR_ID: u16 = 0x1af4;

/// What is added to a device id to make the PCI device id (4.1.2).
pub const PCI_DEVICE_ID_BASE: u16 = 0x1040;

/// The last PCI device id of the virtio range (4.1.2).
pub const PCI_DEVICE_ID_LAST: u16 = 0x107f;

/// The transitional PCI device ids (4.1.2.1).
const TRANSITIONAL: [(u16, DeviceId); 7] = [
    (0x1000, DeviceId::NETWORK),
    (0x1001, DeviceId::BLOCK),
    (0x1002, DeviceId::BALLOON),
    (0x1003, DeviceId::CONSOLE),
    (0x1004, DeviceId::SCSI),
    (0x1005, DeviceId::ENTROPY),
    (0x1009, DeviceId::NINE_P),
];

impl DeviceId {
    /// The PCI device id, 0x1041 to 0x107f; `None` if the number does not fit there (4.1.2).
    pub fn pci(self) -> Option<u16> {
        let id = PCI_DEVICE_ID_BASE.checked_add(u16::try_from(self.0).ok()?)?;
        (PCI_DEVICE_ID_BASE < id && id <= PCI_DEVICE_ID_LAST).then_some(id)
    }

    /// The transitional PCI device id, for the seven types that have one (4.1.2.1).
    pub fn pci_transitional(self) -> Option<u16> {
        TRANSITIONAL.iter().find(|entry| entry.1 == self).map(|entry| entry.0)
    }

    /// The device type that a PCI device id of vendor [`PCI_VENDOR_ID`] stands for, transitional or not.
    pub fn from_pci(pci: u16) -> Option<Self> {
        if PCI_DEVICE_ID_BASE < pci && pci <= PCI_DEVICE_ID_LAST {
            return Some(Self(u32::from(pci - PCI_DEVICE_ID_BASE)));
        }
        TRANSITIONAL.iter().find(|entry| entry.0 == pci).map(|entry| entry.1)
    }
}

impl core::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "device id {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn the_unlisted_numbers_have_no_name() {
        for id in 0..=60 {
            assert_eq!(DeviceId(id).name().is_none(), matches!(id, 14 | 15 | 37 | 50..));
        }
    }

    #[test]
    fn pci_ids_round_trip() {
        for id in 1..=63 {
            let pci = DeviceId(id).pci().unwrap();
            assert_eq!(u32::from(pci), 0x1040 + id);
            assert_eq!(DeviceId::from_pci(pci), Some(DeviceId(id)));
            if let Some(old) = DeviceId(id).pci_transitional() {
                assert_eq!(DeviceId::from_pci(old), Some(DeviceId(id)));
            }
        }
        assert_eq!(DeviceId(0).pci(), None);
        assert_eq!(DeviceId(64).pci(), None);
        assert_eq!(DeviceId(u32::MAX).pci(), None);
        for pci in [0x0fff, 0x1006, 0x1008, 0x103f, 0x1040, 0x1080] {
            assert_eq!(DeviceId::from_pci(pci), None);
        }
    }

    #[test]
    fn transitional_ids() {
        assert_eq!(DeviceId::NETWORK.pci_transitional(), Some(0x1000));
        assert_eq!(DeviceId::NINE_P.pci_transitional(), Some(0x1009));
        assert_eq!(DeviceId::SOCKET.pci_transitional(), None);
    }

    #[test]
    fn prints_name_or_number() {
        assert_eq!(format!("{} {:?}", DeviceId::BLOCK, DeviceId(99)), "BLOCK DeviceId(99)");
    }
}
