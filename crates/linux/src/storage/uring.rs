//! One queue's way to a file: a ring of the kernel's.

use super::file::Shared;
use super::job::{Job, Lacks, Next};
use super::lock::Held;
use super::slot::Slot;
use crate::event_waker::event_of;
use core::fmt;
use core::mem::ManuallyDrop;
use core::task::Waker;
use core::time::Duration;
use io_uring::IoUring;
use io_uring::squeue::{Entry, PushError, SubmissionQueue};
use io_uring::types::{SubmitArgs, Timespec};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;
use virtio_kit::device::DeviceError;
use virtio_kit_devices::blk::{Finished, Request, Storage, StorageError};

/// One queue's way to a [`FileBackend`](super::FileBackend): requests go to the kernel in batches, and come
/// back in any order.
///
/// Nothing is allocated for a request, except that the first ones of direct I/O with memory that is not
/// aligned each make a buffer of 64 KiB, which is kept.
///
/// Dropped with requests in the kernel, it waits for these. If they are not done in time it leaks its ring
/// and its buffers. Chains that it still has are dropped or leaked, which keeps the driver's memory mapped
/// for good: nothing goes away that the kernel may still write to.
pub struct UringStorage {
    ring: ManuallyDrop<IoUring>,
    jobs: ManuallyDrop<Jobs>,
    /// Operations handed over whose results have not been taken.
    in_kernel: usize,
    /// The kernel wakes who runs the queue.
    wakes: bool,
    /// Given up when nothing is in the kernel any more.
    held: ManuallyDrop<Held>,
}

/// The requests in progress: their index is what the kernel knows them by.
struct Jobs {
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    ready: VecDeque<Finished>,
    lacks: Lacks,
}

/// A ring of at least `depth` operations, with the file registered.
pub(super) fn new_ring(file: &File, depth: u16) -> io::Result<IoUring> {
    let ring = IoUring::new(depth.into())?;
    if !ring.params().is_feature_ext_arg() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    Ok(ring)
}

fn os_error(error: &io::Error) -> DeviceError {
    DeviceError::Os(error.raw_os_error().unwrap_or(0))
}

/// Appends an operation that [`Slot::operation`] made.
fn push(queue: &mut SubmissionQueue<'_>, operation: &Entry) -> Result<(), PushError> {
    // SAFETY: all that it points to stays valid until its result is taken, as `Slot::operation` says: the
    // slot, with the chain in it, is emptied only then, and leaked if that time does not come.
    unsafe { queue.push(operation) }
}

