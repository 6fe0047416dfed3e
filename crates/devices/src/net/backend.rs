//! What a network device is attached to: frames are submitted, and looked for.

use super::frame::{Frame, Outgoing};
use super::steering::Steering;
use alloc::boxed::Box;
use core::task::Waker;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError};

/// One transmit queue's way out. Frames may be done in any order, and as late as it takes.
pub trait Transmit: Send {
    /// Begins to send a frame; there must be fewer than [`capacity`](Self::capacity) pending. If that is done
    /// at once, or the frame is dropped, its chain comes back.
    fn submit(&mut self, frame: Outgoing) -> Option<Chain>;

    /// Hands over what was submitted since the last time.
    fn commit(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The chain of a frame that is done, if there is one.
    fn poll(&mut self) -> Option<Chain> {
        None
    }

    /// Frames begun whose chains have not come back.
    fn pending(&self) -> usize {
        0
    }

    /// How many frames may be pending at once.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// Waits, for a bounded time, until something pending is done.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// One receive queue's source of frames, in private memory.
pub trait Receive: Send {
    /// The frame that comes next, if there is one. It stays the next until it is released, also if this value
    /// is dropped and another one opened for the queue.
    fn peek(&mut self) -> Option<&mut Frame>;

    /// The frame that [`peek`](Self::peek) gave is not needed any more.
    fn release(&mut self);

    /// Asks to be woken when a frame comes. `false`, and no wake is owed, if one is there already.
    fn arm(&mut self) -> bool;

    /// Whether frames are being lost because those before them are not released.
    fn is_full(&self) -> bool;
}

/// Where a network device's frames come from and go to.
pub trait Backend: Send {
    /// What it takes from the driver unfinished: features of the HOST group, and CSUM. The device offers them,
    /// and no others.
    fn takes(&self) -> Features;

    /// Whether frames come by the receive queue that the driver's indirection table says. If not, the device does not
    /// offer receive-side scaling.
    fn steers(&self) -> bool {
        true
    }

    /// The device exists: how it wants received frames to be spread over its queues.
    fn attach(&mut self, steering: Steering);

    /// Transmit queue `pair` starts.
    fn open_transmit(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Transmit>, DeviceError>;

    /// Receive queue `pair` starts. `waker` makes it run when a frame comes.
    fn open_receive(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError>;

    /// The device was reset: frames that wait for it are dropped.
    fn reset(&mut self);
}

/// Every feature of the HOST group that a packet in memory can carry: what [`Backend::takes`] says if the back-end
/// passes frames on as they are.
pub const ALL_OFFLOADS: Features = {
    use virtio_kit::spec::net::F;
    F::CSUM.union(F::HOST_TSO4).union(F::HOST_TSO6).union(F::HOST_ECN).union(F::HOST_USO)
};
