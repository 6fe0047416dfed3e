//! TARGET: which device, and how to get at it.

use crate::failure::{Failure, Result};
use crate::units;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use virtio_kit::device::Device;
use virtio_kit::in_process::{DeviceEnd, Event, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::transport::Transport;
use virtio_kit::{Arena, F, Features};
use virtio_kit_devices::blk::{Blk, MemoryBackend, NullBackend};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::event::StdEvent;
use virtio_kit_linux::storage::{self, FileBackend};

/// How long a device end that has nothing to do looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// A device as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Served by another process on a Unix socket.
    VhostUser(PathBuf),
    /// A block device in this process.
    InProcess(InProcessBlk),
}

/// A block device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InProcessBlk {
    pub(crate) storage: Storage,
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
    pub(crate) queues: u16,
    pub(crate) read_only: bool,
    pub(crate) direct: bool,
    /// The device runs on threads of its own, one for each queue.
    pub(crate) threads: bool,
}

/// What a device in this process stores its data in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Image(PathBuf),
    Memory(u64),
    Null(u64),
}

impl InProcessBlk {
    pub(crate) fn new(storage: Storage) -> Self {
        Self {
            storage,
            packed: false,
            in_order: false,
            queues: 1,
            read_only: false,
            direct: false,
            threads: false,
        }
    }

    fn ring_features(&self) -> Features {
        let mut features = F::INDIRECT_DESC | F::EVENT_IDX | F::RING_RESET;
        if self.packed {
            features |= F::RING_PACKED;
        }
        if self.in_order {
            features |= F::IN_ORDER;
        }
        features
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(socket) = text.strip_prefix("vhost-user:") {
            if socket.is_empty() {
                return Err("no socket: write vhost-user:SOCKET".into());
            }
            return Ok(Self::VhostUser(socket.into()));
        }
        let Some(rest) = text.strip_prefix("in-process:") else {
            return Err("not a device: write vhost-user:SOCKET or in-process:blk?image=FILE".into());
        };
        let (device, options) = rest.split_once('?').unwrap_or((rest, ""));
        if device != "blk" {
            return Err(format!("no device `{device}` in this process: there is blk"));
        }
        parse_blk(options).map(Self::InProcess)
    }
}

fn parse_blk(options: &str) -> std::result::Result<InProcessBlk, String> {
    let (mut image, mut size, mut null) = (None, None, false);
    let mut blk = InProcessBlk::new(Storage::Null(0));
    for option in options.split('&').filter(|o| !o.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = |what: String| format!("`{option}`: {what}");
        match key {
            "image" if !value.is_empty() => image = Some(PathBuf::from(value)),
            "image" => return Err(wrong("name a file".into())),
            "size" => size = Some(units::some_sectors(value).map_err(wrong)?),
            "null" => null = value.is_empty() || switch(value).map_err(wrong)?,
            "layout" => blk.packed = choice(value, ["split", "packed"]).map_err(wrong)?,
            "in_order" => blk.in_order = switch(value).map_err(wrong)?,
            "read_only" => blk.read_only = switch(value).map_err(wrong)?,
            "direct" => blk.direct = switch(value).map_err(wrong)?,
            "threads" => blk.threads = switch(value).map_err(wrong)?,
            "queues" => {
                let queues = value.parse().ok().filter(|q| (1..=256).contains(q));
                blk.queues = queues.ok_or_else(|| wrong("there are 1 to 256 queues".into()))?;
            }
            _ => {
                return Err(format!(
                    "no option `{key}`: there are image, size, null, layout, in_order, queues, read_only, \
                     direct and threads"
                ));
            }
        }
    }
    blk.storage = match (image, size, null) {
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
    if !matches!(blk.storage, Storage::Image(_)) && (blk.read_only || blk.direct) {
        return Err("read_only and direct are for an image".into());
    }
    Ok(blk)
}

fn switch(value: &str) -> std::result::Result<bool, String> {
    choice(value, ["off", "on"])
}

/// Whether it is the second of two values.
fn choice(value: &str, of: [&str; 2]) -> std::result::Result<bool, String> {
    match of.iter().position(|&o| o == value) {
        Some(at) => Ok(at == 1),
        None => Err(format!("write {} or {}", of[0], of[1])),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VhostUser(socket) => write!(f, "vhost-user:{}", socket.display()),
            Self::InProcess(blk) => match &blk.storage {
                Storage::Image(image) => write!(f, "in-process:blk?image={}", image.display()),
                Storage::Memory(size) => write!(f, "in-process:blk?size={size}"),
                Storage::Null(_) => write!(f, "in-process:blk?null"),
            },
        }
    }
}

