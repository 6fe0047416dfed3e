//! An image in the qcow2 format as the content of a block device, by `imago`, on threads of its own.
//!
//! What is complete is in the file: an image's tables, of which `imago` keeps a copy, are written out before a driver is
//! told of a write. So a server that is killed loses nothing that it has acknowledged.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate, StorageOpenOptions};
use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt;
use virtio_kit::device::DeviceError;
use virtio_kit_devices::blk::{Backend, Finished, Operation, Request, Storage, StorageError};

use super::error::{OpenError, OpenErrorKind};
use super::file::{LOCK_LIMIT, Options, in_use, not_held, storage_type};
use super::lock::{Held, Lock};

type Access = FormatAccess<ImageFile>;

/// Threads that work on an image.
const THREADS: usize = 4;

/// Most requests of which the tables are written out together.
const BATCH: usize = 16;

/// Bytes that are moved at a time.
const PIECE: usize = 256 << 10;

/// How long one wait for a request is.
const PATIENCE: Duration = Duration::from_millis(100);

/// An image in the qcow2 format, with the files that it refers to. Clones are the same image.
///
/// It is opened when the first queue starts, under the lock that keeps others away, and closed with the last one:
/// what somebody else has done to it before is seen.
#[derive(Clone)]
pub struct Qcow2Backend {
    shared: Arc<Shared>,
}

struct Shared {
    file: File,
    path: PathBuf,
    options: Options,
    len: u64,
    lock: Arc<Lock>,
    image: Mutex<Weak<Image>>,
    /// Something that was written is not in the file, and never will be.
    lost: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Qcow2Backend {
    /// Opens `path`, whose content must be an image. Its depth is for each queue.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let Options { read_only, direct, depth, .. } = options;
        let other = |kind| OpenError::new(path, kind);
        let failed = |error: io::Error| other(OpenErrorKind::of(&error, read_only));
        if depth == 0 || depth > 4096 {
            return Err(other(OpenErrorKind::Depth(depth)));
        }
        storage_type(&std::fs::metadata(path).map_err(failed)?).map_err(other)?;
        let flags = if direct { OFlags::DIRECT.bits() as i32 } else { 0 };
        let file =
            File::options().read(true).write(!read_only).custom_flags(flags).open(path).map_err(failed)?;
        let lock = Lock::new(&file, read_only).map_err(failed)?;
        let len = access(&file, path, Options { read_only: true, ..options })
            .map_err(|error| OpenError::format(path, &error))?
            .size();
        if !len.is_multiple_of(512) {
            return Err(other(OpenErrorKind::Length { len, block: 512 }));
        }
        let (image, lost) = (Mutex::new(Weak::new()), AtomicBool::new(false));
        let shared = Shared { file, path: path.into(), options, len, lock, image, lost };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// As [`FileBackend::check_unused`](super::FileBackend::check_unused).
    pub fn check_unused(&self, limit: Duration) -> Result<(), OpenError> {
        let held = Held::take(&self.shared.lock, limit);
        held.map(drop).map_err(|error| in_use(&self.shared.path, error))
    }

    /// Makes durable what all queues have completed. Fails, as every flush does, once any of it was lost.
    pub fn sync(&self) -> io::Result<()> {
        if self.shared.lost.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.shared.file.sync_data()
    }

    /// The image, opened if no queue has it open.
    fn image(&self) -> Result<Arc<Image>, DeviceError> {
        let mut image = lock(&self.shared.image);
        if let Some(image) = image.upgrade() {
            return Ok(image);
        }
        let held = Held::take(&self.shared.lock, LOCK_LIMIT).map_err(not_held)?;
        let access = access(&self.shared.file, &self.shared.path, self.shared.options).map_err(|error| {
            tracing::error!("{}: {error}", self.shared.path.display());
            DeviceError::Os(error.raw_os_error().unwrap_or(0))
        })?;
        let work = Arc::new(Work {
            shared: self.shared.clone(),
            access: RwLock::new(access),
            jobs: Mutex::default(),
            more: Condvar::new(),
        });
        let mut opened = Image { work, threads: Vec::new(), _held: held };
        for number in 0..THREADS {
            let work = opened.work.clone();
            let thread =
                std::thread::Builder::new().name(format!("qcow2 {number}")).spawn(move || work.run());
            let thread = thread.map_err(|error| DeviceError::Os(error.raw_os_error().unwrap_or(0)))?;
            opened.threads.push(thread);
        }
        let opened = Arc::new(opened);
        *image = Arc::downgrade(&opened);
        Ok(opened)
    }
}

/// Opens an image through a description that is open already.
fn access(file: &File, path: &Path, options: Options) -> io::Result<Access> {
    let Options { read_only, direct, .. } = options;
    let how = StorageOpenOptions::new().filename(path).write(!read_only).direct(direct);
    let file = ImageFile::from_open_file(file.try_clone()?, how)?;
    let image = Qcow2::<ImageFile>::builder(file).write(!read_only);
    Ok(FormatAccess::new(image.open(PermissiveImplicitOpenGate::default())?))
}

impl Backend for Qcow2Backend {
    fn len(&self) -> u64 {
        self.shared.len
    }

