//! A driver's side of a device: negotiation, virtqueues, configuration.
//!
//! A device passes through three types, so that what may happen when is not left to care:
//!
//! [`Found`] (reset, nothing known but what it is) → [`Setup`] (features agreed, queues are made) →
//! [`Device`] (running). A device that is dropped on the way is left with FAILED set.

mod device;
mod interrupt;
mod setup;
mod virtqueue;

pub use device::{Device, FreeVqError, FreeVqErrorKind};
pub use interrupt::{Callback, QueueInterrupt};
pub use setup::{Found, NegotiateError, NewVqError, RING_FEATURES, Setup, VqOptions};
pub use virtio_kit_ring::driver::{
    AddError, AddErrorKind, BatchError, Broken, Evidence, Place, Placed, Quiesced, Shutdown, Used,
};
pub use virtqueue::{GetError, GetFuture, KickError, Stats, Virtqueue};
