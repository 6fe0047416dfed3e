//! Devices in this process, and what runs them.

use super::{Local, Opened, Options, What, options};
use crate::failure::{Failure, Result};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use virtio_kit::device::Device;
use virtio_kit::in_process::{self, DeviceEnd, Event};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::transport::Transport;
use virtio_kit::{Arena, F, Features};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::event::StdEvent;

/// How long a device end that has nothing to do looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// The layout that a device offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ring {
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
}

impl Ring {
    pub(crate) fn parse(options: &mut Options<'_>) -> options::Result<Self> {
        let packed = options.choice("layout", ["split", "packed"])?;
        Ok(Self { packed, in_order: options.switch("in_order")? })
    }

    pub(crate) fn features(self) -> Features {
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

/// A device in this process.
#[derive(Clone, Debug)]
pub(crate) struct InProcess {
    pub(crate) local: Local,
    pub(crate) ring: Ring,
    /// The device runs on threads of its own, one for each queue.
    pub(crate) threads: bool,
}

impl InProcess {
    pub(super) fn parse(text: &str) -> options::Result<Self> {
        let more = |options: &mut Options<'_>| Ok((Ring::parse(options)?, options.switch("threads")?));
        let (local, (ring, threads)) = Local::parse(text, more)?;
        Ok(Self { local, ring, threads })
    }

    pub(super) fn open(&self, memory: usize) -> Result<Opened> {
        let mut host = Host::default();
        let device = self.local.recipe.build(&mut host)?;
        let (transport, host) = join(device, self.ring, self.threads, memory, host)?;
        Ok(Opened { transport, host, what: What::Is(self.local.kind.id) })
    }
}

/// Joins a device to a transport for its driver, with `memory` bytes between them. It runs on threads of its own, or
/// inside the driver's calls.
pub(super) fn join(
    device: Box<dyn Device>,
    ring: Ring,
    threads: bool,
    memory: usize,
    mut host: Host,
) -> Result<(Box<dyn Transport>, Host)> {
    let arena = HeapMemory::new(memory).and_then(Arena::new);
    let arena = arena.map_err(|error| Failure::new(format_args!("memory: {error}")))?;
    let clock = Arc::new(MonotonicClock);
    let options = in_process::Options {
        ring_features: ring.features(),
        inline: !threads,
        event: Box::new(|| Arc::new(StdEvent::new()) as Arc<dyn Event>),
        ..in_process::Options::inline(arena, clock)
    };
    let (transport, end) = in_process::InProcess::new(device, options).map_err(Failure::new)?;
    if threads {
        host.run(&end)?;
    }
    host.inline = !threads;
    Ok((Box::new(transport), host))
}

/// What runs the device, if it is in this process. Dropped, it ends.
#[derive(Default)]
pub(crate) struct Host {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    beside: Vec<Box<dyn Any + Send>>,
    /// The device runs only inside the driver's calls.
    pub(crate) inline: bool,
    /// More than one request in flight would be lost: QEMU up to 10.0.2 forgets those of an in-order queue that
    /// are on two laps of the ring, and later ones take a full ring for an empty one.
    pub(crate) one_at_a_time: bool,
}

impl Host {
    /// Runs each queue on a thread of its own.
    fn run(&mut self, end: &DeviceEnd) -> Result<()> {
        for queue in 0..end.queue_count() {
            let (end, stop) = (end.clone(), self.stop.clone());
            let thread = std::thread::Builder::new().name(format!("device queue {queue}"));
            let spawned = thread.spawn(move || end.serve(queue, SPIN, &stop));
            self.threads.push(spawned.map_err(|e| Failure::new(format_args!("no thread: {e}")))?);
        }
        Ok(())
    }

    /// Keeps what has to live beside the device, until the device is gone.
    pub(super) fn keep(&mut self, beside: impl Any + Send) {
        self.beside.push(Box::new(beside));
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
