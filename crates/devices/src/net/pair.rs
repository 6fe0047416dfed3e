//! Two devices back to back.

use super::backend::{ALL_OFFLOADS, Backend, Receive, Transmit};
use super::frame::Outgoing;
use super::inlet::Buffers;
use super::outlets::{Outlets, Place, places};
use super::steering::Steering;
use alloc::boxed::Box;
use core::task::Waker;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError};

/// One end of a cable: what its device sends, the device at the other end receives.
pub struct PairEnd(Place);

/// The two ends of a cable. Frames sent while nobody is at the other end are lost.
pub fn pair(buffers: Buffers) -> [PairEnd; 2] {
    let both = places(2);
    [0, 1].map(|index| PairEnd(Place::new(both.clone(), index, buffers)))
}

struct PairTransmit {
    outlets: Outlets,
    other: usize,
}

impl Backend for PairEnd {
    fn takes(&self) -> Features {
        ALL_OFFLOADS
    }

    fn attach(&mut self, steering: Steering) {
        self.0.attach(steering);
    }

    fn open_transmit(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        Ok(Box::new(PairTransmit { outlets: self.0.outlets(), other: 1 - self.0.index() }))
    }

    fn open_receive(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        self.0.open_receive(pair, waker)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

impl Transmit for PairTransmit {
    fn submit(&mut self, frame: Outgoing) -> Option<Chain> {
        self.outlets.refresh();
        self.outlets.deliver(self.other, &frame);
        Some(frame.into_chain())
    }

    fn commit(&mut self) -> Result<(), DeviceError> {
        self.outlets.flush();
        Ok(())
    }
}
