//! Flow filter (5.1.9.6): capabilities and resource objects of the administration commands.

use zerocopy::little_endian::{U16, U32};

codes! {
/// Capabilities of network devices (5.1.6).
pub struct Capability: u16 {
    /// [`FlowLimits`].
    FF_RESOURCE = 0x800 "VIRTIO_NET_FF_RESOURCE_CAP",
    /// [`FlowSelectors`].
    FF_SELECTOR = 0x801 "VIRTIO_NET_FF_SELECTOR_CAP",
    /// [`FlowActions`].
    FF_ACTION = 0x802 "VIRTIO_NET_FF_ACTION_CAP",
    /// IPsec resources (5.9).
    IPSEC_RESOURCE = 0x803 "VIRTIO_NET_IPSEC_RESOURCE_CAP",
    /// IPsec security associations (5.9).
    IPSEC_SA = 0x804 "VIRTIO_NET_IPSEC_SA_CAP",
}

/// Resource objects of network devices (5.1.7).
pub struct ResourceObject: u16 {
    /// [`FlowGroup`].
    FF_GROUP = 0x200 "VIRTIO_NET_RESOURCE_OBJ_FF_GROUP",
    /// [`FlowClassifier`].
    FF_CLASSIFIER = 0x201 "VIRTIO_NET_RESOURCE_OBJ_FF_CLASSIFIER",
    /// [`FlowRule`].
    FF_RULE = 0x202 "VIRTIO_NET_RESOURCE_OBJ_FF_RULE",
    /// Outbound security association (5.9).
    IPSEC_OUTB_SA = 0x203 "VIRTIO_NET_RESOURCE_OBJ_IPSEC_OUTB_SA",
    /// Inbound security association (5.9).
    IPSEC_INB_SA = 0x204 "VIRTIO_NET_RESOURCE_OBJ_IPSEC_INB_SA",
}

/// Packet header that a selector looks at (5.1.9.6.2).
pub struct FlowSelectorType: u8 {
    /// Ethernet, 14 bytes.
    ETH = 1 "VIRTIO_NET_FF_MASK_TYPE_ETH",
    /// IPv4, 20 bytes.
    IPV4 = 2 "VIRTIO_NET_FF_MASK_TYPE_IPV4",
    /// IPv6, 40 bytes.
    IPV6 = 3 "VIRTIO_NET_FF_MASK_TYPE_IPV6",
    /// TCP, 20 bytes.
    TCP = 4 "VIRTIO_NET_FF_MASK_TYPE_TCP",
    /// UDP, 8 bytes.
    UDP = 5 "VIRTIO_NET_FF_MASK_TYPE_UDP",
    /// ESP, 8 bytes.
    ESP = 6 "VIRTIO_NET_FF_MASK_TYPE_ESP",
}

/// What a rule does with a packet (5.1.9.6.2).
pub struct FlowAction: u8 {
    /// Drop it.
    DROP = 1 "VIRTIO_NET_FF_ACTION_DROP",
    /// Put it into a receive queue.
    DIRECT_RX_VQ = 2 "VIRTIO_NET_FF_ACTION_DIRECT_RX_VQ",
    /// Process it with IPsec.
    IPSEC = 3 "VIRTIO_NET_FF_ACTION_IPSEC",
    /// Process it with IPsec, then filter again.
    IPSEC_RECIRCULATE = 4 "VIRTIO_NET_FF_ACTION_IPSEC_RECIRCULATE",
}
}

wire! {
/// Limits (5.1.9.6.2).
#[doc(alias = "virtio_net_ff_cap_data")]
pub struct FlowLimits: 20 {
    /// Most groups.
    pub groups_limit: U32,
    /// Most classifiers.
    pub classifiers_limit: U32,
    /// Most rules in all groups.
    pub rules_limit: U32,
    /// Most rules in a group.
    pub rules_per_group_limit: U32,
    /// Highest priority of a rule.
    pub last_rule_priority: u8,
    /// Most selectors in a classifier.
    pub selectors_per_classifier_limit: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// A selector; `length` bytes of mask in network byte order follow (5.1.9.6.2).
#[doc(alias = "virtio_net_ff_selector")]
pub struct FlowSelector: 8 {
    /// [`FlowSelectorType`].
    #[doc(alias = "type")]
    pub kind: u8,
    /// [`FlowMaskFlags`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Bytes of the mask.
    pub length: u8,
    /// Zero.
    pub reserved1: [u8; 3],
}

/// What the list of supported selectors starts with; [`FlowSelector`]s follow (5.1.9.6.2).
#[doc(alias = "virtio_net_ff_cap_mask_data")]
pub struct FlowSelectors: 8 {
    /// Number of selectors.
    pub count: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// What the list of supported actions starts with; [`FlowAction`] bytes follow, ascending (5.1.9.6.2).
#[doc(alias = "virtio_net_ff_actions")]
pub struct FlowActions: 8 {
    /// Number of actions.
    pub count: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A group of rules (5.1.9.6.3).
#[doc(alias = "virtio_net_resource_obj_ff_group")]
pub struct FlowGroup: 2 {
    /// Groups of higher priority come first.
    pub group_priority: U16,
}

/// What a classifier starts with; [`FlowSelector`]s follow (5.1.9.6.3).
#[doc(alias = "virtio_net_resource_obj_ff_classifier")]
pub struct FlowClassifier: 8 {
    /// Number of selectors.
    pub count: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A rule; `key_length` bytes of keys follow (5.1.9.6.3).
#[doc(alias = "virtio_net_resource_obj_ff_rule")]
pub struct FlowRule: 16 {
    /// Id of the group.
    pub group_id: U32,
    /// Id of the classifier.
    pub classifier_id: U32,
    /// Rules of higher priority come first.
    pub rule_priority: u8,
    /// Bytes of the keys.
    pub key_length: u8,
    /// [`FlowAction`].
    pub action: u8,
    /// Zero.
    pub reserved: u8,
    /// Receive queue for [`FlowAction::DIRECT_RX_VQ`].
    pub vq_index: U16,
    /// Zero.
    pub reserved1: [u8; 2],
}
}

bitflags::bitflags! {
    /// Flags of a supported selector (5.1.9.6.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FlowMaskFlags: u8 {
        /// Masks may be partial within a field.
        #[doc(alias = "VIRTIO_NET_FF_MASK_F_PARTIAL_MASK")]
        const PARTIAL_MASK = 1;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_document() {
        assert_eq!(offset_of!(FlowSelector, length), 4);
        assert_eq!([offset_of!(FlowRule, action), offset_of!(FlowRule, vq_index)], [10, 12]);
        assert_eq!(offset_of!(FlowLimits, last_rule_priority), 16);
    }
}
