//! What the device says of itself (5.2.4).

use super::service::Shared;
use super::storage::Backend;
use virtio_kit::spec::blk::{Config, SECTOR};

/// What requests are bounded by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most data segments of a request.
    pub(super) seg_max: u32,
    /// Most bytes of a segment.
    pub(super) size_max: u32,
    /// Most sectors of one discard or write-zeroes.
    pub(super) range_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seg_max: 126, size_max: 1 << 20, range_max: 1 << 21 }
    }
}

pub(super) fn config(backend: &impl Backend, queues: u16, limits: &Limits, shared: &Shared) -> Config {
    let mut config = Config::default();
    let sectors = shared.len() / u64::from(SECTOR as u32);
    let blocks = backend.block_size() / SECTOR as u32;
    config.capacity = sectors.into();
    config.size_max = limits.size_max.into();
    config.seg_max = limits.seg_max.into();
    config.blk_size = backend.block_size().into();
    config.topology.min_io_size = 1.into();
    config.topology.opt_io_size = 0.into();
    config.writeback = shared.writeback().into();
    config.num_queues = queues.into();
    config.max_discard_sectors = limits.range_max.into();
    config.max_discard_seg = 1.into();
    config.discard_sector_alignment = blocks.into();
    config.max_write_zeroes_sectors = limits.range_max.into();
    config.max_write_zeroes_seg = 1.into();
    config.max_secure_erase_sectors = limits.range_max.into();
    config.max_secure_erase_seg = 1.into();
    config.secure_erase_sector_alignment = blocks.into();
    config.write_zeroes_may_unmap = backend.can_discard().into();
    config
}
