//! One writer at a time, and none before the last write of the one before has landed.
//!
//! The lock belongs to the open file description that all I/O goes through. A process that is killed leaves it to the
//! kernel's operations that are still under way: each holds the description, and with it the lock, until it is done.
//! So whoever has the lock knows that no write of a killed server lands any more. Other programs that lock images,
//! QEMU among them, meet it too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How long to wait between two tries.
const RETRY: Duration = Duration::from_millis(2);

/// A wait that is worth a line of the log.
const NOTABLE: Duration = Duration::from_millis(100);

/// The lock of a file that several queues share.
#[derive(Debug)]
pub(super) struct Lock {
    /// Another descriptor of the description.
    file: File,
    kind: libc::c_int,
    holders: Mutex<usize>,
}

impl Lock {
    /// The lock of the description behind `file`: for writing, or shared with others that only read.
    pub(super) fn new(file: &File, read_only: bool) -> io::Result<Arc<Self>> {
        let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
        Ok(Arc::new(Self { file: file.try_clone()?, kind, holders: Mutex::new(0) }))
    }

    /// One that is never taken.
    #[cfg(test)]
    pub(super) fn without(file: &File) -> Arc<Self> {
        let (file, kind) = (file.try_clone().unwrap(), libc::F_WRLCK);
        Arc::new(Self { file, kind, holders: Mutex::new(1) })
    }
}

/// Held by a queue.
#[derive(Debug)]
pub(super) struct Held {
    lock: Arc<Lock>,
}

impl Held {
    /// Takes the lock for one more queue. Waits for as long as `limit` while another description has it.
    pub(super) fn take(lock: &Arc<Lock>, limit: Duration) -> Result<Self, Errno> {
        let mut holders = lock.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if *holders == 0 {
            let start = Instant::now();
            let deadline = start + limit;
            loop {
                match set(&lock.file, lock.kind) {
                    Ok(()) => {
                        if start.elapsed() > NOTABLE {
                            tracing::info!("the image was in use by others for {:?}", start.elapsed());
                        }
                        break;
                    }
                    Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() < deadline => {
                        std::thread::sleep(RETRY)
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        *holders += 1;
        Ok(Self { lock: lock.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.lock.holders.lock().unwrap_or_else(PoisonError::into_inner);
        *holders -= 1;
        if *holders == 0 {
            // It goes with the description at the latest.
            let _ = set(&self.lock.file, libc::F_UNLCK);
        }
    }
}

/// Sets the lock of the whole file, without waiting.
fn set(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: all zeros is a lock of nothing in particular, from the start to the end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    // SAFETY: an open file, and a lock that the kernel only reads.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
