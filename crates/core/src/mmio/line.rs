//! A device's one interrupt line, and the queues' lines over it.

use super::block::Block;
use crate::clock::Clock;
use crate::interrupts::{InterruptLine, LineHandler, Lines};
use crate::registers::Window;
use crate::transport::{Notifier, NotifyPosition, TransportError};
use alloc::sync::Arc;
use core::time::Duration;
use virtio_kit_spec::mmio::{INTERRUPT_CONFIG, INTERRUPT_QUEUE};
use virtio_kit_spec::pci::NO_VECTOR;

/// What queues' lines need of the device.
pub(super) struct Shared {
    pub(super) lines: Arc<Lines>,
    pub(super) block: Block,
    pub(super) line: Option<Arc<dyn InterruptLine>>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Shared {
    /// Takes note of interrupts, and passes them on; whether there were any (4.2.3.3).
    pub(super) fn poll(&self) -> Result<bool, TransportError> {
        let came = self.block.take_interrupts()?;
        if came & INTERRUPT_QUEUE != 0 {
            self.lines.fire_all();
        }
        if came & INTERRUPT_CONFIG != 0 {
            self.lines.fire_config();
        }
        Ok(came != 0)
    }
}

impl LineHandler for Shared {
    fn handle(&self) -> bool {
        // Registers that cannot be read have nothing to say; whoever waits for the device learns it.
        self.poll().unwrap_or(false)
    }
}

/// Both directions of a queue.
pub(super) struct Line {
    /// The notification register, found once.
    pub(super) doorbell: Window,
    pub(super) index: u16,
    /// NOTIFICATION_DATA was negotiated.
    pub(super) data: bool,
    pub(super) shared: Arc<Shared>,
}

/// Another queue's waiter may have taken note of an interrupt meant for both: look again after this long.
const SHARED_SLICE: Duration = Duration::from_millis(1);

impl Notifier for Line {
    fn notify(&self, position: NotifyPosition) -> Result<(), TransportError> {
        let value = if self.data { position.data(self.index).to_u32() } else { self.index.into() };
        self.doorbell.write32(0, value)
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let Shared { lines, line, clock, .. } = &*self.shared;
        let deadline = clock.now().saturating_add(limit);
        loop {
            if lines.take(self.index) {
                return Ok(true);
            }
            let now = clock.now();
            let left = deadline.saturating_sub(now);
            match line {
                Some(line) => {
                    line.wait(if lines.queue_count() > 1 { left.min(SHARED_SLICE) } else { left })?;
                }
                None => {
                    self.shared.poll()?;
                    clock.relax();
                }
            }
            if lines.take(self.index) {
                return Ok(true);
            }
            if now >= deadline {
                return Ok(false);
            }
        }
    }
}

/// The vector of every queue where there are none.
pub(super) const VECTOR: u16 = NO_VECTOR;