    fn read_only(&self) -> bool {
        self.shared.options.read_only
    }

    fn can_discard(&self) -> bool {
        self.shared.options.discard && !self.read_only()
    }

    fn id(&self) -> &str {
        "virtio-kit-qcow2"
    }

    fn open_queue(&mut self) -> Result<Box<dyn Storage>, DeviceError> {
        let depth = usize::from(self.shared.options.depth);
        let done = Done {
            ready: Mutex::new(VecDeque::with_capacity(depth)),
            changed: Condvar::new(),
            waker: Mutex::new(None),
        };
        let done = Arc::new(done);
        Ok(Box::new(Qcow2Storage { image: self.image()?, done, depth, pending: 0, wakes: false }))
    }
}

/// An image that is open, and the threads that work on it.
struct Image {
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
    _held: Held,
}

impl Drop for Image {
    fn drop(&mut self) {
        lock(&self.work.jobs).ended = true;
        self.work.more.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there has been printed there.
            let _ = thread.join();
        }
        // Before somebody else may have it.
        if !self.work.shared.options.read_only {
            let _ = self.work.flush();
        }
    }
}

/// What threads work on.
struct Work {
    shared: Arc<Shared>,
    /// Discarding is for one alone.
    access: RwLock<Access>,
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    ended: bool,
}

struct Job {
    request: Request,
    done: Arc<Done>,
}

/// Where a queue's finished requests wait for it.
struct Done {
    ready: Mutex<VecDeque<Finished>>,
    changed: Condvar,
    waker: Mutex<Option<Waker>>,
}

