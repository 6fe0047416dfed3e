//! A block device (5.2).
//!
//! [`Blk`] is the device; what it stores its data in is a [`Backend`], which opens one [`Storage`] for each
//! queue. [`MemoryBackend`] and [`NullBackend`] are here; files are in `virtio-kit-linux`.

mod config;
mod memory;
mod null;
mod service;
mod storage;

pub use memory::MemoryBackend;
pub use null::NullBackend;
pub use storage::{Backend, Finished, Operation, Request, Storage, StorageError};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::Limits;
use core::task::Waker;
use service::{BlkService, Shared};
use virtio_kit::device::{self, ConfigNotice, Device, DeviceError, Queue, Serving, Worker};
use virtio_kit::spec::blk::{Config, F};
use virtio_kit::{DeviceId, Features};
use zerocopy::IntoBytes;

/// A block device over a backend.
pub struct Blk<B> {
    backend: B,
    queues: u16,
    limits: Limits,
    shared: Arc<Shared>,
    wakers: Vec<Waker>,
}

impl<B: Backend> Blk<B> {
    /// A device with `queues` request queues.
    pub fn new(backend: B, queues: u16) -> Self {
        let shared = Arc::new(Shared::new(&backend));
        Self { backend, queues: queues.max(1), limits: Limits::default(), shared, wakers: Vec::new() }
    }

    /// A handle by which the device's size can be changed while it runs.
    pub fn resizer(&self) -> Resizer {
        Resizer(self.shared.clone())
    }

    fn config(&self) -> Config {
        config::config(&self.backend, self.queues, &self.limits, &self.shared)
    }
}

/// Announces that a device's backend has another size now.
#[derive(Clone)]
pub struct Resizer(Arc<Shared>);

impl Resizer {
    /// The backend has `len` bytes from now on. The driver is told.
    pub fn resized(&self, len: u64) {
        self.0.resize(len);
    }
}

impl<B: Backend> Device for Blk<B> {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn features(&self) -> Features {
        let mut features = F::SEG_MAX | F::SIZE_MAX | F::BLK_SIZE | F::TOPOLOGY | F::FLUSH | F::CONFIG_WCE;
        if self.queues > 1 {
            features |= F::MQ;
        }
        if self.backend.read_only() {
            features |= F::RO;
        } else {
            features |= F::WRITE_ZEROES;
            if self.backend.can_discard() {
                features |= F::DISCARD;
            }
            if self.backend.can_erase() {
                features |= F::SECURE_ERASE;
            }
        }
        features
    }

    fn has_legacy(&self) -> bool {
        // Fields and headers are in the guest's byte order there, which is taken for little-endian.
        true
    }

    fn queue_count(&self) -> u16 {
        self.queues
    }

    fn max_segments(&self, _: u16) -> u16 {
        // Header and status are apart from the data.
        self.limits.seg_max as u16 + 2
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        device::read_bytes(self.config().as_bytes(), offset, to);
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) {
        // The one field that a driver may write.
        if offset == core::mem::offset_of!(Config, writeback)
            && let [writeback] = from
        {
            self.shared.choose_writeback(*writeback != 0);
        }
    }

    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        self.shared.activate(features);
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let mut storage = self.backend.open_queue()?;
        if let Some(waker) = self.wakers.get(usize::from(index)) {
            storage.attach_waker(waker);
        }
        Ok(Box::new(Serving::new(queue, BlkService::new(storage, self.shared.clone(), self.limits))))
    }

    fn reset(&mut self) {
        self.shared.reset();
    }

    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.shared.attach(notice);
    }

    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.wakers = wakers;
    }
}
