//! Where a device's interrupts end, on every mechanism that has any.

use crate::driver::QueueInterrupt;
use crate::transport::TransportError;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use core::time::Duration;
use spin::Mutex;
use virtio_kit_spec::pci::NO_VECTOR;

/// An interrupt line that stays raised until the device is told that it was heard: MMIO's, and PCI's INTx. Several
/// devices may share one.
pub trait InterruptLine: Send + Sync {
    /// From now on [`LineHandler::handle`] is to be called whenever the line is raised: by a handler, or where
    /// there are none from within [`wait`](Self::wait).
    fn connect(&self, handler: Arc<dyn LineHandler>) -> Result<(), TransportError>;

    /// Undoes [`connect`](Self::connect).
    fn disconnect(&self);

    /// Waits until the line is raised, or for `limit`; whether it was. May also return early.
    fn wait(&self, limit: Duration) -> Result<bool, TransportError>;
}

/// One device's end of an interrupt line.
pub trait LineHandler: Send + Sync {
    /// Asks the device whether it interrupted, and if so tells it that it was heard, which lowers the line, and
    /// passes the interrupt on. `false` if it was not this device. May be called in interrupt context.
    fn handle(&self) -> bool;
}

/// Where a device's interrupts end: one slot for each queue, and one for its configuration.
pub struct Lines {
    slots: Box<[Slot]>,
    queues: AtomicU16,
    config_vector: AtomicU16,
    config_changed: AtomicBool,
    shared: AtomicBool,
}

struct Slot {
    vector: AtomicU16,
    pending: AtomicBool,
    interrupt: Mutex<Option<Arc<QueueInterrupt>>>,
}

impl Lines {
    pub(crate) fn new(queues: u16) -> Arc<Self> {
        Self::with_room(queues, queues)
    }

    /// Lines of `queues` queues, which may become `room`.
    pub(crate) fn with_room(queues: u16, room: u16) -> Arc<Self> {
        let slot = |_| Slot {
            vector: AtomicU16::new(NO_VECTOR),
            pending: AtomicBool::new(false),
            interrupt: Mutex::new(None),
        };
        Arc::new(Self {
            slots: (0..room.max(queues)).map(slot).collect(),
            queues: AtomicU16::new(queues),
            config_vector: AtomicU16::new(NO_VECTOR),
            config_changed: AtomicBool::new(false),
            shared: AtomicBool::new(false),
        })
    }

    /// A vector came in. Never blocks; may be called in interrupt context.
    pub fn fire(&self, vector: u16) {
        if self.config_vector() == vector {
            self.config_changed.store(true, Ordering::Release);
        }
        self.slots.iter().filter(|s| s.vector.load(Ordering::Relaxed) == vector).for_each(Slot::fire);
    }

    /// Some queue was used, and it is not known which.
    pub(crate) fn fire_all(&self) {
        self.slots.iter().for_each(Slot::fire);
    }

    pub(crate) fn fire_config(&self) {
        self.config_changed.store(true, Ordering::Release);
    }

    /// Connects a queue's interrupt half.
    pub(crate) fn connect(&self, queue: u16, vector: u16, interrupt: Arc<QueueInterrupt>) {
        let Some(slot) = self.slots.get(usize::from(queue)) else { return };
        slot.vector.store(vector, Ordering::Relaxed);
        slot.pending.store(false, Ordering::Relaxed);
        *slot.interrupt.lock() = Some(interrupt.clone());
        // What came in while the slot was locked was only marked.
        if slot.pending.load(Ordering::Acquire) {
            interrupt.dispatch();
        }
    }

    /// Forgets all queues and vectors: the device was reset.
    pub(crate) fn clear(&self) {
        for slot in &self.slots {
            slot.vector.store(NO_VECTOR, Ordering::Relaxed);
            *slot.interrupt.lock() = None;
            slot.pending.store(false, Ordering::Relaxed);
        }
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
        self.shared.store(false, Ordering::Relaxed);
    }

    /// Takes note that several queues share vectors, so that a wait for one may be ended by another's.
    pub(crate) fn set_shared(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    pub(crate) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(vector, Ordering::Relaxed);
    }

    pub(crate) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    /// Whether the configuration changed since the last call.
    pub(crate) fn take_config(&self) -> bool {
        self.config_changed.swap(false, Ordering::Acquire)
    }

    /// Whether a queue was interrupted since the last call.
    pub(crate) fn take(&self, queue: u16) -> bool {
        self.slots.get(usize::from(queue)).is_some_and(|s| s.pending.swap(false, Ordering::Acquire))
    }

    pub(crate) fn queue_count(&self) -> u16 {
        self.queues.load(Ordering::Relaxed)
    }

    /// The device has another number of queues now, as far as there is room.
    pub(crate) fn set_queue_count(&self, queues: u16) {
        self.queues.store(queues.min(self.slots.len() as u16), Ordering::Relaxed);
    }
}

impl Slot {
    fn fire(&self) {
        self.pending.store(true, Ordering::Release);
        // Locked only while the queue is being connected, which looks at `pending` afterwards.
        if let Some(interrupt) = self.interrupt.try_lock().as_deref().and_then(Option::as_ref) {
            interrupt.dispatch();
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({} queues)", self.queue_count())
    }
}
