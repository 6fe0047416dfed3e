//! A queue's line to the device, and back.

use super::routing::{Shared, Source};
use crate::registers::Window;
use crate::transport::{Notifier, NotifyPosition, TransportError};
use alloc::sync::Arc;
use core::time::Duration;
use virtio_kit_spec::pci::NO_VECTOR;

/// The register that tells the device of available buffers, found once (4.1.5.2).
pub(super) struct Doorbell {
    pub(super) register: Window,
    pub(super) index: u16,
    /// NOTIFICATION_DATA was negotiated.
    pub(super) data: bool,
}

impl Doorbell {
    fn ring(&self, position: NotifyPosition) -> Result<(), TransportError> {
        if self.data {
            self.register.write32(0, position.data(self.index).to_u32())
        } else {
            self.register.write16(0, self.index)
        }
    }
}

/// Both directions of a queue.
pub(super) struct Line {
    pub(super) doorbell: Doorbell,
    pub(super) vector: u16,
    pub(super) shared: Arc<Shared>,
}

/// Another queue's waiter may have taken note of an interrupt meant for both: look again after this long.
const SHARED_SLICE: Duration = Duration::from_millis(1);

impl Notifier for Line {
    fn notify(&self, position: NotifyPosition) -> Result<(), TransportError> {
        self.doorbell.ring(position)
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let Shared { lines, interrupts, line, clock, .. } = &*self.shared;
        let queue = self.doorbell.index;
        let deadline = clock.now().saturating_add(limit);
        loop {
            if lines.take(queue) {
                return Ok(true);
            }
            let now = clock.now();
            let left = deadline.saturating_sub(now);
            match (interrupts, line, self.shared.source()) {
                (Some(interrupts), _, Source::Messages) if self.vector != NO_VECTOR => {
                    interrupts
                        .wait(self.vector, if lines.is_shared() { left.min(SHARED_SLICE) } else { left })?;
                }
                (_, Some(line), Source::Line) => {
                    line.wait(if lines.queue_count() > 1 { left.min(SHARED_SLICE) } else { left })?;
                }
                _ => {
                    self.shared.poll_isr()?;
                    clock.relax();
                }
            }
            if lines.take(queue) {
                return Ok(true);
            }
            if now >= deadline {
                return Ok(false);
            }
        }
    }
}
