//! An entropy device (5.4).
//!
//! [`Rng`] is the device; where its bytes come from is a [`Source`]. The sources of an operating system are in
//! `virtio-kit-linux`. How much a driver gets in a time can be bounded by a [`Limit`].

mod limit;
mod service;
mod source;

pub use limit::Limit;
pub use source::{RepeatingSource, Source};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;
use limit::Allowance;
use service::{Home, RngService};
use spin::Mutex;
use virtio_kit::clock::Clock;
use virtio_kit::device::{Device, DeviceError, Queue, Serving, Worker, read_bytes};
use virtio_kit::{DeviceId, Features};

/// An entropy device over a source.
pub struct Rng<S> {
    /// The source, while no queue runs: it goes with the queue and comes back.
    source: Home<S>,
    limit: Option<(Limit, Arc<dyn Clock>)>,
    waker: Waker,
}

impl<S: Source + 'static> Rng<S> {
    /// A device that gives what `source` gives.
    pub fn new(source: S) -> Self {
        Self { source: Arc::new(Mutex::new(Some(source))), limit: None, waker: Waker::noop().clone() }
    }

    /// The same, giving no more than a limit allows.
    pub fn limited(source: S, limit: Limit, clock: Arc<dyn Clock>) -> Self {
        Self { limit: Some((limit, clock)), ..Self::new(source) }
    }
}

impl<S: Source + 'static> Device for Rng<S> {
    fn id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }

    fn features(&self) -> Features {
        Features::EMPTY
    }

    fn queue_count(&self) -> u16 {
        1
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        read_bytes(&[], offset, to);
    }

    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }

    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let source = self.source.lock().take().ok_or(DeviceError::Setup("the queue runs already"))?;
        let allowance = self.limit.as_ref().map(|(limit, clock)| Allowance::new(*limit, clock.clone()));
        Ok(Box::new(Serving::new(
            queue,
            RngService::new(source, self.source.clone(), allowance, self.waker.clone()),
        )))
    }

    fn reset(&mut self) {}

    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.waker = wakers.into_iter().next().unwrap_or(Waker::noop().clone());
    }
}
