//! The interrupt half of a queue: what may run in interrupt context while the owner is busy.

use alloc::boxed::Box;
use atomic_waker::AtomicWaker;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use core::task::Waker;
use virtio_kit_ring::driver::{Evidence, Quiesced};

/// Called when buffers were used. `false` leaves callbacks off until the owner restarts them.
pub type Callback = Box<dyn Fn() -> bool + Send + Sync>;

/// A queue's atomic enable flag, its callback and its waker.
///
/// Transports call [`dispatch`](Self::dispatch), perhaps in interrupt context; the queue's owner holds the
/// other reference. No lock: the handler only clears the flag, and the owner writes the suppression into
/// the ring at its next operation. Aligned so that no two queues share cache lines.
#[repr(align(128))]
pub struct QueueInterrupt {
    enabled: AtomicBool,
    callback: Option<Callback>,
    waker: AtomicWaker,
    /// A word, since not every machine has wider atomics.
    interrupts: AtomicUsize,
    /// 0 while the device runs; else how it is known that it has let go of the queue.
    quiesced: AtomicU8,
}

/// All that can be kept in `quiesced`, at its number less one.
const EVIDENCE: [Evidence; 7] = [
    Evidence::NeverEnabled,
    Evidence::DeviceReset,
    Evidence::QueueReset,
    Evidence::BackendStopped,
    Evidence::DeviceHalfReturned,
    Evidence::Unmapped,
    Evidence::ArenaRetired,
];

impl QueueInterrupt {
    /// An interrupt half, enabled if it has a callback.
    pub fn new(callback: Option<Callback>) -> Self {
        Self {
            enabled: AtomicBool::new(callback.is_some()),
            callback,
            waker: AtomicWaker::new(),
            interrupts: AtomicUsize::new(0),
            quiesced: AtomicU8::new(0),
        }
    }

    /// The device used buffers, or the queue's state changed: runs the callback and wakes the task, unless
    /// callbacks are off.
    pub fn dispatch(&self) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        if self.enabled.load(Ordering::Acquire) {
            self.call();
        }
    }

    /// Marks the queue as let go by the device, and tells the owner whatever the flag says.
    pub fn quiesce(&self, quiesced: &Quiesced) {
        let evidence = quiesced.evidence();
        let number = EVIDENCE.iter().position(|&e| e == evidence).map_or(1, |at| at as u8 + 1);
        self.quiesced.store(number, Ordering::Release);
        self.call();
    }

    fn call(&self) {
        if let Some(callback) = &self.callback
            && !callback()
        {
            self.enabled.store(false, Ordering::Release);
        }
        self.waker.wake();
    }

    /// The proof that the device has let go of the queue, if it has.
    pub fn quiesced(&self) -> Option<Quiesced> {
        let number = self.quiesced.load(Ordering::Acquire);
        EVIDENCE.get(usize::from(number).wrapping_sub(1)).map(|&e| Quiesced::on(e))
    }

    /// The queue runs again.
    pub(crate) fn revived(&self) {
        self.quiesced.store(0, Ordering::Release);
    }

    /// How often the device interrupted; on a machine of 32 bits it begins again after as many times.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    pub(crate) fn set_enabled(&self, on: bool) {
        self.enabled.store(on, Ordering::Release);
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

impl fmt::Debug for QueueInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueInterrupt")
            .field("enabled", &self.enabled)
            .field("interrupts", &self.interrupts)
            .finish_non_exhaustive()
    }
}
