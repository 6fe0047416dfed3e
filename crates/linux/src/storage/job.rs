//! One request as a sequence of kernel operations.

use super::file::Shared;
use super::slot::{BOUNCE, Bounce, Iovec, SEGMENTS, Slot, ZEROS};
use core::sync::atomic::Ordering::Relaxed;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use virtio_kit::device::Chain;
use virtio_kit_devices::blk::{Finished, Operation, Request, StorageError};

/// Where the data of a write begin in the readable part of its chain: after the request header.
const HEADER: usize = 16;

/// How often an operation that the kernel put off is tried again without any progress.
const RETRIES: u8 = 64;

/// The file, as every ring has it registered.
const FILE: Fixed = Fixed(0);

/// A request in progress.
pub(super) struct Job {
    chain: Chain,
    step: Step,
    offset: u64,
    len: u64,
    /// Bytes read or written so far.
    done: u64,
    /// Not complete before it is durable.
    durable: bool,
    /// What discards may fail to do without harm, zeroing may not.
    discard: bool,
    retries: u8,
    /// Bytes that the operation at hand moves by way of the bounce buffer; 0 if it does not.
    bounced: usize,
}

/// What the kernel is doing, or is to do next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    /// Give the range up; it then reads as zeros.
    Punch,
    /// Have the file system make the range read as zeros.
    ZeroRange,
    /// Write zeros.
    WriteZeros,
    /// Make everything durable.
    Sync,
}

/// What the file is known not to be able to do, so that it is not asked again.
#[derive(Clone, Copy, Default)]
pub(super) struct Lacks {
    punch: bool,
    zero_range: bool,
}

/// What follows on an operation.
pub(super) enum Next {
    /// Another operation.
    Again,
    /// The end.
    Done(Result<(), StorageError>),
}

fn io_error<T>(errno: Errno) -> Result<T, StorageError> {
    Err(StorageError::Io(errno.raw_os_error()))
}

impl Job {
    /// Begins a request, unless it can be answered at once.
    pub(super) fn new(request: Request, shared: &Shared, lacks: Lacks) -> Result<Self, Finished> {
        let Request { chain, operation, data_len } = request;
        let mut job = Self {
            chain,
            step: Step::Sync,
            offset: 0,
            len: 0,
            done: 0,
            durable: false,
            discard: false,
            retries: 0,
            bounced: 0,
        };
        match job.plan(operation, data_len, shared, lacks) {
            Ok(true) => Ok(job),
            Ok(false) => Err(job.finish(Ok(()))),
            Err(error) => Err(job.finish(Err(error))),
        }
    }

