//! One line of a driver's id table.

use crate::transport::Identity;
use virtio_kit_spec::DeviceId;

/// Which devices a driver can drive. What is `None` matches anything; the class is compared under a mask.
///
/// The counterpart of 2007's `VIRTIO_DEV_ID(id, class)` is [`DeviceMatch::id_and_class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMatch {
    /// Vendor id.
    pub vendor: Option<u32>,
    /// Virtio device id.
    pub device: Option<DeviceId>,
    /// Subsystem vendor id.
    pub subsystem_vendor: Option<u32>,
    /// Subsystem device id.
    pub subsystem_device: Option<u32>,
    /// Class code; only bits of `class_mask` count.
    pub class: u32,
    /// Which bits of the class must agree; 0 for any class.
    pub class_mask: u32,
}

impl DeviceMatch {
    /// Any device at all.
    pub const ANY: Self = Self {
        vendor: None,
        device: None,
        subsystem_vendor: None,
        subsystem_device: None,
        class: 0,
        class_mask: 0,
    };

    /// Every device of a type.
    pub const fn id(device: DeviceId) -> Self {
        Self { device: Some(device), ..Self::ANY }
    }

    /// Devices of a type and of exactly this class.
    pub const fn id_and_class(device: DeviceId, class: u32) -> Self {
        Self { device: Some(device), class, class_mask: u32::MAX, ..Self::ANY }
    }

    /// Whether a device is meant.
    pub fn matches(&self, device: &Identity) -> bool {
        self.vendor.is_none_or(|v| v == device.vendor)
            && self.device.is_none_or(|d| d == device.device)
            && self.subsystem_vendor.is_none_or(|v| v == device.subsystem_vendor)
            && self.subsystem_device.is_none_or(|d| d == device.subsystem_device)
            && (self.class ^ device.class) & self.class_mask == 0
    }
}
