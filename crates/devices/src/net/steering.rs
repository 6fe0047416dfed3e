//! Which receive queue a frame goes to (5.1.9.5.5, 5.1.9.5.7).

use super::frame::Hash;
use super::hash;
use super::settings::{Settings, Spread};
use super::shared::Shared;
use super::watched::Seen;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering};

/// Flows that are told apart.
const FLOWS: usize = 1024;

/// A device's wish how frames be spread over its receive queues.
#[derive(Clone)]
pub struct Steering(pub(super) Arc<Shared>);

/// The wish, as somebody who delivers frames follows it.
pub struct Steerer {
    shared: Arc<Shared>,
    settings: Seen<Settings>,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The receive queue, counted from 0.
    pub pair: u16,
    /// The frame's hash, if the driver wants one and the frame has one.
    pub hash: Option<Hash>,
}

impl Steering {
    /// Most pairs of queues.
    pub fn pairs(&self) -> u16 {
        self.0.pairs()
    }

    /// Follows the driver's settings.
    pub fn follow(&self) -> Steerer {
        Steerer { shared: self.0.clone(), settings: self.0.settings.see() }
    }
}

impl Steerer {
    /// How many pairs of queues the driver uses, the first ones.
    #[inline]
    pub fn pairs(&mut self) -> u16 {
        self.settings.refresh(&self.shared.settings);
        self.settings.spread.pairs
    }

    /// Where a frame goes now.
    #[inline]
    pub fn choose(&mut self, frame: &[u8]) -> Choice {
        self.settings.refresh(&self.shared.settings);
        let spread = &self.settings.spread;
        if spread.is_plain() {
            return Choice { pair: 0, hash: None };
        }
        choose(spread, &self.shared.flows, frame)
    }
}

fn choose(spread: &Spread, flows: &Flows, frame: &[u8]) -> Choice {
    let hash = spread.hashing.as_ref().and_then(|hashing| hashing.hash(frame));
    let pair = match &spread.table {
        Some(table) => match hash {
            Some(hash) => table.entries[hash.value as usize & (table.entries.len() - 1)],
            None => table.unclassified,
        },
        None if spread.pairs > 1 => flows.of(frame).filter(|&pair| pair < spread.pairs).unwrap_or(0),
        None => 0,
    };
    Choice { pair, hash }
}

/// The pair on which each flow was sent last. Flows that fall together share a place.
pub(super) struct Flows(Box<[AtomicU16; FLOWS]>);

impl Flows {
    pub(super) fn new() -> Self {
        Self(Box::new([const { AtomicU16::new(0) }; FLOWS]))
    }

    fn place(&self, frame: &[u8]) -> Option<&AtomicU16> {
        hash::flow(frame).map(|flow| &self.0[flow as usize % FLOWS])
    }

    fn of(&self, frame: &[u8]) -> Option<u16> {
        Some(self.place(frame)?.load(Ordering::Relaxed))
    }

    /// A frame, of which the first bytes will do, is sent on a pair.
    pub(super) fn sent(&self, frame: &[u8], pair: u16) {
        if let Some(place) = self.place(frame)
            && place.load(Ordering::Relaxed) != pair
        {
            place.store(pair, Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&self) {
        self.0.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }
}