    /// Whether there is anything to do.
    fn plan(
        &mut self,
        operation: Operation,
        data_len: usize,
        shared: &Shared,
        lacks: Lacks,
    ) -> Result<bool, StorageError> {
        let (offset, len) = match operation {
            Operation::Read { offset } => {
                self.step = Step::Read;
                self.chain.writable_range(0, data_len).or(io_error(Errno::INVAL))?;
                (offset, data_len as u64)
            }
            Operation::Write { offset, durable } => {
                (self.step, self.durable) = (Step::Write, durable);
                self.chain.readable_range(HEADER, data_len).or(io_error(Errno::INVAL))?;
                (offset, data_len as u64)
            }
            Operation::Flush => {
                shared.still_syncs()?;
                return Ok(true);
            }
            // What a file system has written elsewhere is beyond reach.
            Operation::SecureErase { .. } => return Err(StorageError::Unsupported),
            Operation::Discard { .. } if !shared.options.discard => return Err(StorageError::Unsupported),
            Operation::Discard { offset, len } => {
                (self.step, self.discard) = (Step::Punch, true);
                (offset, if lacks.punch { 0 } else { len })
            }
            Operation::WriteZeroes { offset, len, unmap, durable } => {
                self.durable = durable;
                self.step = match () {
                    () if unmap && shared.options.discard && !lacks.punch => Step::Punch,
                    () if !lacks.zero_range => Step::ZeroRange,
                    () => Step::WriteZeros,
                };
                (offset, len)
            }
        };
        // Offsets of files are signed; -1 would mean the file's own position.
        if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return io_error(Errno::INVAL);
        }
        if self.step != Step::Read && shared.options.read_only {
            return io_error(Errno::ROFS);
        }
        if self.durable {
            shared.still_syncs()?;
        }
        (self.offset, self.len) = (offset, len);
        Ok(len > 0)
    }

    pub(super) fn finish(self, result: Result<(), StorageError>) -> Finished {
        Finished { chain: self.chain, result }
    }

    fn at(&self) -> u64 {
        self.offset + self.done
    }

    fn rest(&self) -> u64 {
        self.len - self.done
    }

    fn rw_flags(&self) -> i32 {
        if self.durable { ReadWriteFlags::DSYNC.bits() as i32 } else { 0 }
    }

    /// Takes the result of an operation: 0 or more, or an error number, negative.
    pub(super) fn completed(
        &mut self,
        bounce: Option<&mut Bounce>,
        shared: &Shared,
        lacks: &mut Lacks,
        result: i32,
    ) -> Next {
        let Ok(count) = u64::try_from(result) else {
            return self.failed(Errno::from_raw_os_error(-result), shared, lacks);
        };
        self.retries = 0;
        match self.step {
            Step::Sync => Next::Done(Ok(())),
            Step::Punch | Step::ZeroRange if self.durable => {
                self.step = Step::Sync;
                Next::Again
            }
            Step::Punch | Step::ZeroRange => Next::Done(Ok(())),
            Step::Read | Step::Write | Step::WriteZeros => self.moved(count, bounce, shared),
        }
    }

    /// The kernel moved `count` bytes. Fewer than asked for are no error unless there were none at all: then
    /// a read is past the end of a file that somebody cut short.
    fn moved(&mut self, count: u64, bounce: Option<&mut Bounce>, shared: &Shared) -> Next {
        let mut count = count.min(self.rest());
        if shared.options.direct && count < self.rest() {
            // Direct I/O can only go on at a block.
            count &= !u64::from(shared.block - 1);
        }
        if count == 0 {
            return Next::Done(io_error(Errno::IO));
        }
        if self.step == Step::Read {
            let (done, count) = (self.done as usize, count as usize);
            let stored = match bounce {
                Some(bounce) if self.bounced != 0 => {
                    // SAFETY: the operation on this slot's buffer has ended, and the next has not begun.
                    let bytes = unsafe { bounce.bytes() };
                    self.chain.write_at(done, &bytes[..count.min(self.bounced)])
                }
                _ => self.chain.mark_written(done, count),
            };
            if stored.is_err() {
                return Next::Done(io_error(Errno::IO));
            }
        }
        self.done += count;
        if self.rest() == 0 { Next::Done(Ok(())) } else { Next::Again }
    }

    fn failed(&mut self, errno: Errno, shared: &Shared, lacks: &mut Lacks) -> Next {
        match errno {
            // Cancelled: the thread that submitted it has ended.
            Errno::INTR | Errno::AGAIN | Errno::CANCELED if self.retries < RETRIES => {
                self.retries += 1;
                return Next::Again;
            }
            Errno::OPNOTSUPP if self.step == Step::Punch => {
                lacks.punch = true;
                if self.discard {
                    // What is discarded may keep its content.
                    return Next::Done(Ok(()));
                }
                self.step = Step::ZeroRange;
                return Next::Again;
            }
            Errno::OPNOTSUPP if self.step == Step::ZeroRange => {
                lacks.zero_range = true;
                self.step = Step::WriteZeros;
                return Next::Again;
            }
            _ => {}
        }
        // What was written earlier may be what could not be made durable, and the kernel reports that once.
        if self.step == Step::Sync || (self.durable && errno == Errno::IO && !shared.options.direct) {
            shared.sync_failed.store(true, Relaxed);
        }
        Next::Done(io_error(errno))
    }
}

impl Shared {
    /// An error if something was lost that a flush should have made durable.
    fn still_syncs(&self) -> Result<(), StorageError> {
        if self.sync_failed.load(Relaxed) { io_error(Errno::IO) } else { Ok(()) }
    }
}

