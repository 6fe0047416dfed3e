//! What the tests of drivers on devices in one program share.

#![allow(dead_code, unreachable_pub, reason = "a module of several tests, each of which uses some of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_kit::clock::Clock;
use virtio_kit::device::Device;
use virtio_kit::driver::Found;
use virtio_kit::in_process::{DeviceEnd, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, F, Features};

pub struct StdClock(Instant);

impl StdClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

pub const LIMIT: Duration = Duration::from_secs(20);

/// Every layout with every choice of event index and indirect descriptors, as the ring features that the device
/// offers.
pub fn layouts() -> impl Iterator<Item = Features> {
    (0..16u32).map(|bits| {
        let pick = |bit, feature| if bits & bit != 0 { feature } else { Features::EMPTY };
        F::RING_RESET
            | pick(1, F::RING_PACKED)
            | pick(2, F::IN_ORDER)
            | pick(4, F::EVENT_IDX)
            | pick(8, F::INDIRECT_DESC)
    })
}

/// Joins a device to a driver on one thread.
pub fn join(device: impl Device + 'static, ring_features: Features) -> (Found, DeviceEnd, Arena) {
    let arena = Arena::new(HeapMemory::new(8 << 20).unwrap()).unwrap();
    let options = Options { ring_features, ..Options::inline(arena.clone(), StdClock::new()) };
    let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
    (Found::new(Box::new(transport)), end, arena)
}

/// What an end on a thread of its own sleeps on.
#[derive(Default)]
pub struct Bell {
    set: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

impl virtio_kit::in_process::Event for Bell {
    fn set(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.set.lock().unwrap(), limit, |set| !*set);
        std::mem::take(&mut *waited.unwrap().0)
    }
}
