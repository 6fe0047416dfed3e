//! A device that is persistent memory (5.19), as `docs/new-device.md` explains it.

use crate::driver::{Config, FLUSH};
use std::sync::Arc;
use virtio_kit::device::{
    Chain, Device, DeviceError, Queue, Service, Serving, Submitted, Worker, read_bytes,
};
use virtio_kit::{DeviceId, Features};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Step 1: what the device is made of. `flush` makes what was written durable, or fails.
pub(crate) struct Pmem {
    config: Config,
    flush: Flush,
}

type Flush = Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>;

impl Pmem {
    pub(crate) fn new(
        start: u64,
        size: u64,
        flush: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { config: Config { start: start.into(), size: size.into() }, flush: Arc::new(flush) }
    }
}

/// Step 2: what the device says of itself, and what serves its queues. Status, negotiation and set-up of queues are
/// done by `virtio_kit::device::Machine`, whatever the transport.
impl Device for Pmem {
    fn id(&self) -> DeviceId {
        DeviceId::PMEM
    }

    fn features(&self) -> Features {
        Features::EMPTY
    }

    fn queue_count(&self) -> u16 {
        1
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        read_bytes(self.config.as_bytes(), offset, to);
    }

    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }

    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, Flushes { flush: self.flush.clone() })))
    }

    fn reset(&mut self) {}
}

/// The queue.
struct Flushes {
    flush: Flush,
}

/// Step 3: requests. Each is a chain; it goes back with what was written to it.
impl Service for Flushes {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        // The driver may have written anything, and left room for nothing.
        let done = match chain.read_value::<U32>() {
            Ok(FLUSH) => (self.flush)().is_ok(),
            _ => false,
        };
        let answer = U32::new(u32::from(!done));
        let _ = chain.write(answer.as_bytes());
        Submitted::Done(chain)
    }
}
