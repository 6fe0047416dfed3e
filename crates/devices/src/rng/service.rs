//! What the device does with a buffer (5.4.6).

use super::limit::Allowance;
use super::source::Source;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use core::task::Waker;
use spin::Mutex;
use virtio_kit::device::{Chain, DeviceError, Service, Submitted};

/// Where a source is kept while no queue runs.
pub(super) type Home<S> = Arc<Mutex<Option<S>>>;

/// Most bytes that one buffer gets. A driver that wants more asks again, and cannot keep the device busy with
/// one buffer for long.
const MOST: usize = 64 << 10;

/// Most bytes asked of the source at a time.
const PIECE: usize = 4096;

/// Buffers that may wait for entropy at once; the others wait in the ring.
const WAITING: usize = 16;

/// The queue.
pub(super) struct RngService<S: Source> {
    /// `None` only while it is dropped.
    source: Option<S>,
    home: Home<S>,
    allowance: Option<Allowance>,
    /// Buffers in the order in which they came. Their bytes are written so far as they have come.
    waiting: VecDeque<Chain>,
    scratch: Box<[u8]>,
    waker: Waker,
    /// The source has nothing, and wakes.
    asleep: bool,
    failed: Option<DeviceError>,
}

impl<S: Source> RngService<S> {
    pub(super) fn new(source: S, home: Home<S>, allowance: Option<Allowance>, waker: Waker) -> Self {
        Self {
            source: Some(source),
            home,
            allowance,
            waiting: VecDeque::with_capacity(WAITING),
            scratch: vec![0; PIECE].into(),
            waker,
            asleep: false,
            failed: None,
        }
    }

    /// Writes to the first buffer what can be had now; whether it may go.
    fn fill_first(&mut self) -> Result<bool, DeviceError> {
        let (Some(source), Some(chain)) = (&mut self.source, self.waiting.front_mut()) else {
            return Ok(false);
        };
        let wanted = chain.writable_len().min(MOST);
        while chain.written() < wanted {
            let mut most = PIECE.min(wanted - chain.written());
            if let Some(allowance) = &mut self.allowance {
                most = most.min(allowance.left());
            }
            let got = if most > 0 { source.poll(&mut self.scratch[..most])?.min(most) } else { 0 };
            if got == 0 {
                self.asleep = most > 0 && chain.written() == 0 && source.wake(&self.waker);
                break;
            }
            if let Some(allowance) = &mut self.allowance {
                allowance.spend(got);
            }
            // There is room for `wanted` bytes.
            let _ = chain.write(&self.scratch[..got]);
            self.scratch[..got].fill(0);
        }
        // At least one byte in each (5.4.6.2); what has come is not held back for what may come.
        Ok(chain.written() > 0 || wanted == 0)
    }
}

impl<S: Source> Service for RngService<S> {
    fn submit(&mut self, chain: Chain) -> Submitted {
        let wanted = chain.writable_len().min(MOST);
        if wanted == 0 {
            // Nowhere to write to: a driver may not do that, and gets it back as it is.
            return Submitted::Done(chain);
        }
        if let Some(source) = &mut self.source {
            source.submit(wanted);
        }
        self.waiting.push_back(chain);
        Submitted::Pending
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn poll(&mut self) -> Option<Chain> {
        if self.failed.is_some() {
            return None;
        }
        match self.fill_first() {
            Ok(true) => self.waiting.pop_front(),
            Ok(false) => None,
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    fn begin_run(&mut self) {
        self.asleep = false;
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn waiting(&self) -> usize {
        if self.asleep { self.waiting.len() } else { 0 }
    }

    fn capacity(&self) -> usize {
        WAITING
    }

    fn withdraw(&mut self) -> Option<Chain> {
        // A buffer with anything in it goes at once, so none of those that wait has.
        self.waiting.pop_back()
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(allowance) = &mut self.allowance
            && allowance.left() == 0
        {
            allowance.wait();
            return Ok(());
        }
        self.source.as_mut().map_or(Ok(()), |source| source.wait())
    }
}

impl<S: Source> Drop for RngService<S> {
    fn drop(&mut self) {
        *self.home.lock() = self.source.take();
    }
}