impl Slot {
    /// The next operation of this slot's job, which must have one.
    ///
    /// What it points to is valid until its result is taken: the driver's memory because the job owns the
    /// chain, whose segments stay mapped until it is completed, or for good if it is dropped; iovecs and
    /// bounce buffer because the slot owns them, and is leaked rather than dropped while the kernel works.
    pub(super) fn operation(&mut self, shared: &Shared) -> Option<squeue::Entry> {
        let Self { job, iovecs, bounce } = self;
        let job = job.as_mut()?;
        let (at, rest) = (job.at(), job.rest());
        Some(match job.step {
            Step::Read | Step::Write => match job.gather(&mut iovecs[..], shared) {
                Some(count) => job.transfer(&iovecs[..count]),
                None => job.bounced(bounce.get_or_insert_with(Bounce::new)),
            },
            Step::WriteZeros => {
                let (mut left, mut count) = (rest, 0);
                for iovec in iovecs.iter_mut() {
                    if left == 0 {
                        break;
                    }
                    let len = left.min(ZEROS.0.len() as u64);
                    // Only read, by a write.
                    *iovec = Iovec { base: ZEROS.0.as_ptr().cast_mut(), len: len as usize };
                    (left, count) = (left - len, count + 1);
                }
                job.transfer(&iovecs[..count])
            }
            Step::Punch => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                opcode::Fallocate::new(FILE, rest).offset(at).mode(mode.bits() as i32).build()
            }
            Step::ZeroRange => {
                let mode = FallocateFlags::ZERO_RANGE.bits() as i32;
                opcode::Fallocate::new(FILE, rest).offset(at).mode(mode).build()
            }
            // Everything that was completed before is in the file by now, in the page cache or beyond, so
            // this covers it. What is still in flight need not be covered (5.2.6.2), so nothing is awaited.
            Step::Sync => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        })
    }
}

impl Job {
    /// Lists the segments of what is left, as many as fit; `None` if they are not aligned for direct I/O.
    fn gather(&mut self, iovecs: &mut [Iovec], shared: &Shared) -> Option<usize> {
        debug_assert!(iovecs.len() == SEGMENTS);
        self.bounced = 0;
        let (done, rest) = (self.done as usize, self.rest() as usize);
        let segments = match self.step {
            Step::Read => self.chain.writable_range(done, rest),
            _ => self.chain.readable_range(HEADER + done, rest),
        };
        let mask = if shared.options.direct { shared.block as usize - 1 } else { 0 };
        let mut count = 0;
        // The range was checked when the job began.
        for (segment, iovec) in segments.ok()?.zip(iovecs) {
            *iovec = Iovec { base: segment.as_ptr().as_ptr(), len: segment.len() };
            if (iovec.base as usize | iovec.len) & mask != 0 {
                return None;
            }
            count += 1;
        }
        Some(count)
    }

    /// Reads or writes what is listed, from where the job stands.
    fn transfer(&self, iovecs: &[Iovec]) -> squeue::Entry {
        let (at, flags, count) = (self.at(), self.rw_flags(), iovecs.len() as u32);
        match (self.step, iovecs) {
            (Step::Read, [one]) => {
                opcode::Read::new(FILE, one.base, one.len as u32).offset(at).rw_flags(flags).build()
            }
            (Step::Read, _) => {
                opcode::Readv::new(FILE, iovecs.as_ptr().cast(), count).offset(at).rw_flags(flags).build()
            }
            (_, [one]) => {
                opcode::Write::new(FILE, one.base, one.len as u32).offset(at).rw_flags(flags).build()
            }
            (..) => {
                opcode::Writev::new(FILE, iovecs.as_ptr().cast(), count).offset(at).rw_flags(flags).build()
            }
        }
    }

    /// Reads or writes as much as the bounce buffer holds.
    fn bounced(&mut self, bounce: &mut Bounce) -> squeue::Entry {
        let len = self.rest().min(BOUNCE as u64) as usize;
        self.bounced = len;
        if self.step == Step::Write {
            // SAFETY: the slot has no operation in progress, since this makes its next.
            let bytes = unsafe { bounce.bytes() };
            // The range was checked when the job began.
            let copied = self.chain.read_at(HEADER + self.done as usize, &mut bytes[..len]);
            debug_assert!(copied.is_ok());
        }
        self.transfer(&[Iovec { base: bounce.as_ptr(), len }])
    }
}
