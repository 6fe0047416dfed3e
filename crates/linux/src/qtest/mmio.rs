//! The machine as a host of MMIO devices.

use std::sync::Arc;

use virtio_kit::clock::Clock;
use virtio_kit::mmio::{Host, Place};
use virtio_kit::registers::Registers;
use virtio_kit::transport::TransportError;
use virtio_kit_ring::Arena;

use super::Machine;
use super::registers::Mapped;
use crate::clock::MonotonicClock;

impl Host for Machine {
    fn map(&self, start: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        Ok(Arc::new(Mapped { link: self.link().clone(), start, len }))
    }

    fn arena(&self, _: &Place) -> Arena {
        Self::arena(self).clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(MonotonicClock)
    }
}
