//! What is done with each device, so that somebody outside can see whether it was done.

mod blk;
mod console;
mod net;
mod pattern;
mod rng;

use crate::platform::clock::TscClock;
use crate::x86::{smp, time};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{Display, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use spin::Mutex;
use virtio_kit::bus::Driver;
use virtio_kit::{F, Features};
use virtio_kit_drivers::blk::{BlkDriver, Options as BlkOptions};
use virtio_kit_drivers::console::{Console, ConsoleDriver, Options as ConsoleOptions};
use virtio_kit_drivers::net::{Net, NetDriver, Options as NetOptions};
use virtio_kit_drivers::rng::{Options as RngOptions, Rng, RngDriver};

/// Longest that anything may take that is expected to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// Why the work was not done.
pub struct Failure(pub String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// How one learns that a device has done something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Asleep, until it interrupts.
    Interrupt,
    /// By looking.
    Poll,
}

/// Wakes whoever sleeps until it is set: what an executor would have for each of its tasks.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
        time::wake_others();
    }
}

impl Alarm {
    /// Polls until there is a value, and sleeps between two looks.
    fn sleep<R>(self: &Arc<Self>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> Result<R, Failure> {
        let waker = Waker::from(self.clone());
        let deadline = time::now() + LIMIT;
        loop {
            if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
                return Ok(value);
            }
            if !time::sleep_until(deadline, || self.0.swap(false, Ordering::Acquire)) {
                return Err(Failure::from("an interrupt never came"));
            }
        }
    }
}

/// The devices that drivers took.
#[derive(Default)]
pub struct Devices {
    disks: Arc<Mutex<Vec<blk::Disk>>>,
    networks: Arc<Mutex<Vec<Net>>>,
    consoles: Arc<Mutex<Vec<Console>>>,
    sources: Arc<Mutex<Vec<Rng>>>,
}

impl Devices {
    /// The drivers, which put the devices that they take here.
    pub fn drivers(&self) -> Vec<Arc<dyn Driver>> {
        let (disks, networks) = (self.disks.clone(), self.networks.clone());
        let (consoles, sources) = (self.consoles.clone(), self.sources.clone());
        let clock = Arc::new(TscClock);
        // A queue for each CPU.
        let options = BlkOptions { queues: smp::count() as u16, ..BlkOptions::default() };
        vec![
            Arc::new(BlkDriver::new(options, move |disk| disks.lock().push(disk))),
            Arc::new(NetDriver::new(NetOptions::new(clock), move |net| networks.lock().push(net))),
            Arc::new(ConsoleDriver::new(ConsoleOptions::default(), move |console| {
                consoles.lock().push(console)
            })),
            Arc::new(RngDriver::new(RngOptions::default(), move |source| sources.lock().push(source))),
        ]
    }

    /// Works with all of them; a line for each.
    pub fn work(&self, seed: u64) -> Result<(), Failure> {
        for disk in core::mem::take(&mut *self.disks.lock()) {
            blk::work(disk, seed)?;
        }
        for net in core::mem::take(&mut *self.networks.lock()) {
            net::work(net, seed)?;
        }
        for console in core::mem::take(&mut *self.consoles.lock()) {
            console::work(console, seed)?;
        }
        for source in core::mem::take(&mut *self.sources.lock()) {
            rng::work(source)?;
        }
        Ok(())
    }
}

/// The layout that was negotiated.
fn layout(features: Features) -> String {
    let layout = if features.contains(F::RING_PACKED) { "packed" } else { "split" };
    let order = if features.contains(F::IN_ORDER) { "+in_order" } else { "" };
    [layout, order].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
