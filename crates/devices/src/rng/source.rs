//! Where entropy comes from: submit and poll.

use core::task::Waker;
use virtio_kit::device::DeviceError;

/// A source of random bytes.
pub trait Source: Send {
    /// So many more bytes will be polled for. A source that gathers them in the background begins now.
    fn submit(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Fills `to` from its start: how many bytes, perhaps fewer than there is room for. 0 if there are none now;
    /// then it is asked again. An error is for good: the device then asks to be reset.
    fn poll(&mut self, to: &mut [u8]) -> Result<usize, DeviceError>;

    /// Has a waker woken once there may be something to poll for, when [`poll`](Self::poll) gave nothing. `false` if it
    /// cannot: then it is polled.
    fn wake(&mut self, waker: &Waker) -> bool {
        let _ = waker;
        false
    }

    /// Waits, for a bounded time, until there may be something to poll for.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// A source that gives the same bytes again and again: for tests, and no source of entropy at all.
#[derive(Clone, Debug)]
pub struct RepeatingSource<const N: usize> {
    bytes: [u8; N],
    next: usize,
}

impl<const N: usize> RepeatingSource<N> {
    /// Gives `bytes` over and over.
    pub fn new(bytes: [u8; N]) -> Self {
        const { assert!(N > 0, "there must be something to repeat") };
        Self { bytes, next: 0 }
    }
}

impl<const N: usize> Source for RepeatingSource<N> {
    fn poll(&mut self, to: &mut [u8]) -> Result<usize, DeviceError> {
        for byte in &mut *to {
            *byte = self.bytes[self.next];
            self.next = (self.next + 1) % N;
        }
        Ok(to.len())
    }
}
