//! The ways from one device in the program to others.

use super::frame::Outgoing;
use super::inlet::{Buffers, Inlet};
use super::steering::{Steerer, Steering};
use super::watched::{Seen, Watched};
use super::{MAX_PAIRS, Receive};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Waker;
use virtio_kit::device::DeviceError;

/// The places that devices are attached to, and their receiving ends.
pub(super) type Places = Watched<Vec<Option<Arc<Inlet>>>>;

/// Nobody is attached to any of `count` places.
pub(super) fn places(count: usize) -> Arc<Places> {
    Arc::new(Watched::new(vec![None; count]))
}

/// A device's place among others.
pub(super) struct Place {
    places: Arc<Places>,
    index: usize,
    buffers: Buffers,
    inlet: Option<Arc<Inlet>>,
}

impl Place {
    pub(super) fn new(places: Arc<Places>, index: usize, buffers: Buffers) -> Self {
        Self { places, index, buffers, inlet: None }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn put(&self, inlet: Option<Arc<Inlet>>) {
        self.places.change(|places| {
            let mut places = places.clone();
            if let Some(place) = places.get_mut(self.index) {
                *place = inlet;
            }
            (places, ())
        });
    }

    pub(super) fn attach(&mut self, steering: Steering) {
        let inlet = Inlet::new(steering, self.buffers);
        self.inlet = Some(inlet.clone());
        self.put(Some(inlet));
    }

    pub(super) fn open_receive(&self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        let receive = self.inlet.as_ref().and_then(|inlet| inlet.open(pair, waker));
        Ok(Box::new(receive.ok_or(DeviceError::Backend("no device is attached here"))?))
    }

    pub(super) fn outlets(&self) -> Outlets {
        Outlets::new(self.places.clone())
    }

    pub(super) fn reset(&self) {
        if let Some(inlet) = &self.inlet {
            inlet.clear();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.put(None);
    }
}

/// The ways of one transmit queue to all places.
pub(super) struct Outlets {
    places: Arc<Places>,
    seen: Seen<Vec<Option<Arc<Inlet>>>>,
    outlets: Vec<Option<Outlet>>,
    /// Places that were delivered to since the last flush.
    touched: Vec<usize>,
}

struct Outlet {
    inlet: Arc<Inlet>,
    steerer: Steerer,
    /// Lanes of these, a bit each.
    touched: [u64; MAX_PAIRS as usize / 64],
}

impl Outlets {
    fn new(places: Arc<Places>) -> Self {
        let seen = places.see();
        let mut outlets = Self { places, seen, outlets: Vec::new(), touched: Vec::new() };
        outlets.build();
        outlets
    }

    fn build(&mut self) {
        let outlet = |inlet: &Arc<Inlet>| Outlet {
            inlet: inlet.clone(),
            steerer: inlet.steerer(),
            touched: Default::default(),
        };
        self.outlets.clear();
        self.outlets.extend(self.seen.iter().map(|inlet| inlet.as_ref().map(outlet)));
        self.touched.reserve(self.outlets.len());
    }

    /// Looks whether devices came or went; how many places there are.
    pub(super) fn refresh(&mut self) -> usize {
        if self.seen.refresh(&self.places) {
            self.flush();
            self.build();
        }
        self.outlets.len()
    }

    /// Delivers a frame to a place. Whether somebody is there, who may have lost it.
    pub(super) fn deliver(&mut self, place: usize, frame: &Outgoing) -> bool {
        let Some(Some(outlet)) = self.outlets.get_mut(place) else { return false };
        if let Some(lane) = outlet.inlet.deliver(frame, &mut outlet.steerer) {
            if outlet.touched == [0; _] {
                self.touched.push(place);
            }
            outlet.touched[lane / 64] |= 1 << (lane % 64);
        }
        true
    }

    /// Wakes whoever was delivered to since the last time.
    pub(super) fn flush(&mut self) {
        while let Some(place) = self.touched.pop() {
            let Some(Some(outlet)) = self.outlets.get_mut(place) else { continue };
            for (word, touched) in outlet.touched.iter_mut().enumerate() {
                let mut bits = core::mem::take(touched);
                while bits != 0 {
                    outlet.inlet.wake(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
        }
    }
}
