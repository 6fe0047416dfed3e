//! Time, for deadlines.

use crate::x86::time;
use core::time::Duration;
use virtio_kit::clock::Clock;

/// The time stamp counter.
pub struct TscClock;

impl Clock for TscClock {
    fn now(&self) -> Duration {
        time::now()
    }
}
