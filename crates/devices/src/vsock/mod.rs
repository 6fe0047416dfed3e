//! A socket device (5.10).
//!
//! [`Vsock`] is the device. Each connection of its guest ends here: what the guest sends goes to a bounded buffer of
//! that connection and no further than its credit lets it, and what the guest is slow to take waits there, so that no
//! connection holds up another. What is at the other side of connections is the business of a [`Router`]: it accepts a
//! [`Request`] and has an [`End`], or hands it on to another guest. [`Listeners`] is one in memory, a [`Hub`] joins
//! guests to each other and each to a router of its own for the host, and Unix sockets are in `virtio-kit-linux`.
//!
//! A [`Handle`] asks the guest for connections, and tells it that it has moved to another machine.

mod events;
mod from_driver;
mod handle;
mod hub;
mod shared;
mod to_driver;

pub use handle::{CidError, Handle};
pub use hub::Hub;
pub use virtio_kit::vsock::{
    Address, Counters, End, Error, Kind, Kinds, Limits, ListenError, Listener, Listeners, Message, ReadEnd,
    Request, Router, WriteEnd,
};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;
use shared::Shared;
use virtio_kit::device::{self, ConfigNotice, Device, DeviceError, Queue, Serving, Worker};
use virtio_kit::spec::vsock::{Config, EVENT_QUEUE, F, RX_QUEUE, TX_QUEUE};
use virtio_kit::{DeviceId, Features};
use zerocopy::IntoBytes;

/// What a device offers: both kinds, each by its own bit.
const FEATURES: Features = F::STREAM.union(F::SEQPACKET).union(F::NO_IMPLIED_STREAM);

/// A socket device.
pub struct Vsock {
    shared: Arc<Shared>,
    /// A driver's life has begun here: its connections are known.
    begun: bool,
}

impl Vsock {
    /// The device of the guest with this context id, whose requests go to `router`. Fails if no guest may have that
    /// id.
    pub fn new(cid: u64, limits: Limits, router: Arc<dyn Router>) -> Result<Self, CidError> {
        handle::check(cid)?;
        Ok(Self { shared: Shared::new(cid, limits, router), begun: false })
    }

    /// By which the rest of the program reaches the guest.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }
}

impl Device for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::SOCKET
    }

    fn features(&self) -> Features {
        FEATURES
    }

    fn queue_count(&self) -> u16 {
        3
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        let config = Config { guest_cid: self.shared.cid().into() };
        device::read_bytes(config.as_bytes(), offset, to);
    }

    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        self.shared.link.set_kinds(Kinds::of(features));
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let shared = self.shared.clone();
        Ok(match index {
            RX_QUEUE => {
                // A queue that does not begin at its beginning was served by another device, which knew connections
                // that nobody knows here (5.10.6.7).
                if !core::mem::replace(&mut self.begun, true) && queue.position().next != 0 {
                    self.shared.announce_reset();
                }
                Box::new(Serving::new(queue, to_driver::ToDriver::new(shared)))
            }
            TX_QUEUE => Box::new(Serving::new(queue, from_driver::FromDriver::new(shared))),
            EVENT_QUEUE => Box::new(Serving::new(queue, events::Events(shared))),
            _ => return Err(DeviceError::Setup("no such queue")),
        })
    }

    fn reset(&mut self) {
        self.begun = false;
        self.shared.forget_driver();
    }

    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.shared.attach(notice);
    }

    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.shared.attach_wakers(wakers);
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.shared.forget_driver();
        self.shared.leave();
    }
}
