//! A bus back-end of MMIO devices.

use super::{ConfigWatch, Host, MmioTransport, Place};
use crate::bus::{Backend, Event};
use crate::driver::Found;
use crate::transport::TransportError;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use spin::Mutex;

/// Offers the devices at known places to drivers. A device's key is its address.
pub struct MmioBus {
    host: Arc<dyn Host>,
    plug: Plug,
    devices: BTreeMap<u64, ConfigWatch>,
    failed: Vec<(Place, TransportError)>,
}

/// Tells an [`MmioBus`], wherever it is installed, of places that come and go.
#[derive(Clone, Debug, Default)]
pub struct Plug(Arc<Mutex<VecDeque<News>>>);

#[derive(Debug)]
enum News {
    Place(Place),
    Gone(u64),
}

impl Plug {
    /// A place more; its device is offered at the next poll.
    pub fn add(&self, place: Place) {
        self.0.lock().push_back(News::Place(place));
    }

    /// The device at an address is gone, or is about to be; its driver is told at the next poll.
    pub fn remove(&self, start: u64) {
        self.0.lock().push_back(News::Gone(start));
    }
}

impl MmioBus {
    /// A back-end for the devices at `places`, as [`discover`](super::discover) finds them.
    pub fn new(host: Arc<dyn Host>, places: impl IntoIterator<Item = Place>) -> Self {
        let plug = Plug::default();
        places.into_iter().for_each(|place| plug.add(place));
        Self { host, plug, devices: BTreeMap::new(), failed: Vec::new() }
    }

    /// By which places can be added and removed later.
    pub fn plug(&self) -> Plug {
        self.plug.clone()
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
        for (&start, watch) in &self.devices {
            // A device that cannot be asked has changed in a way that its driver should hear of.
            if watch.changed().unwrap_or(true) {
                tell(Event::ConfigChanged(start));
            }
        }
        let news = core::mem::take(&mut *self.plug.0.lock());
        for news in news {
            match news {
                News::Place(place) => self.look(place, tell),
                News::Gone(start) => {
                    if self.devices.remove(&start).is_some() {
                        tell(Event::Removed(start));
                    }
                }
            }
        }
    }
}

impl MmioBus {
    fn look(&mut self, place: Place, tell: &mut dyn FnMut(Event)) {
        match MmioTransport::open(self.host.clone(), place) {
            Ok(Some(transport)) => {
                self.devices.insert(place.start, transport.config_watch());
                tell(Event::Added(place.start, Found::new(Box::new(transport))));
            }
            Ok(None) => {}
            Err(error) => self.failed.push((place, error)),
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
