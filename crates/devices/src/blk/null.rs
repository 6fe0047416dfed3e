//! A storage that keeps nothing, for measuring everything else.

use super::storage::{Backend, Finished, Operation, Request, Storage, StorageError};
use alloc::boxed::Box;
use virtio_kit::device::DeviceError;

/// A backend of any size that forgets what is written.
#[derive(Clone, Copy, Debug)]
pub struct NullBackend {
    len: u64,
    zeros: bool,
}

impl NullBackend {
    /// A backend of `len` bytes whose reads touch no data.
    pub fn new(len: u64) -> Self {
        Self { len, zeros: false }
    }

    /// A backend of `len` bytes whose reads are zeros.
    pub fn zeros(len: u64) -> Self {
        Self { len, zeros: true }
    }
}

impl Backend for NullBackend {
    fn len(&self) -> u64 {
        self.len
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn id(&self) -> &str {
        "virtio-kit-null"
    }

    fn open_queue(&mut self) -> Result<Box<dyn Storage>, DeviceError> {
        Ok(Box::new(*self))
    }
}

impl Storage for NullBackend {
    fn submit(&mut self, request: Request) -> Option<Finished> {
        let Request { mut chain, operation, data_len } = request;
        let result = match operation {
            Operation::Read { .. } if self.zeros => {
                chain.write_fill(data_len, 0).map_err(|_| StorageError::Io(0))
            }
            _ => Ok(()),
        };
        Some(Finished { chain, result })
    }
}