impl UringStorage {
    pub(super) fn new(shared: Arc<Shared>, held: Held) -> Result<Self, DeviceError> {
        let depth = shared.options.depth;
        let ring = new_ring(&shared.file, depth).map_err(|error| os_error(&error))?;
        let jobs = Jobs {
            shared,
            slots: (0..depth).map(|_| Slot::new()).collect(),
            free: (0..depth).rev().collect(),
            ready: VecDeque::with_capacity(depth.into()),
            lacks: Lacks::default(),
        };
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            jobs: ManuallyDrop::new(jobs),
            in_kernel: 0,
            wakes: false,
            held: ManuallyDrop::new(held),
        })
    }

    /// Hands over what is queued and, given a time, waits that long for a result. One system call.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let submitter = self.ring.submitter();
        let result = match wait {
            None => submitter.submit(),
            Some(time) => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        // The kernel may have taken only some, and with an error too.
        let count = queued - self.ring.submission().len();
        if count > 0 {
            self.in_kernel += count;
            let working = self.in_kernel.saturating_sub(self.ring.completion().len());
            self.jobs.shared.counters.handed_over(count, working);
        }
        result.map(drop)
    }

    /// Hands over everything that is queued.
    fn submit_all(&mut self) -> io::Result<()> {
        loop {
            let queued = self.ring.submission().len();
            if queued == 0 {
                return Ok(());
            }
            match self.enter(None) {
                // An operation that cannot be begun ends the batch: go on after it.
                Ok(()) if self.ring.submission().len() < queued => {}
                // No memory at the moment, say: the next call tries again.
                Ok(()) => return Ok(()),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::BUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes all results that are there.
    fn reap(&mut self) {
        let (submitter, mut queue, results) = self.ring.split();
        let mut count = 0;
        for result in results {
            count += 1;
            // The kernel gives back the index that it was given.
            let index = result.user_data() as usize;
            if let Some(operation) = self.jobs.completed(index, result.result()) {
                // There is a place for every slot.
                if push(&mut queue, &operation).is_err() {
                    self.jobs.end(index, Err(StorageError::Io(Errno::AGAIN.raw_os_error())));
                }
            }
        }
        drop((submitter, queue));
        if count > 0 {
            self.in_kernel -= count;
            self.jobs.shared.counters.taken(count);
            // Only for what goes on: another piece, or another try. An error stays for `commit`.
            let _ = self.submit_all();
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.jobs.shared.limit
    }

    /// Waits until there is a result; `false` if there is none by the deadline.
    fn wait_for_result(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            if !self.ring.completion().is_empty() {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            if let Err(error) = self.enter(Some(left)) {
                match Errno::from_io_error(&error) {
                    Some(Errno::INTR | Errno::TIME) => {}
                    Some(Errno::AGAIN | Errno::BUSY) => std::thread::yield_now(),
                    _ => return Err(error),
                }
            }
        }
    }
}

impl Jobs {
    /// Takes a result: the operation that follows, or else the request is finished.
    fn completed(&mut self, index: usize, result: i32) -> Option<Entry> {
        let slot = &mut self.slots[index];
        let job = slot.job.as_mut()?;
        match job.completed(slot.bounce.as_mut(), &self.shared, &mut self.lacks, result) {
            Next::Again => self.operation(index),
            Next::Done(result) => {
                self.end(index, result);
                None
            }
        }
    }

    fn operation(&mut self, index: usize) -> Option<Entry> {
        Some(self.slots[index].operation(&self.shared)?.user_data(index as u64))
    }

    /// Ends the request in a slot, which the kernel must have no operation of.
    fn end(&mut self, index: usize, result: Result<(), StorageError>) {
        if let Some(job) = self.slots[index].job.take() {
            self.free.push(index as u16);
            self.ready.push_back(job.finish(result));
        }
    }
}

impl Storage for UringStorage {
    fn submit(&mut self, request: Request) -> Option<Finished> {
        let job = match Job::new(request, &self.jobs.shared, self.jobs.lacks) {
            Ok(job) => job,
            Err(finished) => return Some(finished),
        };
        let Some(index) = self.jobs.free.pop() else {
            return Some(job.finish(Err(StorageError::Io(Errno::BUSY.raw_os_error()))));
        };
        let index = usize::from(index);
        self.jobs.slots[index].job = Some(job);
        let operation = self.jobs.operation(index)?;
        if push(&mut self.ring.submission(), &operation).is_err() {
            // Full: make space, then again.
            let _ = self.submit_all();
            if push(&mut self.ring.submission(), &operation).is_err() {
                self.jobs.end(index, Err(StorageError::Io(Errno::AGAIN.raw_os_error())));
            }
        }
        None
    }

    fn commit(&mut self) -> Result<(), DeviceError> {
        self.submit_all().map_err(|error| os_error(&error))
    }

    fn poll(&mut self) -> Option<Finished> {
        if self.jobs.ready.is_empty() && self.in_kernel > 0 {
            self.reap();
        }
        self.jobs.ready.pop_front()
    }

    fn pending(&self) -> usize {
        self.jobs.slots.len() - self.jobs.free.len() + self.jobs.ready.len()
    }

    fn capacity(&self) -> usize {
        self.jobs.slots.len()
    }

    fn attach_waker(&mut self, waker: &Waker) {
        // Only an event can be woken by the kernel. With any other waker the queue is polled.
        if let Some(event) = event_of(waker) {
            self.wakes = self.ring.submitter().register_eventfd(event.as_raw_fd()).is_ok();
        }
    }

    fn waiting(&self) -> usize {
        // What is ready here was not asked for yet.
        if self.wakes && self.jobs.ready.is_empty() { self.pending() } else { 0 }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        if self.pending() == 0 || !self.jobs.ready.is_empty() {
            return self.commit();
        }
        match self.wait_for_result(self.deadline()) {
            Ok(true) => self.commit(),
            Ok(false) => Err(DeviceError::Backend("the kernel finished nothing in time")),
            Err(error) => Err(os_error(&error)),
        }
    }
}

impl Drop for UringStorage {
    fn drop(&mut self) {
        let deadline = self.deadline();
        while self.in_kernel > 0 {
            if !self.wait_for_result(deadline).unwrap_or(false) {
                // Leaked, ring, buffers and chains, and the lock.
                return;
            }
            let count = self.ring.completion().count();
            self.in_kernel -= count;
            self.jobs.shared.counters.taken(count);
        }
        // SAFETY: the kernel uses none of them any more, and nothing uses them after this.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.jobs);
            ManuallyDrop::drop(&mut self.held);
        }
    }
}

impl fmt::Debug for UringStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringStorage")
            .field("pending", &self.pending())
            .field("in_kernel", &self.in_kernel)
            .finish_non_exhaustive()
    }
}
