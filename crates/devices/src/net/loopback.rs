//! A device that receives what it sends.

use super::backend::{ALL_OFFLOADS, Backend, Receive, Transmit};
use super::frame::Outgoing;
use super::inlet::Buffers;
use super::outlets::{Outlets, Place, places};
use super::steering::Steering;
use alloc::boxed::Box;
use core::task::Waker;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError};

/// A back-end that gives every frame back.
pub struct Loopback(Place);

impl Loopback {
    /// With space for so many frames on their way.
    pub fn new(buffers: Buffers) -> Self {
        Self(Place::new(places(1), 0, buffers))
    }
}

struct LoopTransmit(Outlets);

impl Backend for Loopback {
    fn takes(&self) -> Features {
        ALL_OFFLOADS
    }

    fn attach(&mut self, steering: Steering) {
        self.0.attach(steering);
    }

    fn open_transmit(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        Ok(Box::new(LoopTransmit(self.0.outlets())))
    }

    fn open_receive(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        self.0.open_receive(pair, waker)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

impl Transmit for LoopTransmit {
    fn submit(&mut self, frame: Outgoing) -> Option<Chain> {
        self.0.deliver(0, &frame);
        Some(frame.into_chain())
    }

    fn commit(&mut self) -> Result<(), DeviceError> {
        self.0.flush();
        Ok(())
    }
}
