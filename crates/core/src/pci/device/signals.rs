//! Interrupts: the status, the line that follows it, and messages.

use super::layout::{ENTRY, Layout};
use crate::device::{Monitor, Signals};
use crate::pci::Message;
use crate::registers::Width;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use spin::Mutex;
use virtio_kit_spec::pci::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR};

/// An entry of the MSI-X table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Where it writes, and what.
    pub message: Message,
    /// Whether it is masked: it becomes pending instead.
    pub masked: bool,
    /// Whether it is pending.
    pub pending: bool,
}

const FRESH: Vector = Vector { message: Message { address: 0, data: 0 }, masked: true, pending: false };

/// All that can be saved of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptState {
    /// The interrupt status.
    pub isr: u8,
    /// The vector for changes of the configuration.
    pub config_vector: u16,
    /// The vector of each queue.
    pub queue_vectors: Vec<u16>,
    /// The MSI-X table.
    pub table: Vec<Vector>,
}

pub(super) struct Interrupts {
    inner: Mutex<Inner>,
    monitor: Arc<dyn Monitor>,
}

struct Inner {
    state: InterruptState,
    /// From configuration space.
    msix: bool,
    masked: bool,
    bus_master: bool,
    line_allowed: bool,
    /// As the monitor was told.
    raised: bool,
}

impl Interrupts {
    pub(super) fn new(queues: u16, layout: &Layout, monitor: Arc<dyn Monitor>) -> Self {
        let state = InterruptState {
            isr: 0,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues.into()],
            table: vec![FRESH; layout.vectors.into()],
        };
        let inner =
            Inner { state, msix: false, masked: false, bus_master: false, line_allowed: true, raised: false };
        Self { inner: Mutex::new(inner), monitor }
    }

    /// Changes something, and tells the monitor what follows from it, with the lock held: the line is what the last
    /// change made it.
    fn change<R>(&self, what: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = what(&mut inner);
        let raised = inner.state.isr != 0 && !inner.msix && inner.line_allowed;
        if raised != inner.raised {
            inner.raised = raised;
            self.monitor.set_line(raised);
        }
        if inner.msix && !inner.masked && inner.bus_master {
            for vector in inner.state.table.iter_mut().filter(|v| v.pending && !v.masked) {
                vector.pending = false;
                self.monitor.message(vector.message);
            }
        }
        result
    }

    /// Configuration space says so.
    pub(super) fn allow(&self, (bus_master, line_allowed): (bool, bool), (msix, masked): (bool, bool)) {
        self.change(|inner| {
            (inner.bus_master, inner.line_allowed) = (bus_master, line_allowed);
            (inner.msix, inner.masked) = (msix, masked);
        });
    }

    /// Whether there is something in the interrupt status, for the bit of the function's status.
    pub(super) fn asserted(&self) -> bool {
        let inner = self.inner.lock();
        inner.state.isr != 0 && !inner.msix
    }

    /// The interrupt status, cleared by reading (4.1.4.5.1).
    pub(super) fn take_isr(&self) -> u8 {
        self.change(|inner| core::mem::take(&mut inner.state.isr))
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.inner.lock().state.config_vector
    }

    /// A vector that the table does not have is not kept (4.1.5.1.2.1).
    pub(super) fn set_config_vector(&self, vector: u16) {
        let state = &mut self.inner.lock().state;
        state.config_vector = kept(vector, state.table.len());
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.inner.lock().state.queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        let state = &mut self.inner.lock().state;
        let len = state.table.len();
        if let Some(place) = state.queue_vectors.get_mut(usize::from(queue)) {
            *place = kept(vector, len);
        }
    }

    /// The device was reset: no event, no vector. The table is the bus's, and stays.
    pub(super) fn reset(&self) {
        self.change(|inner| {
            inner.state.isr = 0;
            inner.state.config_vector = NO_VECTOR;
            inner.state.queue_vectors.fill(NO_VECTOR);
            inner.state.table.iter_mut().for_each(|vector| vector.pending = false);
        });
    }

    /// Reads the table, or behind it what is pending.
    pub(super) fn read(&self, layout: &Layout, offset: u64, width: Width) -> u64 {
        let word = |at: u64| u64::from(self.word(layout, at));
        match width {
            Width::U32 => word(offset),
            Width::U64 => word(offset) | word(offset + 4) << 32,
            _ => 0,
        }
    }

    fn word(&self, layout: &Layout, offset: u64) -> u32 {
        let table = &self.inner.lock().state.table;
        if let Some(vector) = table.get((offset / ENTRY) as usize) {
            return match offset % ENTRY {
                0 => vector.message.address as u32,
                4 => (vector.message.address >> 32) as u32,
                8 => vector.message.data,
                _ => vector.masked.into(),
            };
        }
        let Some(at) = offset.checked_sub(layout.pending_at().into()) else { return 0 };
        if at >= layout.pending_len() {
            return 0;
        }
        let some = table.iter().skip(at as usize * 8).take(32).zip(0..);
        some.fold(0, |bits, (vector, n)| bits | u32::from(vector.pending) << n)
    }

    pub(super) fn write(&self, offset: u64, width: Width, value: u64) {
        match width {
            Width::U32 => self.put(offset, value as u32),
            Width::U64 => {
                self.put(offset, value as u32);
                self.put(offset + 4, (value >> 32) as u32);
            }
            _ => {}
        }
    }

    fn put(&self, offset: u64, value: u32) {
        self.change(|inner| {
            let Some(vector) = inner.state.table.get_mut((offset / ENTRY) as usize) else { return };
            let address = &mut vector.message.address;
            match offset % ENTRY {
                0 => *address = *address >> 32 << 32 | u64::from(value & !3),
                4 => *address = *address & u64::from(u32::MAX) | u64::from(value) << 32,
                8 => vector.message.data = value,
                _ => vector.masked = value & 1 != 0,
            }
        });
    }

    pub(super) fn save(&self) -> InterruptState {
        self.inner.lock().state.clone()
    }

    /// Whether a state can be this function's.
    pub(super) fn suits(&self, state: &InterruptState) -> bool {
        let inner = self.inner.lock();
        let vectors = state.table.len();
        let good = |&vector: &u16| vector == kept(vector, vectors);
        vectors == inner.state.table.len()
            && state.queue_vectors.len() == inner.state.queue_vectors.len()
            && state.isr & !(ISR_QUEUE | ISR_CONFIG) == 0
            && state.queue_vectors.iter().all(good)
            && good(&state.config_vector)
    }

    pub(super) fn restore(&self, state: &InterruptState) {
        self.change(|inner| inner.state = state.clone());
    }
}

fn kept(vector: u16, vectors: usize) -> u16 {
    if usize::from(vector) < vectors { vector } else { NO_VECTOR }
}

impl Inner {
    fn fire(&mut self, vector: u16) {
        if let Some(vector) = self.state.table.get_mut(usize::from(vector)) {
            vector.pending = true;
        }
    }
}

impl Signals for Interrupts {
    fn used(&self, queue: u16) {
        self.change(|inner| {
            if !inner.msix {
                inner.state.isr |= ISR_QUEUE;
            } else if let Some(&vector) = inner.state.queue_vectors.get(usize::from(queue)) {
                inner.fire(vector);
            }
        });
    }

    fn config(&self) {
        self.change(|inner| {
            // With MSI-X too (4.1.5.4.1).
            inner.state.isr |= ISR_CONFIG;
            if inner.msix {
                let vector = inner.state.config_vector;
                inner.fire(vector);
            }
        });
    }
}
