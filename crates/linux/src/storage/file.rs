//! The file behind a block device.

use super::counters::Counters;
use super::error::{OpenError, OpenErrorKind};
use super::lock::{Held, Lock};
use super::slot::Bounce;
use super::uring::{UringStorage, new_ring};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use rustix::fs::{FallocateFlags, OFlags, fallocate, ioctl_blksszget};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use virtio_kit::device::DeviceError;
use virtio_kit_devices::blk::{Backend, Storage};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// For reading only.
    pub read_only: bool,
    /// Past the host's page cache. Memory that is not aligned to the block size is copied.
    pub direct: bool,
    /// Most requests of one queue at a time, 1 to 4096.
    pub depth: u16,
    /// Give space up that the driver discards, if the file system can.
    pub discard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_only: false, direct: false, depth: 128, discard: true }
    }
}

/// A regular file or a block device as the content of a block device.
///
/// Its length is what it was when it was opened. If somebody cuts the file short afterwards, reading what is
/// gone is an I/O error, and writing there makes the file longer again.
///
/// All queues write through one open file, so a flush on any of them covers what all of them have completed.
/// Once a flush has failed, all later ones fail: the kernel forgets what it could not write, so a flush that
/// succeeded after that would mean nothing.
///
/// Clones are the same open file.
#[derive(Clone, Debug)]
pub struct FileBackend {
    shared: Arc<Shared>,
}

/// How long a queue that starts waits for whoever used the file before.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// What the queues of a file have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// Block size in bytes; with `direct`, also what memory must be aligned to.
    pub(super) block: u32,
    pub(super) options: Options,
    /// Whatever was written and not yet durable may be lost.
    pub(super) sync_failed: AtomicBool,
    pub(super) counters: Arc<Counters>,
    /// How long to wait for the kernel.
    pub(super) limit: Duration,
    pub(super) lock: Arc<Lock>,
}

impl FileBackend {
    /// Opens `path`, a regular file or a block device.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref();
        open(path, options).map_err(|kind| OpenError::new(path, kind))
    }

    /// What has passed between all its queues and the kernel.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Its length in bytes at this moment, in whole blocks: for [`Resizer`](virtio_kit_devices::blk::Resizer)
    /// when somebody has made it longer.
    pub fn measure(&self) -> io::Result<u64> {
        let len = (&self.shared.file).seek(SeekFrom::End(0))?;
        Ok(len - len % u64::from(self.shared.block))
    }

    /// Makes durable what all queues have completed. Fails, as every flush does, once any of it was lost.
    pub fn sync(&self) -> io::Result<()> {
        if self.shared.sync_failed.load(Relaxed) {
            return Err(io::Error::from(Errno::IO));
        }
        self.shared.file.sync_data()
    }

    /// Whether somebody else writes to it, or reads it while this is to write: waits so long for them to end. A queue
    /// that starts looks again.
    pub fn check_unused(&self, limit: Duration) -> Result<(), OpenError> {
        let held = Held::take(&self.shared.lock, limit);
        held.map(drop).map_err(|error| in_use(&self.shared.path, error))
    }

    /// The way of one queue. While there is any, nobody else gets to write to the file: see
    /// [`check_unused`](Self::check_unused). What a killed process has left to the kernel is waited for.
    pub fn queue(&self) -> Result<UringStorage, DeviceError> {
        let held = Held::take(&self.shared.lock, LOCK_LIMIT).map_err(not_held)?;
        UringStorage::new(self.shared.clone(), held)
    }

    /// Anything that is open, with a limit on waiting: for tests of what a storage does when the kernel
    /// does not answer.
    #[cfg(test)]
    pub(super) fn of_file(file: File, len: u64, limit: Duration) -> Self {
        // A pipe cannot be locked.
        let lock = Lock::without(&file);
        let shared = Shared::new(file, PathBuf::new(), len, 512, Options::default(), lock);
        Self { shared: Arc::new(Shared { limit, ..shared }) }
    }
}

/// A queue cannot start.
pub(super) fn not_held(error: Errno) -> DeviceError {
    match error {
        Errno::AGAIN | Errno::ACCESS => DeviceError::Backend("somebody else has the image in use"),
        other => DeviceError::Os(other.raw_os_error()),
    }
}

