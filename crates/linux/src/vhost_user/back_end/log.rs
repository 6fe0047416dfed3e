//! The dirty log (`LOG_SHMFD`): which pages of its memory the front-end has to copy again, because the device wrote
//! to them.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, PoisonError};

use virtio_kit::device::{Chain, Segment};

use super::event::Event;
use super::memory::Regions;
use crate::mapping::Mapping;

const PAGE_SHIFT: u32 = 12;

/// What all queues of a connection know of the log.
#[derive(Default)]
pub(super) struct Log {
    /// Changes with everything below, so that queues look only if something changed.
    generation: AtomicU32,
    now: Mutex<Now>,
}

#[derive(Clone, Default)]
struct Now {
    /// The log, while it is to be written.
    map: Option<Mapping>,
    event: Option<Arc<Event>>,
    /// Where memory is mapped here, for what guest addresses.
    regions: Regions,
}

impl Log {
    /// Changes something. What queues do at this moment may still go by what was before.
    pub(super) fn set(&self, map: Option<Mapping>, event: Option<Arc<Event>>, regions: &Regions) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Now { map, event, regions: regions.clone() };
        self.generation.fetch_add(1, Release);
    }
}

/// One queue's pen.
pub(super) struct Marker {
    log: Arc<Log>,
    generation: u32,
    now: Now,
    ring: RingArea,
    marked: bool,
}

/// The parts of a ring that a device writes, in guest addresses: first byte and length.
#[derive(Clone, Copy, Default)]
pub(super) struct RingArea {
    pub(super) parts: [(u64, u64); 2],
}

impl Marker {
    pub(super) fn new(log: Arc<Log>, ring: RingArea) -> Self {
        let mut marker = Self { log, generation: 0, now: Now::default(), ring, marked: false };
        marker.look(true);
        marker
    }

    fn look(&mut self, now: bool) {
        let generation = self.log.generation.load(Acquire);
        if now || generation != self.generation {
            self.generation = generation;
            self.now = self.log.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
    }

    /// The device has written to a chain, wherever it could.
    pub(super) fn chain(&mut self, chain: &Chain) {
        self.look(false);
        let Some(map) = &self.now.map else { return };
        for segment in chain.writable() {
            if let Some(addr) = self.now.regions.guest_addr(segment) {
                mark(map, addr, segment.len() as u64);
                self.marked = true;
            }
        }
    }

    /// The device has written used entries.
    pub(super) fn ring(&mut self) {
        self.look(false);
        let Some(map) = &self.now.map else { return };
        if std::mem::take(&mut self.marked) {
            for (addr, len) in self.ring.parts {
                mark(map, addr, len);
            }
            if let Some(event) = &self.now.event {
                event.signal();
            }
        }
    }
}

/// Marks the pages of a range; what is beyond the log is not asked for.
fn mark(map: &Mapping, addr: u64, len: u64) {
    if len == 0 {
        return;
    }
    for page in addr >> PAGE_SHIFT..=addr.saturating_add(len - 1) >> PAGE_SHIFT {
        let Ok(byte) = usize::try_from(page / 8) else { return };
        if map.set_bits(byte, 1 << (page % 8)).is_none() {
            return;
        }
    }
}

impl Regions {
    /// Where the driver's addresses have a segment.
    fn guest_addr(&self, segment: &Segment) -> Option<u64> {
        self.guest_addr_of(segment.as_ptr().addr().get())
    }
}
