//! Virtio over MMIO: where the devices are, and how they are reached.

use super::clock::TscClock;
use super::lines::Controllers;
use super::registers::Mapped;
use crate::x86::acpi::Tables;
use alloc::sync::Arc;
use alloc::vec::Vec;
use virtio_kit::Arena;
use virtio_kit::clock::Clock;
use virtio_kit::interrupts::InterruptLine;
use virtio_kit::mmio::{Host, Place, discover};
use virtio_kit::registers::Registers;
use virtio_kit::transport::TransportError;

/// Every place that the command line or ACPI names.
pub fn places(command_line: &str, tables: &Tables) -> Vec<Place> {
    let mut places: Vec<_> = discover::command_line::places(command_line).flatten().collect();
    places.extend(tables.definitions().flat_map(discover::acpi::places));
    places
}

/// The machine as drivers of MMIO devices see it.
pub struct Mmio {
    places: Vec<Place>,
    controllers: Arc<Controllers>,
    arena: Arena,
}

impl Mmio {
    /// # Safety
    ///
    /// There must be a virtio device's registers, or an empty slot for them, at each of the places.
    pub unsafe fn new(places: Vec<Place>, controllers: Arc<Controllers>, arena: Arena) -> Arc<Self> {
        Arc::new(Self { places, controllers, arena })
    }
}

impl Host for Mmio {
    fn map(&self, start: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        let end = start.checked_add(len);
        let inside = |p: &&Place| p.start <= start && end.is_some_and(|end| end <= p.start + p.len);
        self.places.iter().find(inside).ok_or(TransportError::Unsupported("memory that is no device's"))?;
        // SAFETY: a device's, by the contract of `new`.
        Ok(Arc::new(unsafe { Mapped::new(start, len) }))
    }

    fn arena(&self, _: &Place) -> Arena {
        self.arena.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TscClock)
    }

    fn line(&self, place: &Place) -> Option<Arc<dyn InterruptLine>> {
        Some(Arc::new(self.controllers.line(place.interrupt)?))
    }
}
