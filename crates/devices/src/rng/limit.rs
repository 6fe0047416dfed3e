//! How much a driver gets in a time.

use alloc::sync::Arc;
use core::time::Duration;
use virtio_kit::clock::Clock;

/// At most so many bytes in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes; at least 1 is allowed.
    pub bytes: usize,
    /// The period; it begins when the first byte of it is given.
    pub period: Duration,
}

/// What is left of a period.
pub(super) struct Allowance {
    limit: Limit,
    clock: Arc<dyn Clock>,
    left: usize,
    ends: Duration,
}

impl Allowance {
    pub(super) fn new(limit: Limit, clock: Arc<dyn Clock>) -> Self {
        Self { limit, clock, left: 0, ends: Duration::ZERO }
    }

    /// Bytes that may be given now.
    pub(super) fn left(&mut self) -> usize {
        if self.left == 0 {
            let now = self.clock.now();
            if now >= self.ends {
                self.left = self.limit.bytes.max(1);
                self.ends = now.saturating_add(self.limit.period);
            }
        }
        self.left
    }

    /// So many were given.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Waits for the next period, but not for long.
    pub(super) fn wait(&self) {
        if self.left == 0 && self.clock.now() < self.ends {
            self.clock.relax();
        }
    }
}
