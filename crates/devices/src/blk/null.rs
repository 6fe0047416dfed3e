//! A storage that keeps nothing, for measuring everything else.

use super::storage::{Backend, Finished, Request, Storage};
use alloc::boxed::Box;
use virtio_kit::device::DeviceError;

/// A backend of any size that forgets what is written, and whose reads touch no data.
#[derive(Clone, Copy, Debug)]
pub struct NullBackend {
    len: u64,
}

impl NullBackend {
    /// A backend of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { len }
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
        Some(Finished { chain: request.chain, result: Ok(()) })
    }
}
