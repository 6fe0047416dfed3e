//! What the program does with a device while a driver uses it.

use super::counters::Counters;
use super::shared::Shared;
use alloc::sync::Arc;
use virtio_kit::spec::net::Duplex;

/// A network device as the program that serves it sees it.
#[derive(Clone)]
pub struct NetHandle(pub(super) Arc<Shared>);

impl NetHandle {
    /// The link goes up or down: the driver is told (5.1.4), and nothing passes while it is down.
    pub fn set_link(&self, up: bool) {
        self.0.set_link(up);
    }

    /// Asks the driver to announce its address, as after a migration (5.1.9.5.4). `false` if it did not negotiate
    /// that.
    pub fn announce(&self) -> bool {
        self.0.announce()
    }

    /// Speed in megabits per second, and duplex, from now on. The driver is told.
    pub fn set_speed(&self, megabits: u32, duplex: Duplex) {
        self.0.set_speed(megabits, duplex);
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}