/// A file that cannot be locked.
pub(super) fn in_use(path: &Path, error: Errno) -> OpenError {
    match error {
        Errno::AGAIN | Errno::ACCESS => OpenError::new(path, OpenErrorKind::InUse),
        other => OpenError::new(path, OpenErrorKind::Os(other.raw_os_error())),
    }
}

impl Shared {
    fn new(file: File, path: PathBuf, len: u64, block: u32, options: Options, lock: Arc<Lock>) -> Self {
        let (sync_failed, counters) = (AtomicBool::new(false), Arc::default());
        Self { file, path, len, block, options, sync_failed, counters, limit: Duration::from_secs(30), lock }
    }
}

fn open(path: &Path, mut options: Options) -> Result<FileBackend, OpenErrorKind> {
    let Options { read_only, direct, depth, .. } = options;
    if depth == 0 || depth > 4096 {
        return Err(OpenErrorKind::Depth(depth));
    }
    let failed = |error| OpenErrorKind::of(&error, read_only);
    // Looked at before it is opened, since opening a pipe waits for its other end.
    storage_type(&std::fs::metadata(path).map_err(failed)?)?;
    let flags = if direct { OFlags::DIRECT.bits() as i32 } else { 0 };
    let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
    let mut file = match opened {
        Err(error) if direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return Err(OpenErrorKind::NoDirect);
        }
        opened => opened.map_err(failed)?,
    };
    let is_device = storage_type(&file.metadata().map_err(failed)?)?;
    // The end of a block device is its size, as it is for a file.
    let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let mut block = if is_device { ioctl_blksszget(&file).map_err(|e| failed(e.into()))? } else { 512 };
    if direct {
        block = direct_block(&file, block, len)?;
    }
    if !len.is_multiple_of(block.into()) {
        return Err(OpenErrorKind::Length { len, block });
    }
    if options.discard && !is_device && !read_only {
        // There is nothing after the end, so this only asks the file system whether it can.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        options.discard = fallocate(&file, punch, len, 4096).is_ok();
    }
    new_ring(&file, 1).map_err(|error| OpenErrorKind::NoUring(error.raw_os_error().unwrap_or(0)))?;
    let lock = Lock::new(&file, read_only).map_err(failed)?;
    Ok(FileBackend { shared: Arc::new(Shared::new(file, path.into(), len, block, options, lock)) })
}

/// Whether it is a block device; otherwise it is a regular file.
pub(super) fn storage_type(metadata: &std::fs::Metadata) -> Result<bool, OpenErrorKind> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => Err(OpenErrorKind::Directory),
        () if kind.is_block_device() => Ok(true),
        () if kind.is_file() => Ok(false),
        () => Err(OpenErrorKind::NotStorage),
    }
}

/// The smallest block, from `at_least` on, that direct I/O works with: tried out, since kernels before 6.1 do
/// not say.
fn direct_block(file: &File, at_least: u32, len: u64) -> Result<u32, OpenErrorKind> {
    let mut buffer = Bounce::new();
    for block in [512u32, 4096].into_iter().filter(|&b| b >= at_least) {
        // The second block, to memory that is aligned to no more than a block.
        let (at, size) = (u64::from(block), block as usize);
        if len < at * 2 {
            continue;
        }
        // SAFETY: of this function alone.
        let bytes = unsafe { buffer.bytes() };
        match rustix::io::pread(file, &mut bytes[size..2 * size], at) {
            Ok(_) => return Ok(block),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(OpenErrorKind::Os(error.raw_os_error())),
        }
    }
    // Too short to try, or refused.
    Err(OpenErrorKind::NoDirect)
}

impl Backend for FileBackend {
    fn len(&self) -> u64 {
        self.shared.len
    }

    fn read_only(&self) -> bool {
        self.shared.options.read_only
    }

    fn block_size(&self) -> u32 {
        self.shared.block
    }

    fn can_discard(&self) -> bool {
        self.shared.options.discard && !self.read_only()
    }

    fn open_queue(&mut self) -> Result<Box<dyn Storage>, DeviceError> {
        Ok(Box::new(self.queue()?))
    }
}
