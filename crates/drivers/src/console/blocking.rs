//! Ports that wait.

use super::{PortError, PortReader, PortWriter};
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit::clock::Clock;

/// How long to wait for a queue before looking whether the port is still open: that is told by another queue.
const SLICE: Duration = Duration::from_millis(50);

/// A port, or one direction of it, whose calls wait for a bounded time.
pub struct Blocking<P> {
    port: P,
    clock: Arc<dyn Clock>,
    limit: Duration,
}

impl<P> Blocking<P> {
    /// Waits up to `limit`, on this clock, in each call.
    pub fn new(port: P, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self { port, clock, limit }
    }

    /// The port.
    pub fn get_ref(&self) -> &P {
        &self.port
    }

    /// The port, to be used without waiting.
    pub fn get_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// The port, without the waiting.
    pub fn into_inner(self) -> P {
        self.port
    }

    fn wait<R>(
        &mut self,
        mut step: impl FnMut(&mut P) -> Result<Option<R>, PortError>,
        mut sleep: impl FnMut(&mut P, Duration) -> Result<bool, PortError>,
    ) -> Result<R, PortError> {
        let deadline = self.clock.now().saturating_add(self.limit);
        loop {
            if let Some(result) = step(&mut self.port)? {
                return Ok(result);
            }
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Err(PortError::Timeout(self.limit));
            }
            sleep(&mut self.port, left.min(SLICE))?;
        }
    }
}

impl<P: AsMut<PortReader>> Blocking<P> {
    /// Waits for bytes and copies them to the start of `to`: how many, at least one unless `to` is empty.
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize, PortError> {
        self.wait(|port| port.as_mut().read(to), |port, limit| port.as_mut().wait(limit))
    }
}

impl<P: AsMut<PortWriter>> Blocking<P> {
    /// Waits for room and sends the start of `from`: how many bytes, at least one unless `from` is empty.
    pub fn write(&mut self, from: &[u8]) -> Result<usize, PortError> {
        self.wait(|port| port.as_mut().write(from), |port, limit| port.as_mut().wait(limit))
    }

    /// Waits until the device has taken all that was sent.
    pub fn flush(&mut self) -> Result<(), PortError> {
        self.wait(
            |port| Ok(port.as_mut().is_flushed()?.then_some(())),
            |port, limit| port.as_mut().wait(limit),
        )
    }
}

impl<P: fmt::Debug> fmt::Debug for Blocking<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("port", &self.port)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
