//! Devices for the examples, in this process: each queue on a thread of its own, so that drivers really wait.

use std::boxed::Box;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::vec::Vec;
use virtio_kit::device::Device;
use virtio_kit::driver::Found;
use virtio_kit::in_process::{Event, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, DmaBuf};
use virtio_kit_devices::blk::{Blk, MemoryBackend};
use virtio_kit_devices::console::{Console as ConsoleDevice, Echo, Port};
use virtio_kit_devices::net::{Buffers, Loopback, Net, Options as NetOptions};
use virtio_kit_devices::rng::Rng as RngDevice;
use virtio_kit_drivers::blk::{self, BlkQueue};
use virtio_kit_drivers::{console, net, rng};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::entropy::KernelSource;
use virtio_kit_linux::event::StdEvent;

/// The drivers, ready to be used.
pub(crate) struct Drivers {
    pub(crate) blk: BlkQueue<Vec<DmaBuf>, usize>,
    pub(crate) net: net::Pair,
    pub(crate) console: console::Console,
    pub(crate) rng: rng::Rng,
}

/// What keeps the devices running. Dropped, they end.
pub(crate) struct Running {
    _kept: (blk::BlkDevice, net::NetDevice, console::ConsoleDevice, rng::RngDevice),
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Makes the devices, and has the drivers take them.
pub(crate) fn start() -> Result<(Drivers, Running), Box<dyn Error>> {
    let (stop, mut threads) = (Arc::new(AtomicBool::new(false)), Vec::new());
    let mut found = |device| -> Result<Found, Box<dyn Error>> {
        let clock = Arc::new(MonotonicClock);
        let event = Box::new(|| Arc::new(StdEvent::new()) as Arc<dyn Event>);
        let arena = Arena::new(HeapMemory::new(4 << 20)?)?;
        let options = Options { inline: false, event, ..Options::inline(arena, clock) };
        let (transport, end) = InProcess::new(device, options)?;
        for queue in 0..end.queue_count() {
            let (end, stop) = (end.clone(), stop.clone());
            threads.push(std::thread::spawn(move || end.serve(queue, Duration::ZERO, &stop)));
        }
        Ok(Found::new(Box::new(transport)))
    };
    let disk: Box<dyn Device> = Box::new(Blk::new(MemoryBackend::new(1 << 20), 1));
    let nic = Net::new(Loopback::new(Buffers::default()), NetOptions::new([2, 0, 0, 0, 0, 1]));
    let ports = ConsoleDevice::multiport(2);
    ports.handle().plug(1, Port::new(Echo).named("echo"))?;
    let (mut blk, blk_device) = blk::open(found(disk)?, &blk::Options::default())?;
    let net_options = net::Options::new(Arc::new(MonotonicClock));
    let (mut net, net_device) = net::open(found(Box::new(nic))?, &net_options)?;
    let (console, console_device) = console::open(found(Box::new(ports))?, &console::Options::default())?;
    let (rng, rng_device) =
        rng::open(found(Box::new(RngDevice::new(KernelSource)))?, &rng::Options::default())?;
    let queues = (blk.queues.pop(), net.pairs.pop());
    let (Some(blk), Some(net)) = queues else { return Err("a device has no queue".into()) };
    let kept = (blk_device, net_device, console_device, rng_device);
    Ok((Drivers { blk, net, console, rng }, Running { _kept: kept, stop, threads }))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}
