//! Entropy, waited for.

use super::{Error, Rng};
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;
use virtio_kit::clock::Clock;

/// An entropy device whose user waits for the bytes, for a bounded time.
pub struct BlockingRng {
    rng: Rng,
    clock: Arc<dyn Clock>,
    limit: Duration,
}

impl BlockingRng {
    /// Waits up to `limit`, on this clock, for what any one call asks for.
    pub fn new(rng: Rng, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self { rng, clock, limit }
    }

    /// Fills `to`. On an error some of it may be filled, and none of it may be used as if it were.
    pub fn fill(&mut self, to: &mut [u8]) -> Result<(), Error> {
        let deadline = self.clock.now().saturating_add(self.limit);
        let mut done = 0;
        while done < to.len() {
            match self.rng.turn(&mut to[done..])? {
                0 => {}
                got => {
                    done += got;
                    continue;
                }
            }
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Err(Error::Timeout(self.limit));
            }
            self.rng.wait(left)?;
        }
        Ok(())
    }

    /// The device without the waiting.
    pub fn get_mut(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The device without the waiting, for good.
    pub fn into_inner(self) -> Rng {
        self.rng
    }
}

impl fmt::Debug for BlockingRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingRng")
            .field("rng", &self.rng)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "rand_core")]
impl rand_core::TryRng for BlockingRng {
    type Error = Error;

    fn try_next_u32(&mut self) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Error> {
        self.fill(to)
    }
}
