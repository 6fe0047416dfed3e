//! From a target to a running device by way of the bus: a back-end that finds it is installed, the driver is
//! registered, and the bus brings the two together.

use crate::failure::{Failure, Result};
use crate::target::{Host, Target};
use std::sync::{Arc, mpsc};
use virtio_kit::DeviceId;
use virtio_kit::bus::{Bus, DeviceState, Driver, Fixed};
use virtio_kit::driver::Found;

/// A device that the bus gave to its driver. Dropped, it is removed from the driver.
pub(super) struct Taken<D> {
    /// First, so that the device has let go of what is in flight when its queues are dropped.
    _bus: Bus,
    pub(super) device: D,
    host: Host,
}

impl<D> Taken<D> {
    /// What runs the device.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }
}

/// Opens a target, with `memory` bytes that the device can reach, and has a driver take it. `driver` makes one
/// that hands over what it takes by what it is given.
pub(super) fn take<D: Send + 'static>(
    target: &Target,
    id: DeviceId,
    memory: usize,
    driver: impl FnOnce(Box<dyn Fn(D) + Send + Sync>) -> Arc<dyn Driver>,
) -> Result<Taken<D>> {
    let opened = target.open(id, memory)?;
    let mut bus = Bus::new();
    bus.install_backend(Box::new(Fixed::new([Found::new(opened.transport)])));
    let (give, get) = mpsc::channel();
    let driver = driver(Box::new(move |device| {
        // If nobody waits for it any more, the device is removed again at once.
        let _ = give.send(device);
    }));
    bus.register_driver(driver).map_err(Failure::new)?;
    if let Ok(device) = get.try_recv() {
        return Ok(Taken { _bus: bus, device, host: opened.host });
    }
    Err(match bus.devices().next() {
        Some((_, _, DeviceState::Failed(error))) => Failure::new(format_args!("{target}: {error}")),
        _ => Failure::new(format_args!("{target}: no driver took the device")),
    })
}
