//! Block devices: over a file, over memory, over nothing.

use super::options::{self, Options};
use super::{Host, Recipe, Type};
use crate::failure::{Failure, Result};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_kit::device::Device;
use virtio_kit::spec::blk;
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::blk::{Blk, MemoryBackend, NullBackend};
use virtio_kit_drivers::blk::{Info, RangeLimits};
use virtio_kit_linux::storage::{self, FileBackend};
use zerocopy::FromBytes;

/// Block devices, for the table of types.
pub(crate) const TYPE: Type = Type {
    name: "blk",
    id: DeviceId::BLOCK,
    a: "a block device",
    usage: "\
in-process:blk?image=FILE    a block device in this process, over a file
in-process:blk?size=1G       the same, over memory
in-process:blk?null          the same, over nothing: reads touch no data (1T, or size=)
                             more with &: queues=4 read_only=on direct=on (past the page cache)",
    parse: |options| Ok(Arc::new(parse(options)?)),
    unlike,
    config,
};

/// A block device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) storage: Storage,
    pub(crate) queues: u16,
    pub(crate) read_only: bool,
    pub(crate) direct: bool,
}

/// What a device in this process stores its data in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Image(PathBuf),
    Memory(u64),
    Null(u64),
}

impl Disk {
    pub(crate) fn new(storage: Storage) -> Self {
        Self { storage, queues: 1, read_only: false, direct: false }
    }
}

fn parse(options: &mut Options<'_>) -> options::Result<Disk> {
    let image = options.file("image")?;
    let size = options.sectors("size")?;
    let null = options.flag("null")?;
    let queues = options.number("queues", 1..=256)?.map_or(1, |queues| queues as u16);
    let (read_only, direct) = (options.switch("read_only")?, options.switch("direct")?);
    let storage = match (image, size, null) {
        (Some(image), None, false) => Storage::Image(image),
        (None, Some(size), false) => Storage::Memory(size),
        (None, size, true) => Storage::Null(size.unwrap_or(1 << 40)),
        (None, None, false) => {
            return Err("nothing to store data in: add ?image=FILE, ?size=1G or ?null".into());
        }
        (Some(_), ..) => {
            return Err("an image has its own size, and is not null: leave the others out".into());
        }
    };
    if !matches!(storage, Storage::Image(_)) && (read_only || direct) {
        return Err("read_only and direct are for an image".into());
    }
    Ok(Disk { storage, queues, read_only, direct })
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.storage {
            Storage::Image(image) => write!(f, "image={}", image.display()),
            Storage::Memory(size) => write!(f, "size={size}"),
            Storage::Null(_) => write!(f, "null"),
        }
    }
}

impl Recipe for Disk {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        Ok(match &self.storage {
            Storage::Image(path) => {
                let (read_only, direct) = (self.read_only, self.direct);
                let options = storage::Options { read_only, direct, ..storage::Options::default() };
                let backend = FileBackend::open(path, options).map_err(Failure::new)?;
                Box::new(Blk::new(backend, self.queues))
            }
            Storage::Memory(size) => Box::new(Blk::new(MemoryBackend::new(*size), self.queues)),
            Storage::Null(size) => Box::new(Blk::new(NullBackend::new(*size), self.queues)),
        })
    }
}

/// What shows that a back-end with these features is no block device.
fn unlike(offered: Features, has_config: bool) -> Option<String> {
    if !has_config {
        return Some("it has no configuration space".into());
    }
    // Every block device that exists says at least one of these, and a type without features says none.
    let usual = blk::F::SEG_MAX | blk::F::SIZE_MAX | blk::F::BLK_SIZE | blk::F::FLUSH | blk::F::TOPOLOGY;
    (!offered.intersects(usual)).then(|| "it offers no feature of a block device".into())
}

fn config(transport: &mut dyn Transport, offered: Features) -> std::result::Result<Value, TransportError> {
    let mut bytes = [0; size_of::<blk::Config>()];
    transport.read_config(0, &mut bytes)?;
    let raw = blk::Config::read_from_bytes(&bytes).unwrap_or_default();
    let info = &Info::new(&raw, offered);
    let no_bound = |value: u32| if value == u32::MAX { Value::Null } else { value.into() };
    let range = |limits: &Option<RangeLimits>| match limits {
        Some(limits) => json!({
            "max_sectors": no_bound(limits.max_sectors),
            "alignment_sectors": limits.alignment,
        }),
        None => Value::Null,
    };
    Ok(json!({
        "bytes": info.bytes(),
        "sectors": info.sectors,
        "block_size": info.block_size,
        "read_only": info.read_only,
        "flush": info.flush,
        "writeback": info.writeback,
        "writeback_can_change": info.can_set_writeback,
        "queues": info.queues,
        "max_segments": info.limits.segments,
        "max_segment_bytes": no_bound(info.limits.segment_size),
        "topology": info.topology.as_ref().map(|topology| json!({
            "logical_per_physical": topology.logical_per_physical,
            "alignment_offset": topology.alignment_offset,
            "min_io_blocks": topology.min_io_size,
            "opt_io_blocks": topology.opt_io_size,
        })),
        "discard": range(&info.discard),
        "write_zeroes": range(&info.write_zeroes),
        "write_zeroes_may_unmap": info.write_zeroes_may_unmap,
        "secure_erase": range(&info.secure_erase),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> Disk {
        let mut options = Options::new(text).unwrap();
        let disk = parse(&mut options).unwrap();
        options.finish().unwrap();
        disk
    }

    #[test]
    fn block_devices_are_read_with_their_options() {
        assert_eq!(disk("image=/x=y"), Disk::new(Storage::Image("/x=y".into())));
        assert_eq!(disk("size=1G&queues=4"), Disk { queues: 4, ..Disk::new(Storage::Memory(1 << 30)) });
        assert_eq!(disk("null"), Disk::new(Storage::Null(1 << 40)));
        assert_eq!(disk("null&size=1M"), Disk::new(Storage::Null(1 << 20)));
    }

    #[test]
    fn a_network_device_is_told_from_a_block_device() {
        use super::super::TYPES;
        use virtio_kit::F;
        use virtio_kit::spec::{features, net};
        let not_blk = |offered| TYPES[0].unlike(offered, true);
        // qemu-storage-daemon and DPDK's net_vhost, as they are.
        assert_eq!(not_blk(Features::from_low(0x1_7500_7e46)), None);
        assert!(not_blk(Features::from_low(0xd_7c66_e7cb)).is_some());
        assert!(not_blk(net::F::MQ | F::VERSION_1).is_some());
        assert!(not_blk(F::VERSION_1).is_some());
        assert_eq!(features::name(DeviceId::BLOCK, 22), None);
    }
}
