//! Registering for entropy devices.

use super::source::Rng;
use alloc::boxed::Box;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::driver::{Device, Found, VqOptions};
use virtio_kit::spec::entropy::REQUEST_QUEUE;
use virtio_kit::transport::TransportError;
use virtio_kit::{DeviceId, Features};

/// What a driver's user wants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most requests in flight; the device's queue may be shorter.
    pub requests: u16,
    /// Most bytes of a request, at least 1.
    pub bytes: usize,
    /// Ring features to leave alone although they could be used.
    pub without: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self { requests: 8, bytes: 4096, without: Features::EMPTY }
    }
}

/// The driver, to be registered on a bus. Each device that it takes goes to `attach`.
pub struct RngDriver<A> {
    options: Options,
    attach: A,
}

impl<A: Fn(Rng)> RngDriver<A> {
    /// A driver that hands its devices to `attach`.
    pub fn new(options: Options, attach: A) -> Self {
        Self { options, attach }
    }
}

/// Takes a device without a bus: what it is to its user, and what keeps it running.
pub fn open(found: Found, options: &Options) -> Result<(Rng, RngDevice), ProbeError> {
    // A legacy entropy device differs in nothing: buffers of bytes, and no configuration.
    let mut setup = found.without(options.without).or_legacy().negotiate(Features::EMPTY)?;
    let features = setup.features();
    let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
    let requests = options.requests.max(1);
    // A ring of a split queue is a power of two.
    let max_size = requests.checked_next_power_of_two().unwrap_or(1 << 15);
    let queue = setup.new_vq(REQUEST_QUEUE, VqOptions { max_size, ..VqOptions::default() })?;
    let requests = requests.min(queue.size());
    let bytes = options.bytes.max(1);
    let rng = Rng::new(queue, &arena, requests, bytes, features)?;
    Ok((rng, RngDevice { device: setup.start()? }))
}

impl<A: Fn(Rng) + Send + Sync> Driver for RngDriver<A> {
    fn name(&self) -> &str {
        "virtio-rng"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::ENTROPY)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (rng, device) = open(found, &self.options)?;
        (self.attach)(rng);
        Ok(Box::new(device))
    }
}

/// What keeps an entropy device running. Dropped, the device is reset.
#[derive(Debug)]
pub struct RngDevice {
    device: Device,
}

impl RngDevice {
    /// The device as any driver has it.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }
}

impl Bound for RngDevice {
    fn config_changed(&mut self) {
        // There is no configuration. A device that needs a reset gives nothing any more, and waiting is bounded.
    }

    fn remove(self: Box<Self>) -> Option<Found> {
        self.device.reset().ok()
    }
}
