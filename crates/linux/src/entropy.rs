//! Sources for entropy devices: the kernel's generator, or a file.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::task::Waker;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_kit::device::DeviceError;
use virtio_kit_devices::rng::Source;

use crate::watch::Watch;

/// How long a source is waited for before somebody else may have a turn.
const PATIENCE: Duration = Duration::from_millis(20);

/// The kernel's generator (`getrandom`), which never runs dry once it is seeded.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelSource;

impl Source for KernelSource {
    fn poll(&mut self, to: &mut [u8]) -> Result<usize, DeviceError> {
        match getrandom(&mut *to, GetRandomFlags::NONBLOCK) {
            Ok(got) => Ok(got),
            // Not seeded yet, early after the machine was started.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(DeviceError::Os(error.raw_os_error())),
        }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        std::thread::sleep(PATIENCE);
        Ok(())
    }
}

/// What a file gives: a character device such as `/dev/hwrng`, a pipe, or bytes that were gathered before. Nothing
/// is given twice: at the end of the file the device fails.
pub struct FileSource {
    file: File,
    /// The same, for whoever waits for it.
    watched: [OwnedFd; 1],
    watch: Option<Watch>,
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource").field("file", &self.file).finish_non_exhaustive()
    }
}

impl FileSource {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let failed = |error| OpenError { path: path.into(), error };
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::IsADirectory.into()));
        }
        Self::over(file).map_err(failed)
    }

    fn over(file: File) -> io::Result<Self> {
        Ok(Self { watched: [file.try_clone()?.into()], file, watch: None })
    }

    /// Another source over the same opened file: what one gives the other does not.
    pub fn try_clone(&self) -> io::Result<Self> {
        Self::over(self.file.try_clone()?)
    }
}

impl Source for FileSource {
    fn poll(&mut self, to: &mut [u8]) -> Result<usize, DeviceError> {
        match self.file.read(to) {
            Ok(0) if !to.is_empty() => Err(DeviceError::Backend("the file of the entropy source has ended")),
            Ok(got) => Ok(got),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(DeviceError::Os(error.raw_os_error().unwrap_or(0))),
        }
    }

    fn wake(&mut self, waker: &Waker) -> bool {
        if self.watch.is_none() {
            // A file that always has something needs nobody to wait for it, and cannot be waited for.
            self.watch = Watch::new("entropy", &self.watched).ok();
        }
        let Some(watch) = &self.watch else { return false };
        watch.set_waker(0, Some(waker.clone()));
        watch.is_there(0);
        watch.arm(0, &self.watched[0]);
        true
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let limit = Timespec { tv_sec: 0, tv_nsec: PATIENCE.as_nanos() as i64 };
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(DeviceError::Os(error.raw_os_error())),
        }
    }
}

/// A file that could not be opened as a source.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_waker::waker;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::Write;
    use std::sync::Arc;

    #[test]
    fn the_kernel_gives_as_much_as_is_asked_for_and_never_the_same() {
        let (mut one, mut other) = ([0; 256], [0; 256]);
        assert_eq!(KernelSource.poll(&mut one), Ok(256));
        assert_eq!(KernelSource.poll(&mut other), Ok(256));
        assert_ne!(one, other);
    }

    #[test]
    fn a_file_gives_its_bytes_once_and_then_fails() {
        let path = std::env::temp_dir().join(format!("virtio-kit-entropy-{}", std::process::id()));
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let mut source = FileSource::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut to = [0; 8];
        assert_eq!(source.poll(&mut to[..2]), Ok(2));
        let mut other = source.try_clone().unwrap();
        assert_eq!(other.poll(&mut to[2..]), Ok(1));
        assert_eq!(to[..3], [1, 2, 3]);
        assert!(matches!(source.poll(&mut to), Err(DeviceError::Backend(_))));
        let error = FileSource::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
        assert!(FileSource::open(std::env::temp_dir()).is_err());
    }

    #[test]
    fn a_pipe_without_bytes_gives_none_yet() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let mut source = FileSource::open(path).unwrap();
        let mut to = [0; 8];
        assert_eq!(source.poll(&mut to), Ok(0));
        source.wait().unwrap();
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        assert!(source.wake(&waker(event.clone())));
        writer.write_all(&[7]).unwrap();
        // It does not come back before it is woken.
        rustix::io::read(&event, &mut [0; 8]).unwrap();
        source.wait().unwrap();
        assert_eq!((source.poll(&mut to), to[0]), (Ok(1), 7));
    }
}
