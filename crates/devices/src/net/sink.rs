//! A back-end that counts what it is sent, for measuring everything else.

use super::backend::{ALL_OFFLOADS, Backend, Receive, Transmit};
use super::frame::Outgoing;
use super::inlet::Silence;
use super::steering::Steering;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use core::task::Waker;
use portable_atomic::AtomicU64;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError};

/// Takes every frame and touches none. Nothing is ever received.
#[derive(Clone, Default)]
pub struct Sink {
    frames: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

/// What a sink has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sunk {
    /// Frames, of which one that is to be segmented counts once.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
}

impl Sink {
    /// A sink. Clones count together: one can be kept to look at.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was taken so far.
    pub fn sunk(&self) -> Sunk {
        Sunk { frames: self.frames.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

impl Backend for Sink {
    fn takes(&self) -> Features {
        ALL_OFFLOADS
    }

    fn attach(&mut self, _: Steering) {}

    fn open_transmit(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        Ok(Box::new(self.clone()))
    }

    fn open_receive(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        Ok(Box::new(Silence))
    }

    fn reset(&mut self) {}
}

impl Transmit for Sink {
    fn submit(&mut self, frame: Outgoing) -> Option<Chain> {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Some(frame.into_chain())
    }
}
