//! A bus back-end of MMIO devices.

use super::{ConfigWatch, Host, MmioTransport, Place};
use crate::bus::{Backend, Event};
use crate::driver::Found;
use crate::transport::TransportError;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Offers the devices at known places to drivers. A device's key is its address.
pub struct MmioBus {
    host: Arc<dyn Host>,
    places: VecDeque<Place>,
    devices: BTreeMap<u64, ConfigWatch>,
    gone: Vec<u64>,
    failed: Vec<(Place, TransportError)>,
}

impl MmioBus {
    /// A back-end for the devices at `places`, as [`discover`](super::discover) finds them.
    pub fn new(host: Arc<dyn Host>, places: impl IntoIterator<Item = Place>) -> Self {
        Self {
            host,
            places: places.into_iter().collect(),
            devices: BTreeMap::new(),
            gone: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// A place more; its device is offered at the next poll.
    pub fn add(&mut self, place: Place) {
        self.places.push_back(place);
    }

    /// The device at an address is gone, or is about to be; its driver is told at the next poll.
    pub fn remove(&mut self, start: u64) {
        self.gone.push(start);
    }

    /// Places that are neither empty nor could be opened, and why.
    pub fn failed(&self) -> &[(Place, TransportError)] {
        &self.failed
    }
}

impl Backend for MmioBus {
    fn name(&self) -> &str {
        "mmio"
    }

    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        for start in self.gone.drain(..) {
            if self.devices.remove(&start).is_some() {
                tell(Event::Removed(start));
            }
        }
        for (&start, watch) in &self.devices {
            // A device that cannot be asked has changed in a way that its driver should hear of.
            if watch.changed().unwrap_or(true) {
                tell(Event::ConfigChanged(start));
            }
        }
        while let Some(place) = self.places.pop_front() {
            match MmioTransport::open(self.host.clone(), place) {
                Ok(Some(transport)) => {
                    self.devices.insert(place.start, transport.config_watch());
                    tell(Event::Added(place.start, Found::new(alloc::boxed::Box::new(transport))));
                }
                Ok(None) => {}
                Err(error) => self.failed.push((place, error)),
            }
        }
    }
}

impl fmt::Debug for MmioBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioBus")
            .field("devices", &self.devices.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
