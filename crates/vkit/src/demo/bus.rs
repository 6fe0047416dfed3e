//! From a target to a running device by way of the bus: a back-end that finds it is installed, the driver is
//! registered, and the bus brings the two together.

use crate::blk::pump::Ticket;
use crate::blk::session::Want;
use crate::failure::{Failure, Result};
use crate::target::{Host, Target};
use std::sync::{Arc, mpsc};
use virtio_kit::DmaBuf;
use virtio_kit::bus::{Backend, Bus, DeviceState, Event};
use virtio_kit::driver::Found;
use virtio_kit_drivers::blk::{Blk, BlkDriver};

/// A device that the bus gave to the block driver. Dropped, it is removed from the driver.
pub(super) struct Taken {
    pub(super) blk: Blk<Vec<DmaBuf>, Ticket>,
    _bus: Bus,
    _host: Host,
}

/// Finds the one device of a target.
struct OneDevice {
    found: Option<Found>,
}

impl Backend for OneDevice {
    fn name(&self) -> &str {
        "target"
    }

    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        if let Some(found) = self.found.take() {
            tell(Event::Added(0, found));
        }
    }
}

/// Opens a target and has the block driver take it.
pub(super) fn take(target: &Target, want: &Want) -> Result<Taken> {
    let opened = target.open(want.memory())?;
    let mut bus = Bus::new();
    bus.install_backend(Box::new(OneDevice { found: Some(Found::new(opened.transport)) }));
    let (give, get) = mpsc::channel();
    let driver = BlkDriver::new(want.options(), move |blk| {
        // If nobody waits for it any more, the device is removed again at once.
        let _ = give.send(blk);
    });
    bus.register_driver(Arc::new(driver)).map_err(Failure::new)?;
    if let Ok(blk) = get.try_recv() {
        return Ok(Taken { blk, _bus: bus, _host: opened.host });
    }
    Err(match bus.devices().next() {
        Some((_, _, DeviceState::Failed(error))) => Failure::new(format_args!("{target}: {error}")),
        _ => Failure::new(format_args!("{target}: no driver took the device")),
    })
}