impl Done {
    fn put(&self, finished: Finished) {
        lock(&self.ready).push_back(finished);
        self.changed.notify_one();
        let waker = lock(&self.waker).clone();
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

impl Work {
    fn run(&self) {
        let mut buffer = Vec::with_capacity(PIECE);
        let mut batch: Vec<Job> = Vec::with_capacity(BATCH);
        let mut finished: Vec<(Finished, Arc<Done>)> = Vec::with_capacity(BATCH);
        loop {
            let mut jobs = lock(&self.jobs);
            while jobs.waiting.is_empty() && !jobs.ended {
                jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            }
            // What the other threads can do at the same time is left to them.
            let share = jobs.waiting.len().div_ceil(THREADS).clamp(1, BATCH);
            while batch.len() < share
                && let Some(job) = jobs.waiting.pop_front()
            {
                batch.push(job);
            }
            drop(jobs);
            if batch.is_empty() {
                return;
            }
            let mut changed = false;
            for Job { request: Request { mut chain, operation, data_len }, done } in batch.drain(..) {
                changed |= !matches!(operation, Operation::Read { .. } | Operation::Flush);
                let result = self
                    .perform(&mut chain, operation, data_len, &mut buffer)
                    .map_err(|error| failed(&error));
                finished.push((Finished { chain, result }, done));
            }
            let written = if changed { self.flush().map_err(|error| failed(&error)) } else { Ok(()) };
            for (mut one, done) in finished.drain(..) {
                one.result = one.result.and(written);
                done.put(one);
            }
        }
    }

    /// Writes out the tables of which there is a copy here.
    fn flush(&self) -> io::Result<()> {
        let flushed = self.access.read().unwrap_or_else(PoisonError::into_inner).flush();
        if flushed.is_err() {
            self.shared.lost.store(true, Relaxed);
        }
        flushed
    }

    fn sync(&self) -> io::Result<()> {
        self.flush()?;
        if self.shared.lost.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let synced = self.access.read().unwrap_or_else(PoisonError::into_inner).sync();
        if synced.is_err() {
            self.shared.lost.store(true, Relaxed);
        }
        synced
    }

    fn perform(
        &self,
        chain: &mut virtio_kit::device::Chain,
        operation: Operation,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let bounds = |_| io::Error::from_raw_os_error(libc::EFAULT);
        let pieces = || (0..len).step_by(PIECE).map(|at| (at as u64, PIECE.min(len - at)));
        let shared = || self.access.read().unwrap_or_else(PoisonError::into_inner);
        let alone = || self.access.write().unwrap_or_else(PoisonError::into_inner);
        match operation {
            Operation::Read { offset } => {
                for (at, len) in pieces() {
                    buffer.resize(len, 0);
                    shared().read(&mut *buffer, offset + at)?;
                    chain.write(buffer).map_err(bounds)?;
                }
                Ok(())
            }
            Operation::Write { offset, durable } => {
                for (at, len) in pieces() {
                    buffer.resize(len, 0);
                    chain.read(buffer).map_err(bounds)?;
                    shared().write(&*buffer, offset + at)?;
                }
                if durable { self.sync() } else { Ok(()) }
            }
            Operation::Flush => self.sync(),
            Operation::Discard { offset, len } => match alone().discard_to_any(offset, len) {
                // Older images keep what they have: as good an answer as any.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                other => other,
            },
            Operation::WriteZeroes { offset, len, unmap, durable } => {
                let unmapped = unmap && self.shared.options.discard;
                let done = if unmapped {
                    alone().discard_to_zero(offset, len)
                } else {
                    shared().write_zeroes(offset, len)
                };
                match done {
                    // Older images have no clusters of zeros.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        self.zero(offset, len, buffer)?
                    }
                    other => other?,
                }
                if durable { self.sync() } else { Ok(()) }
            }
            Operation::SecureErase { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Writes zeros as data.
    fn zero(&self, offset: u64, len: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(PIECE as u64);
            buffer.clear();
            buffer.resize(piece as usize, 0);
            self.access.read().unwrap_or_else(PoisonError::into_inner).write(&*buffer, offset + done)?;
            done += piece;
        }
        Ok(())
    }
}

fn failed(error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::Unsupported => StorageError::Unsupported,
        _ => {
            tracing::warn!("qcow2: {error}");
            StorageError::Io(error.raw_os_error().unwrap_or(0))
        }
    }
}

/// One queue's way to an image.
struct Qcow2Storage {
    image: Arc<Image>,
    done: Arc<Done>,
    depth: usize,
    pending: usize,
    /// There is a waker.
    wakes: bool,
}

impl Storage for Qcow2Storage {
    fn submit(&mut self, request: Request) -> Option<Finished> {
        let job = Job { request, done: self.done.clone() };
        lock(&self.image.work.jobs).waiting.push_back(job);
        self.pending += 1;
        None
    }

    fn commit(&mut self) -> Result<(), DeviceError> {
        if self.pending > 0 {
            self.image.work.more.notify_all();
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<Finished> {
        let finished = lock(&self.done.ready).pop_front()?;
        self.pending -= 1;
        Some(finished)
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn capacity(&self) -> usize {
        self.depth
    }

    fn attach_waker(&mut self, waker: &Waker) {
        *lock(&self.done.waker) = Some(waker.clone());
        self.wakes = true;
    }

    fn waiting(&self) -> usize {
        if self.wakes { self.pending } else { 0 }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let ready = lock(&self.done.ready);
        let waited = self.done.changed.wait_timeout_while(ready, PATIENCE, |ready| ready.is_empty());
        drop(waited);
        Ok(())
    }
}
