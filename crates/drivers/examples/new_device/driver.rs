//! A driver for persistent memory (5.19), as `docs/new-device.md` explains it.

use std::fmt;
use std::ops::Range;
use std::time::Duration;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::driver::Virtqueue;
use virtio_kit::driver::{Device, Found, VqOptions};
use virtio_kit::ring::Chain;
use virtio_kit::transport::TransportError;
use virtio_kit::{DeviceId, DmaBuf, Features};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Step 1: what the document says is in the configuration (5.19.4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Config {
    pub(crate) start: U64,
    pub(crate) size: U64,
}

/// The one request: make what was written durable (5.19.6).
pub(crate) const FLUSH: U32 = U32::new(0);
/// An answer that no device gives, put there before.
const NO_ANSWER: U32 = U32::new(u32::MAX);

/// Step 2: what users have. A request is a buffer that the device reads and one that it writes.
pub(crate) struct Pmem {
    queue: Virtqueue<Chain<DmaBuf, DmaBuf>, ()>,
    /// The buffers, while no request is in flight.
    idle: Option<(DmaBuf, DmaBuf)>,
    range: Range<u64>,
}

/// Why a flush failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushError {
    /// The device says so: what was written last may be lost.
    Device,
    /// The device broke the rules, or is gone.
    Gone,
    /// No answer in this time. Ask again to wait on.
    Timeout(Duration),
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("the device could not make all of it durable"),
            Self::Gone => f.write_str("the device is gone"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}: ask again to wait on"),
        }
    }
}

impl std::error::Error for FlushError {}

/// Step 3: from a device that was found to one that runs.
pub(crate) fn open(found: Found) -> Result<(Pmem, PmemDevice), ProbeError> {
    let mut setup = found.negotiate(Features::EMPTY)?;
    let config: Config = setup.read_config()?;
    let (start, size) = (config.start.get(), config.size.get());
    // What the device says is a stranger's word.
    let end = start.checked_add(size).ok_or(ProbeError::BadConfig("the range ends beyond 2^64"))?;
    let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
    let idle = Some((arena.alloc(size_of::<U32>())?, arena.alloc(size_of::<U32>())?));
    let queue = setup.new_vq(0, VqOptions::default())?;
    let device = setup.start()?;
    Ok((Pmem { queue, idle, range: start..end }, PmemDevice(device)))
}

/// Step 4: requests.
impl Pmem {
    /// Where the memory is.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Makes what was written durable, within `limit`.
    pub(crate) fn flush(&mut self, limit: Duration) -> Result<(), FlushError> {
        // After a time-out the buffers are still the device's, and its late answer will do.
        if let Some((mut request, mut answer)) = self.idle.take() {
            // They were allocated with these lengths.
            let _ = request.write_value(0, &FLUSH).and_then(|()| answer.write_value(0, &NO_ANSWER));
            self.queue.add_buf(Chain::new(request, answer), ()).map_err(|_| FlushError::Gone)?;
            self.queue.kick().map_err(|_| FlushError::Gone)?;
        }
        if !self.queue.wait(limit).map_err(|_| FlushError::Gone)? {
            return Err(FlushError::Timeout(limit));
        }
        let used = self.queue.get_buf().map_err(|_| FlushError::Gone)?.ok_or(FlushError::Gone)?;
        let answer = used.chain.writable.read_value::<U32>(0);
        self.idle = Some((used.chain.readable, used.chain.writable));
        if answer == Ok(U32::ZERO) { Ok(()) } else { Err(FlushError::Device) }
    }
}

/// Step 5: what keeps the device running, and what the bus does with it.
#[derive(Debug)]
pub(crate) struct PmemDevice(Device);

impl Bound for PmemDevice {
    fn config_changed(&mut self) {}

    fn remove(self: Box<Self>) -> Option<Found> {
        self.0.reset().ok()
    }
}

/// Step 6: the driver. The bus offers it every device of its type, over whatever mechanism.
pub(crate) struct PmemDriver<A>(pub(crate) A);

impl<A: Fn(Pmem) + Send + Sync> Driver for PmemDriver<A> {
    fn name(&self) -> &str {
        "virtio-pmem"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::PMEM)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (pmem, device) = open(found)?;
        (self.0)(pmem);
        Ok(Box::new(device))
    }
}