/// A way to a device.
pub(crate) struct Opened {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) host: Host,
    /// Why the device cannot be a block device, if something shows that.
    pub(crate) not_blk: Option<String>,
}

/// What runs the device, if it is in this process. Dropped, it ends.
#[derive(Default)]
pub(crate) struct Host {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// The device runs only inside the driver's calls.
    pub(crate) inline: bool,
}

impl Host {
    fn threads(end: &DeviceEnd) -> Result<Self> {
        let mut host = Self::default();
        for queue in 0..end.queue_count() {
            let (end, stop) = (end.clone(), host.stop.clone());
            let thread = std::thread::Builder::new().name(format!("device queue {queue}"));
            let spawned = thread.spawn(move || end.serve(queue, SPIN, &stop));
            host.threads.push(spawned.map_err(|e| Failure::new(format_args!("no thread: {e}")))?);
        }
        Ok(host)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

impl Target {
    /// Opens the way to the device, with `memory` bytes that it can reach. An error names the file or the
    /// socket.
    pub(crate) fn open(&self, memory: usize) -> Result<Opened> {
        match self {
            Self::VhostUser(socket) => crate::socket::open(socket, memory),
            Self::InProcess(blk) => blk.open(memory),
        }
    }
}

impl InProcessBlk {
    fn open(&self, memory: usize) -> Result<Opened> {
        let device: Box<dyn Device> = match &self.storage {
            Storage::Image(path) => {
                let (read_only, direct) = (self.read_only, self.direct);
                let options = storage::Options { read_only, direct, ..storage::Options::default() };
                let backend = FileBackend::open(path, options).map_err(Failure::new)?;
                Box::new(Blk::new(backend, self.queues))
            }
            Storage::Memory(size) => Box::new(Blk::new(MemoryBackend::new(*size), self.queues)),
            Storage::Null(size) => Box::new(Blk::new(NullBackend::new(*size), self.queues)),
        };
        let arena = HeapMemory::new(memory).and_then(Arena::new);
        let arena = arena.map_err(|error| Failure::new(format_args!("memory: {error}")))?;
        let clock = Arc::new(MonotonicClock);
        let options = Options {
            ring_features: self.ring_features(),
            inline: !self.threads,
            event: Box::new(|| Arc::new(StdEvent::new()) as Arc<dyn Event>),
            ..Options::inline(arena, clock)
        };
        let (transport, end) = InProcess::new(device, options).map_err(Failure::new)?;
        let mut host = if self.threads { Host::threads(&end)? } else { Host::default() };
        host.inline = !self.threads;
        Ok(Opened { transport: Box::new(transport), host, not_blk: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Target, String> {
        text.parse()
    }

    #[test]
    fn targets_are_read_with_their_options() {
        assert_eq!(parse("vhost-user:/a/b.sock"), Ok(Target::VhostUser("/a/b.sock".into())));
        let blk = |storage| InProcessBlk::new(storage);
        assert_eq!(
            parse("in-process:blk?image=/x=y"),
            Ok(Target::InProcess(blk(Storage::Image("/x=y".into()))))
        );
        assert_eq!(
            parse("in-process:blk?size=1G&layout=packed&queues=4&in_order=on"),
            Ok(Target::InProcess(InProcessBlk {
                packed: true,
                in_order: true,
                queues: 4,
                ..blk(Storage::Memory(1 << 30))
            }))
        );
        assert_eq!(parse("in-process:blk?null"), Ok(Target::InProcess(blk(Storage::Null(1 << 40)))));
        assert_eq!(parse("in-process:blk?null&size=1M"), Ok(Target::InProcess(blk(Storage::Null(1 << 20)))));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "vhost-user:",
            "in-process:",
            "in-process:blk",
            "in-process:net?size=1G",
            "in-process:blk?image=",
            "in-process:blk?image=x&size=1G",
            "in-process:blk?size=100",
            "in-process:blk?size=1G&queues=0",
            "in-process:blk?size=1G&queues=x",
            "in-process:blk?size=1G&layout=other",
            "in-process:blk?size=1G&in_order=maybe",
            "in-process:blk?size=1G&colour=red",
            "in-process:blk?size=1G&read_only=on",
            "/dev/vda",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
