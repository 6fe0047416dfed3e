//! The interrupt status, and the line that follows it.

use crate::device::{Monitor, Signals};
use alloc::sync::Arc;
use spin::Mutex;
use virtio_kit_spec::mmio::{INTERRUPT_CONFIG, INTERRUPT_QUEUE};

/// Events that the driver has not acknowledged. The line is raised while there is one.
pub(super) struct Line {
    pending: Mutex<u32>,
    monitor: Arc<dyn Monitor>,
}

impl Line {
    pub(super) fn new(monitor: Arc<dyn Monitor>) -> Self {
        Self { pending: Mutex::new(0), monitor }
    }

    pub(super) fn status(&self) -> u32 {
        *self.pending.lock()
    }

    pub(super) fn acknowledge(&self, events: u32) {
        self.change(|pending| pending & !events);
    }

    pub(super) fn reset(&self) {
        self.change(|_| 0);
    }

    pub(super) fn restore(&self, events: u32) {
        self.change(|_| events & (INTERRUPT_QUEUE | INTERRUPT_CONFIG));
    }

    /// With the lock held, so that the line is what the last change made it.
    fn change(&self, to: impl FnOnce(u32) -> u32) {
        let mut pending = self.pending.lock();
        let was = *pending;
        *pending = to(was);
        if (was != 0) != (*pending != 0) {
            self.monitor.set_line(*pending != 0);
        }
    }
}

impl Signals for Line {
    fn used(&self, _: u16) {
        self.change(|pending| pending | INTERRUPT_QUEUE);
    }

    fn config(&self) {
        self.change(|pending| pending | INTERRUPT_CONFIG);
    }
}
