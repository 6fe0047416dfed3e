//! Interrupts of PCI functions: messages that the local interrupt controllers take.

use crate::x86::interrupts::Vector;
use crate::x86::{apic, smp, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use spin::Mutex;
use virtio_kit::interrupts::Lines;
use virtio_kit::pci::{Interrupts, Message};
use virtio_kit::transport::TransportError;

/// One function's messages.
#[derive(Default)]
pub struct Messages(Mutex<Vec<Armed>>);

struct Armed {
    _vector: Vector,
    came: Arc<AtomicBool>,
}

impl Interrupts for Messages {
    fn arm(&self, count: u16, lines: &Arc<Lines>) -> Result<Vec<Message>, TransportError> {
        let mut armed = Vec::new();
        let mut messages = Vec::new();
        for number in 0..count {
            let came = Arc::new(AtomicBool::new(false));
            let (flag, lines) = (came.clone(), lines.clone());
            let vector = Vector::new(Arc::new(move || {
                lines.fire(number);
                flag.store(true, Ordering::Release);
            }));
            let vector = vector.ok_or(TransportError::NoMemory)?;
            // Number 0 is the configuration's; queues' go to the CPUs in turn.
            let cpu = usize::from(number.saturating_sub(1)) % smp::count();
            let (address, data) = apic::message(cpu, vector.number());
            messages.push(Message { address, data });
            armed.push(Armed { _vector: vector, came });
        }
        *self.0.lock() = armed;
        Ok(messages)
    }

    fn disarm(&self) {
        self.0.lock().clear();
    }

    fn wait(&self, vector: u16, limit: Duration) -> Result<bool, TransportError> {
        let came = self.0.lock().get(usize::from(vector)).map(|armed| armed.came.clone());
        let came = came.ok_or(TransportError::Unsupported("a vector that is not armed"))?;
        let deadline = time::now().saturating_add(limit);
        Ok(time::sleep_until(deadline, || came.swap(false, Ordering::Acquire)))
    }
}
