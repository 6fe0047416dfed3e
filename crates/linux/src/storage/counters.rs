//! What passes between a storage and the kernel.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts kernel operations of all queues of a storage. A request is one operation, or several if the kernel
/// does part of it at a time.
#[derive(Debug, Default)]
pub struct Counters {
    submitted: AtomicU64,
    completed: AtomicU64,
    max_in_kernel: AtomicU64,
}

impl Counters {
    /// Operations handed to the kernel.
    pub fn submitted(&self) -> u64 {
        self.submitted.load(Relaxed)
    }

    /// Operations whose results have been taken from the kernel.
    pub fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// Most operations of one queue that the kernel was working on at once: handed to it and without a
    /// result, counted each time right after a batch was handed over.
    pub fn max_in_kernel(&self) -> u64 {
        self.max_in_kernel.load(Relaxed)
    }

    /// A batch of `count` was handed over, and `in_kernel` have no result now.
    pub(super) fn handed_over(&self, count: usize, in_kernel: usize) {
        self.submitted.fetch_add(count as u64, Relaxed);
        if in_kernel as u64 > self.max_in_kernel() {
            self.max_in_kernel.fetch_max(in_kernel as u64, Relaxed);
        }
    }

    /// The results of `count` operations were taken.
    pub(super) fn taken(&self, count: usize) {
        self.completed.fetch_add(count as u64, Relaxed);
    }
}
