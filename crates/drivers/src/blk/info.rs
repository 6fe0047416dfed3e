//! What a device says of itself, decoded (5.2.4).

use super::SECTOR;
use virtio_kit::Features;
use virtio_kit::spec::blk::{Config, F};

/// A block device's properties. Where the device offers no value, there is a default or `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether writing is forbidden (RO).
    pub read_only: bool,
    /// Preferred unit of requests in bytes (BLK_SIZE).
    pub block_size: u32,
    /// What requests are bounded by.
    pub limits: Limits,
    /// Physical blocks and preferred sizes (TOPOLOGY).
    pub topology: Option<TopologyInfo>,
    /// Whether flushing is possible, and so completed writes may be volatile until then (FLUSH).
    pub flush: bool,
    /// Whether the cache is in writeback mode now (CONFIG_WCE); otherwise it follows from `flush`.
    pub writeback: bool,
    /// Whether the cache mode can be changed (CONFIG_WCE).
    pub can_set_writeback: bool,
    /// Bounds of discard (DISCARD).
    pub discard: Option<RangeLimits>,
    /// Bounds of write-zeroes (WRITE_ZEROES).
    pub write_zeroes: Option<RangeLimits>,
    /// Whether write-zeroes may give space up.
    pub write_zeroes_may_unmap: bool,
    /// Bounds of secure erase (SECURE_ERASE).
    pub secure_erase: Option<RangeLimits>,
    /// Request queues that the device has (MQ).
    pub queues: u16,
}

/// What reads and writes are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most buffers of one request (SEG_MAX).
    pub segments: u32,
    /// Most bytes of one buffer (SIZE_MAX).
    pub segment_size: u32,
}

/// What discard, write-zeroes or secure erase are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// Most sectors of one request.
    pub max_sectors: u32,
    /// Sectors to which a range should be aligned; 1 if it does not matter.
    pub alignment: u32,
}

/// Physical blocks and preferred sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopologyInfo {
    /// Logical blocks in a physical one.
    pub logical_per_physical: u32,
    /// Logical blocks before the first physical one.
    pub alignment_offset: u8,
    /// Least efficient request, in logical blocks.
    pub min_io_size: u16,
    /// Best request, in logical blocks; 0 if not known.
    pub opt_io_size: u32,
}

impl Info {
    /// Decodes a configuration under the features agreed on.
    pub fn new(config: &Config, features: Features) -> Self {
        let has = |feature| features.contains(feature);
        // A device that offers a bound of 0 offers no bound.
        let bound = |feature, value: u32| if has(feature) && value != 0 { value } else { u32::MAX };
        let range = |feature, max: u32, alignment: u32| {
            let max_sectors = if max == 0 { u32::MAX } else { max };
            has(feature).then_some(RangeLimits { max_sectors, alignment: alignment.max(1) })
        };
        let block_size = config.blk_size.get();
        let topology = &config.topology;
        Self {
            sectors: config.capacity.get(),
            read_only: has(F::RO),
            block_size: if has(F::BLK_SIZE) && block_size >= SECTOR as u32 {
                block_size
            } else {
                SECTOR as u32
            },
            limits: Limits {
                segments: bound(F::SEG_MAX, config.seg_max.get()).min(126),
                segment_size: bound(F::SIZE_MAX, config.size_max.get()),
            },
            topology: has(F::TOPOLOGY).then(|| TopologyInfo {
                logical_per_physical: 1u32.checked_shl(topology.physical_block_exp.into()).unwrap_or(1),
                alignment_offset: topology.alignment_offset,
                min_io_size: topology.min_io_size.get(),
                opt_io_size: topology.opt_io_size.get(),
            }),
            flush: has(F::FLUSH),
            writeback: if has(F::CONFIG_WCE) { config.writeback != 0 } else { has(F::FLUSH) },
            can_set_writeback: has(F::CONFIG_WCE),
            discard: range(
                F::DISCARD,
                config.max_discard_sectors.get(),
                config.discard_sector_alignment.get(),
            ),
            write_zeroes: range(F::WRITE_ZEROES, config.max_write_zeroes_sectors.get(), 1),
            write_zeroes_may_unmap: has(F::WRITE_ZEROES) && config.write_zeroes_may_unmap != 0,
            secure_erase: range(
                F::SECURE_ERASE,
                config.max_secure_erase_sectors.get(),
                config.secure_erase_sector_alignment.get(),
            ),
            queues: if has(F::MQ) { config.num_queues.get().max(1) } else { 1 },
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }
}
