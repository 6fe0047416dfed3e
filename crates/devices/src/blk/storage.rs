//! What a block device stores its data in: submit and poll.

use alloc::boxed::Box;
use core::fmt;
use core::task::Waker;
use virtio_kit::device::{Chain, DeviceError};

/// What is to be done, in bytes. The device has checked that the range is inside the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the chain's data range from `offset` on.
    Read {
        /// First byte in the storage.
        offset: u64,
    },
    /// Store the chain's data range from `offset` on.
    Write {
        /// First byte in the storage.
        offset: u64,
        /// Not complete before it is durable: the driver believes that there is no volatile cache.
        durable: bool,
    },
    /// Make everything durable whose completion the driver has seen.
    Flush,
    /// The range is not needed any more; it may read as anything, but not as somebody else's data.
    Discard {
        /// First byte in the storage.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Erase the range so that nothing of it can be read again, by any way.
    SecureErase {
        /// First byte in the storage.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Make the range read as zeros.
    WriteZeroes {
        /// First byte in the storage.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The storage may give the space up.
        unmap: bool,
        /// As for `Write`.
        durable: bool,
    },
}

/// A chain with the work that it asks for.
#[derive(Debug)]
pub struct Request {
    /// The chain. Its data are `data_len` bytes after its header: readable ones from offset 16 for a write,
    /// writable ones from offset 0 for a read.
    pub chain: Chain,
    /// What to do.
    pub operation: Operation,
    /// Bytes of data; 0 for what has none.
    pub data_len: usize,
}

/// A finished request.
#[derive(Debug)]
pub struct Finished {
    /// The chain, given back.
    pub chain: Chain,
    /// How it went.
    pub result: Result<(), StorageError>,
}

/// One queue's way to a storage. Requests finish in any order.
pub trait Storage: Send {
    /// Begins a request; there must be fewer than [`capacity`](Self::capacity) pending. For those that can
    /// be finished at once, what they came to is returned.
    fn submit(&mut self, request: Request) -> Option<Finished>;

    /// Hands over to whoever does the work what was submitted since the last time.
    fn commit(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// A finished request, if there is one.
    fn poll(&mut self) -> Option<Finished> {
        None
    }

    /// Requests begun and not yet given back.
    fn pending(&self) -> usize {
        0
    }

    /// How many requests may be pending at once.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// Is handed what makes the queue run, to be woken when something pending is finished.
    fn attach_waker(&mut self, waker: &Waker) {
        let _ = waker;
    }

    /// How many of the pending requests need no polling: the waker is woken when one of them is finished.
    fn waiting(&self) -> usize {
        0
    }

    /// Waits, for a bounded time, until something pending is finished.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// What a block device is backed by: opens one [`Storage`] per queue.
pub trait Backend: Send {
    /// Length in bytes. May change; the device then announces it.
    fn len(&self) -> u64;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writing is forbidden.
    fn read_only(&self) -> bool {
        false
    }

    /// Preferred size of blocks, in bytes: a power of two, at least 512.
    fn block_size(&self) -> u32 {
        512
    }

    /// Whether `Discard` gives space up. Without it the feature is not offered.
    fn can_discard(&self) -> bool {
        false
    }

    /// Whether `SecureErase` can be done. Without it the feature is not offered.
    fn can_erase(&self) -> bool {
        false
    }

    /// Identification, up to 20 bytes.
    fn id(&self) -> &str {
        "virtio-kit"
    }

    /// Opens the way of one queue.
    fn open_queue(&mut self) -> Result<Box<dyn Storage>, DeviceError>;
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageError {
    /// The storage failed, perhaps with the operating system's error number.
    Io(i32),
    /// The storage cannot do this.
    Unsupported,
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(0) => f.write_str("input/output error"),
            Self::Io(number) => write!(f, "input/output error {number}"),
            Self::Unsupported => f.write_str("the storage cannot do this"),
        }
    }
}

impl core::error::Error for StorageError {}
