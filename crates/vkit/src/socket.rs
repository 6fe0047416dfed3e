//! Devices on vhost-user sockets.

use crate::failure::{Failure, Result};
use crate::target::{Host, Opened};
use std::path::Path;
use virtio_kit::spec::{blk, features};
use virtio_kit::transport::Transport;
use virtio_kit::{DeviceId, F, Features};
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};

/// Bits 0 to 23 belong to the device's type.
const OF_TYPE: Features = Features::from_low(0xff_ffff);

/// Connects to the back-end at `socket`, with `memory` bytes shared.
pub(crate) fn open(socket: &Path, memory: usize) -> Result<Opened> {
    let options = Options { arena_len: memory, ..Options::new(DeviceId::BLOCK) };
    let mut front_end = FrontEnd::connect(socket, options).map_err(Failure::new)?;
    let not_blk = if front_end.protocol_features().contains(ProtocolFeatures::CONFIG) {
        not_blk(front_end.device_features().map_err(Failure::new)?)
    } else {
        Some("it has no configuration space".into())
    };
    Ok(Opened { transport: Box::new(front_end), host: Host::default(), not_blk })
}

/// What shows that a device is no block device. No message asks a back-end for its type, but each type has
/// features of its own.
fn not_blk(offered: Features) -> Option<String> {
    let own = (offered & OF_TYPE).numbers();
    let mut foreign = own.filter(|&bit| features::name(DeviceId::BLOCK, bit).is_none());
    if let Some(bit) = foreign.next() {
        return Some(format!("it offers feature {bit}, which no block device has"));
    }
    // Every block device that exists says at least one of these, and a type without features says none.
    let usual = blk::F::SEG_MAX | blk::F::SIZE_MAX | blk::F::BLK_SIZE | blk::F::FLUSH | blk::F::TOPOLOGY;
    (offered.contains(F::VERSION_1) && !offered.intersects(usual))
        .then(|| "it offers no feature of a block device".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_kit::spec::net;

    #[test]
    fn a_network_device_is_told_from_a_block_device() {
        // qemu-storage-daemon and DPDK's net_vhost, as they are.
        assert_eq!(not_blk(Features::from_low(0x1_7500_7e46)), None);
        assert!(not_blk(Features::from_low(0xd_7c66_e7cb)).is_some());
        assert!(not_blk(net::F::MQ | F::VERSION_1).is_some());
        assert!(not_blk(F::VERSION_1).is_some());
    }
}
