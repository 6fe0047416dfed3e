//! `vkit info`: what a device is.

use crate::cli::InfoArgs;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::{Type, What};
use crate::units::{size, thousands};
use serde::Serialize;
use serde_json::Value;
use virtio_kit::spec::features;
use virtio_kit::transport::Transport;
use virtio_kit::{DeviceId, Status};

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
    let mut opened = target.look(args.device, 1 << 20)?;
    let report = look(&mut *opened.transport, &opened.what)
        .map_err(|error| Failure::new(format_args!("{target}: {error}")))?;
    if args.json { output::json(&report) } else { show(&report, &opened.what) }
}

/// Reads everything that can be read before features are agreed on.
fn look(
    transport: &mut dyn Transport,
    what: &What,
) -> std::result::Result<Report, virtio_kit::transport::TransportError> {
    transport.reset()?;
    transport.set_status(Status::ACKNOWLEDGE)?;
    let id = match what {
        What::Is(id) => Some(*id),
        What::Unknown(_) => None,
    };
    let offered = transport.device_features()?;
    let mut queues = Vec::new();
    for index in 0..=u16::MAX {
        match transport.max_queue_size(index)? {
            0 => break,
            max_size => queues.push(QueueSize { index, max_size }),
        }
    }
    let config = match id.and_then(Type::of) {
        Some(kind) => Some((kind.config)(transport, offered)?).filter(|config| !config.is_null()),
        None => None,
    };
    let generic = |bit| features::name(DeviceId(0), bit).map_or_else(|| format!("bit {bit}"), str::to_owned);
    Ok(Report {
        device: id.map_or("unknown".into(), |id| id.to_string().to_lowercase()),
        device_id: id.map(|id| id.0),
        transport: transport.name().into(),
        features: match id {
            Some(id) => output::feature_names(offered, id),
            None => offered.numbers().map(generic).collect(),
        },
        queues,
        config,
    })
}

fn show(report: &Report, what: &What) -> Result<()> {
    let field = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    match what {
        What::Is(id) => field("device", &format!("{} (id {})", report.device, id.0))?,
        What::Unknown(why) => field("device", &format!("unknown: {why}"))?,
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
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
