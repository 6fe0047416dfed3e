//! A block device, opened and running.

use super::pump::Queue;
use crate::failure::{Failure, Result};
use crate::target::{Host, Target};
use crate::units::{SECTOR, thousands};
use virtio_kit::driver::Found;
use virtio_kit::{DeviceId, Features};
use virtio_kit_drivers::blk::{self, Blk, BlkDevice, Info, Options};

/// What a command needs of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// Queues, at most.
    pub(crate) queues: u16,
    /// Requests in flight on each queue.
    pub(crate) depth: u16,
    /// Buffers of a request.
    pub(crate) segments: u16,
    /// Bytes of a buffer.
    pub(crate) segment: usize,
}

impl Want {
    /// For copying: requests of 256 KiB.
    pub(crate) const COPY: Self = Self { queues: 1, depth: 32, segments: 4, segment: 64 << 10 };
    /// For requests without data.
    pub(crate) const NO_DATA: Self = Self { queues: 1, depth: 32, segments: 1, segment: 512 };

    /// As far as whoever runs the device allows.
    pub(crate) fn within(self, host: &Host) -> Self {
        if host.one_at_a_time { Self { depth: 1, ..self } } else { self }
    }

    /// The driver's part of it.
    pub(crate) fn options(&self) -> Options {
        // Short requests take up to four descriptors each.
        let queue_size = (self.depth * 4).next_power_of_two().clamp(64, 1024);
        Options { queues: self.queues, queue_size, segments: self.segments, ..Options::default() }
    }

    /// Bytes of memory that the device must reach for it.
    pub(crate) fn memory(&self) -> usize {
        let options = self.options();
        let tables = usize::from(options.segments + 2).next_power_of_two() * 16;
        let slot = tables.max(64) + 3 * 64 + 64;
        let data = usize::from(self.depth) * usize::from(self.segments) * self.segment.next_power_of_two();
        // Rings and everything's alignment besides.
        usize::from(self.queues) * (data + usize::from(options.queue_size) * slot + (256 << 10)) + (1 << 20)
    }
}

/// A block device that this process drives. Dropped, the device is reset before whoever runs it ends.
pub(crate) struct Session {
    pub(crate) queues: Vec<Queue>,
    pub(crate) info: Info,
    pub(crate) features: Features,
    _device: BlkDevice,
    pub(crate) host: Host,
}

impl Session {
    /// Opens a target, which must be a block device.
    pub(crate) fn open(target: &Target, want: &Want) -> Result<Self> {
        let opened = target.open(DeviceId::BLOCK, want.memory())?;
        let (blk, device) = blk::open(Found::new(opened.transport), &want.options())
            .map_err(|error| Failure::new(format_args!("{target}: {error}")))?;
        let Blk { queues, info, features, .. } = blk;
        Ok(Self { queues, info, features, _device: device, host: opened.host })
    }

    /// The first queue.
    pub(crate) fn queue(&mut self) -> Result<&mut Queue> {
        self.queues.first_mut().ok_or_else(|| Failure::new("the device has no queue"))
    }

    /// The range to work on: from `offset` for `length` bytes, or to the end.
    pub(crate) fn range(&self, target: &Target, offset: u64, length: Option<u64>) -> Result<u64> {
        let size = self.info.sectors.saturating_mul(SECTOR);
        let beyond = |what: String| {
            let size = thousands(size);
            Err(Failure::new(format_args!("{target}: {what} beyond the end: the device has {size} bytes")))
        };
        match length {
            _ if offset > size || (offset == size && size > 0) => {
                beyond(format!("offset {} is", thousands(offset)))
            }
            None => Ok(size - offset),
            Some(length) if length > size - offset => {
                beyond(format!("offset {} and length {} reach", thousands(offset), thousands(length)))
            }
            Some(length) => Ok(length),
        }
    }

    /// Fails if the device cannot be written to.
    pub(crate) fn writable(&self, target: &Target) -> Result<()> {
        if self.info.read_only {
            return Err(Failure::new(format_args!("{target}: the device is read-only")));
        }
        Ok(())
    }
}
