//! Feature bits and what they rely on.

use super::*;

#[test]
fn the_bits_have_the_protocols_numbers() {
    let numbers: Vec<u32> =
        ProtocolFeatures::all().iter_names().map(|(_, f)| f.bits().trailing_zeros()).collect();
    assert_eq!(numbers, (0..23).collect::<Vec<_>>());
    assert_eq!((F_PROTOCOL_FEATURES, F_LOG_ALL), (0x4000_0000, 0x400_0000));
}

#[test]
fn what_a_feature_relies_on_is_named_when_it_is_missing() {
    let set = ProtocolFeatures::INBAND_NOTIFICATIONS | ProtocolFeatures::REPLY_ACK;
    assert_eq!(set.missing(), ProtocolFeatures::BACKEND_REQ);
    assert!((set | ProtocolFeatures::BACKEND_REQ).missing().is_empty());
    assert!(ProtocolFeatures::from_bits_retain(0x8f2b).missing().is_empty(), "qemu-storage-daemon's");
    assert!(ProtocolFeatures::from_bits_retain(0x10cbf).missing().is_empty(), "DPDK's");
}
