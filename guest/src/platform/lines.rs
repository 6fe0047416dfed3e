//! Interrupt lines of devices: each goes through an I/O controller to the first CPU.

use crate::x86::acpi::Tables;
use crate::x86::apic::IoApic;
use crate::x86::interrupts::Vector;
use crate::x86::time;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use spin::Mutex;
use virtio_kit::interrupts::{InterruptLine, LineHandler};
use virtio_kit::transport::TransportError;

/// Where a PC has its first controller, should no table say so.
const FIRST: (u32, u32) = (0xfec0_0000, 0);

/// The controllers of all lines.
pub struct Controllers(Vec<IoApic>);

impl Controllers {
    /// Those that firmware names.
    pub fn new(tables: &Tables) -> Arc<Self> {
        let mut named: Vec<_> = tables.io_apics().collect();
        if named.is_empty() {
            named.push(FIRST);
        }
        // SAFETY: firmware names them, or it is where every PC has one.
        let controllers = named.into_iter().map(|(base, first)| unsafe { IoApic::new(base, first) });
        Arc::new(Self(controllers.collect()))
    }

    /// A line, by the number that firmware gives it.
    pub fn line(self: &Arc<Self>, number: u32) -> Option<Line> {
        let index = self.0.iter().position(|controller| controller.has(number))?;
        let came = Arc::new(AtomicBool::new(false));
        Some(Line { controllers: self.clone(), index, number, came, vector: Mutex::new(None) })
    }
}

/// One device's line.
pub struct Line {
    controllers: Arc<Controllers>,
    index: usize,
    number: u32,
    came: Arc<AtomicBool>,
    vector: Mutex<Option<Vector>>,
}

impl InterruptLine for Line {
    fn connect(&self, handler: Arc<dyn LineHandler>) -> Result<(), TransportError> {
        let came = self.came.clone();
        let vector = Vector::new(Arc::new(move || {
            // The device lets go of the line in here, before the controller looks at it again.
            if handler.handle() {
                came.store(true, Ordering::Release);
            }
        }));
        let vector = vector.ok_or(TransportError::NoMemory)?;
        self.controllers.0[self.index].route(self.number, vector.number(), 0);
        *self.vector.lock() = Some(vector);
        Ok(())
    }

    fn disconnect(&self) {
        self.controllers.0[self.index].mask(self.number);
        *self.vector.lock() = None;
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let deadline = time::now().saturating_add(limit);
        Ok(time::sleep_until(deadline, || self.came.swap(false, Ordering::Acquire)))
    }
}
