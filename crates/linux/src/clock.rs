//! The clock of the operating system.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use virtio_kit::clock::Clock;

/// How many looks pass before a waiting thread offers its core to others.
const SPINS: u32 = 64;

/// `CLOCK_MONOTONIC`: all values of this type agree, in all processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        let now = clock_gettime(ClockId::Monotonic);
        // Neither number is ever negative.
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn relax(&self) {
        thread_local!(static LOOKS: Cell<u32> = const { Cell::new(0) });
        let looks = LOOKS.get().wrapping_add(1);
        LOOKS.set(looks);
        if looks.is_multiple_of(SPINS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_forward_and_waits_end() {
        let limit = Duration::from_millis(5);
        let start = MonotonicClock.now();
        assert_eq!(MonotonicClock.wait_for(limit, || None::<()>), None);
        assert!(MonotonicClock.now() - start >= limit);
        assert_eq!(MonotonicClock.wait_for(Duration::ZERO, || Some(7)), Some(7));
    }
}
