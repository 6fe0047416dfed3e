//! The simplest back-end.

use super::{Backend, Event};
use crate::driver::Found;
use alloc::vec::Vec;

/// A back-end with devices that are there from the start, and stay.
#[derive(Debug)]
pub struct Fixed {
    /// Those that were not told of yet.
    devices: Vec<Found>,
}

impl Fixed {
    /// Has these devices. Their keys are their places, from 0.
    pub fn new(devices: impl IntoIterator<Item = Found>) -> Self {
        Self { devices: devices.into_iter().collect() }
    }
}

impl Backend for Fixed {
    fn name(&self) -> &str {
        "fixed"
    }

    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        for (key, found) in self.devices.drain(..).enumerate() {
            tell(Event::Added(key as u64, found));
        }
    }
}
