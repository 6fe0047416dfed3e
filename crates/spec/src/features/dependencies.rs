//! What each bit requires.

use super::{F, Features};
use crate::{DeviceId, blk, net};

/// A rule: `feature` may be set only together with at least one bit of `requires_any_of`.
///
/// A bit that requires several others has one rule for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The bit that the rule is about.
    pub feature: Features,
    /// The bits of which one has to be set too.
    pub requires_any_of: Features,
}

impl Dependency {
    /// Whether `features` obeys this rule.
    pub const fn is_met(self, features: Features) -> bool {
        !features.intersects(self.feature) || features.intersects(self.requires_any_of)
    }
}

/// The rules for a device type, generic ones first (2.2.1, 2.2.2, 5.1.3.1, ...).
pub fn dependencies(device: DeviceId) -> impl Iterator<Item = Dependency> {
    let own: &'static [Dependency] = match device {
        DeviceId::NETWORK => net::DEPENDENCIES,
        DeviceId::BLOCK => blk::DEPENDENCIES,
        DeviceId::GPU => GPU,
        DeviceId::CRYPTO => CRYPTO,
        DeviceId::CAN => CAN,
        _ => &[],
    };
    // Without VERSION_1, bit 41 of a network device is the legacy GUEST_RSC4.
    let generic =
        GENERIC.iter().filter(move |rule| device != DeviceId::NETWORK || rule.feature != F::ADMIN_VQ);
    generic.chain(own).copied()
}

/// The first rule that `features`, accepted or offered, breaks; `None` if it is a valid set.
pub fn unmet(features: Features, device: DeviceId) -> Option<Dependency> {
    unmet_all(features, device).next()
}

/// Every rule that `features`, accepted or offered, breaks.
pub fn unmet_all(features: Features, device: DeviceId) -> impl Iterator<Item = Dependency> {
    dependencies(device).filter(move |rule| !rule.is_met(features))
}

/// The first rule that an offered set breaks: the rules of [`unmet`], and those that bind only the device's offer.
pub fn unmet_offer(offered: Features, device: DeviceId) -> Option<Dependency> {
    let own: &'static [Dependency] = match device {
        DeviceId::BLOCK => blk::OFFER_DEPENDENCIES,
        _ => &[],
    };
    unmet(offered, device).or_else(|| own.iter().copied().find(|rule| !rule.is_met(offered)))
}

/// A list of rules: `BIT: A | B, C;` means one of A and B, and also C.
macro_rules! rules {
    ($( $feature:ident: $( $($any:ident)|+ ),+; )*) => {
        &[$($(
            $crate::features::Dependency {
                feature: F::$feature,
                requires_any_of: $crate::Features::EMPTY$(.union(F::$any))+,
            },
        )+)*]
    };
}
pub(crate) use rules;

/// Bits above 31 do not exist on a legacy interface (2.2.3, 4.1.4.10).
const GENERIC: &[Dependency] = rules! {
    ACCESS_PLATFORM: VERSION_1;
    RING_PACKED: VERSION_1;
    IN_ORDER: VERSION_1;
    ORDER_PLATFORM: VERSION_1;
    SR_IOV: VERSION_1;
    NOTIFICATION_DATA: VERSION_1;
    NOTIF_CONFIG_DATA: VERSION_1;
    RING_RESET: VERSION_1;
    ADMIN_VQ: VERSION_1;
    SUSPEND: VERSION_1;
};

const fn rule(feature: u32, requires: u32) -> Dependency {
    Dependency { feature: Features::bit(feature), requires_any_of: Features::bit(requires) }
}

/// CONTEXT_INIT needs VIRGL, BLOB_ALIGNMENT needs RESOURCE_BLOB (5.7.3).
const GPU: &[Dependency] = &[rule(4, 0), rule(5, 3)];
/// Each stateless mode needs REVISION_1 (5.9.3.1).
const CRYPTO: &[Dependency] = &[rule(1, 0), rule(2, 0), rule(3, 0), rule(4, 0), rule(5, 0)];
/// RTR_FRAMES needs CAN_CLASSIC (5.20.3.1).
const CAN: &[Dependency] = &[rule(2, 0)];

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_empty_set_is_valid_for_every_device() {
        for id in 0..64 {
            assert_eq!(unmet_offer(Features::EMPTY, DeviceId(id)), None);
        }
    }

    #[test]
    fn bits_above_31_need_version_1() {
        for bit in (33..=40).chain([41, 43]) {
            let set = Features::bit(bit);
            let rule = unmet(set, DeviceId::ENTROPY).unwrap();
            assert_eq!((rule.feature, rule.requires_any_of), (set, F::VERSION_1));
            assert_eq!(unmet(set | F::VERSION_1, DeviceId::ENTROPY), None);
        }
    }

    #[test]
    fn bit_41_of_a_legacy_network_device_is_not_admin_vq() {
        assert_eq!(unmet(net::F::GUEST_RSC4, DeviceId::NETWORK), None);
        assert!(unmet(F::ADMIN_VQ, DeviceId::BLOCK).is_some());
    }

    #[test]
    fn every_broken_rule_is_listed() {
        let set = F::RING_PACKED | F::IN_ORDER | net::F::MQ;
        let broken: Vec<_> = unmet_all(set, DeviceId::NETWORK).map(|rule| rule.feature).collect();
        assert_eq!(broken, [F::RING_PACKED, F::IN_ORDER, net::F::MQ]);
        assert_eq!(unmet(set, DeviceId::BLOCK).unwrap().feature, F::RING_PACKED);
    }

    #[test]
    fn rules_of_the_devices_without_a_module() {
        let crypto = |bits| unmet(Features::from_low(bits), DeviceId::CRYPTO);
        for mode in 1..=5 {
            assert!(crypto(1 << mode).is_some());
            assert!(crypto(1 << mode | 1).is_none());
        }
        let gpu = |bits| unmet(Features::from_low(bits), DeviceId::GPU);
        assert!(gpu(1 << 4).is_some() && gpu(1 << 4 | 1).is_none());
        assert!(gpu(1 << 5).is_some() && gpu(1 << 5 | 1 << 3).is_none());
        let can = |bits| unmet(Features::from_low(bits), DeviceId::CAN);
        assert!(can(1 << 2).is_some() && can(1 << 2 | 1).is_none());
    }

    #[test]
    fn no_rule_requires_its_own_bit() {
        for rule in (0..64).flat_map(|id| dependencies(DeviceId(id))) {
            assert_eq!(rule.feature.len(), 1);
            assert!(!rule.requires_any_of.is_empty() && !rule.requires_any_of.intersects(rule.feature));
        }
    }
}
