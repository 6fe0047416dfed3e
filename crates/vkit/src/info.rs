//! `vkit info`: what a device is.

use crate::cli::InfoArgs;
use crate::failure::{Failure, Result};
use crate::output;
use crate::units::{size, thousands};
use serde::Serialize;
use serde_json::{Value, json};
use virtio_kit::spec::blk::Config;
use virtio_kit::spec::features;
use virtio_kit::transport::Transport;
use virtio_kit::{DeviceId, Status};
use virtio_kit_drivers::blk::{Info, RangeLimits};
use zerocopy::FromBytes;

#[derive(Serialize)]
struct Report {
    device: String,
    device_id: Option<u32>,
    transport: String,
    features: Vec<String>,
    queues: Vec<QueueSize>,
    config: Option<Value>,
}

#[derive(Serialize)]
struct QueueSize {
    index: u16,
    max_size: u16,
}

pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    let target = &args.target;
    let mut opened = target.open(1 << 20)?;
    let not_blk = opened.not_blk.take();
    let report = look(&mut *opened.transport, not_blk.as_deref())
        .map_err(|error| Failure::new(format_args!("{target}: {error}")))?;
    if args.json { output::json(&report) } else { show(&report, not_blk.as_deref()) }
}

/// Reads everything that can be read before features are agreed on.
fn look(
    transport: &mut dyn Transport,
    not_blk: Option<&str>,
) -> std::result::Result<Report, virtio_kit::transport::TransportError> {
    transport.reset()?;
    transport.set_status(Status::ACKNOWLEDGE)?;
    let id = transport.identity().device;
    let known = not_blk.is_none();
    let offered = transport.device_features()?;
    let mut queues = Vec::new();
    for index in 0..=u16::MAX {
        match transport.max_queue_size(index)? {
            0 => break,
            max_size => queues.push(QueueSize { index, max_size }),
        }
    }
    let mut config = None;
    if known && id == DeviceId::BLOCK {
        let mut bytes = [0; size_of::<Config>()];
        transport.read_config(0, &mut bytes)?;
        config = Config::read_from_bytes(&bytes).ok().map(|raw| blk_config(&Info::new(&raw, offered)));
    }
    let generic = |bit| features::name(DeviceId(0), bit).map_or_else(|| format!("bit {bit}"), str::to_owned);
    Ok(Report {
        device: if known { id.to_string().to_lowercase() } else { "unknown".into() },
        device_id: known.then_some(id.0),
        transport: transport.name().into(),
        features: if known {
            output::feature_names(offered, id)
        } else {
            offered.numbers().map(generic).collect()
        },
        queues,
        config,
    })
}

fn blk_config(info: &Info) -> Value {
    let no_bound = |value: u32| if value == u32::MAX { Value::Null } else { value.into() };
    let range = |limits: &Option<RangeLimits>| match limits {
        Some(limits) => json!({
            "max_sectors": no_bound(limits.max_sectors),
            "alignment_sectors": limits.alignment,
        }),
        None => Value::Null,
    };
    json!({
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
    })
}

fn show(report: &Report, not_blk: Option<&str>) -> Result<()> {
    let field = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    match (report.device_id, not_blk) {
        (Some(id), _) => field("device", &format!("{} (id {id})", report.device))?,
        (None, why) => field("device", &format!("unknown, no block device: {}", why.unwrap_or_default()))?,
    }
    field("transport", &report.transport)?;
    for (at, names) in report.features.chunks(6).enumerate() {
        field(if at == 0 { "features" } else { "" }, &names.join(" "))?;
    }
    let sizes: Vec<String> = report.queues.iter().map(|queue| queue.max_size.to_string()).collect();
    let mut queues = format!("{}, of up to {} descriptors", sizes.len(), sizes.join(", "));
    if let Some(first) = sizes.first()
        && sizes.iter().all(|size| size == first)
    {
        queues = format!("{}, of up to {first} descriptors", sizes.len());
    }
    field("queues", &queues)?;
    let Some(Value::Object(config)) = &report.config else { return Ok(()) };
    let mut first = "config";
    for (name, value) in config {
        let value = match (name.as_str(), value) {
            ("bytes", Value::Number(bytes)) => {
                let bytes = bytes.as_u64().unwrap_or(0);
                format!("{} ({})", thousands(bytes), size(bytes))
            }
            (_, Value::Object(inner)) => {
                let inner: Vec<String> =
                    inner.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
                inner.join(", ")
            }
            (_, value) => plain(value),
        };
        output::line(&format!("{first:<10} {name:<22} {value}"))?;
        first = "";
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}
