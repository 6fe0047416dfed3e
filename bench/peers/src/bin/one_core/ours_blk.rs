//! The project's block driver and block device.

use super::Bench;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use virtio_kit::device::{self, Device as _, Worker};
use virtio_kit::driver::{Found, QueueInterrupt};
use virtio_kit::ring::driver::{Evidence, Quiesced};
use virtio_kit::ring::mem::Region;
use virtio_kit::transport::{Identity, Notifier, NotifyPosition, QueueSetup, Transport, TransportError};
use virtio_kit::{Arena, DeviceId, DmaBuf, F, Features, Status, spec};
use virtio_kit_devices::blk::{Blk, NullBackend};
use virtio_kit_drivers::blk::{self, BlkDevice, BlkQueue, Completion};
use virtio_kit_peers::memory::Flat;
use virtio_kit_peers::minimal::{self, Ring, WRITE};
use zerocopy::IntoBytes;

const SECTORS: u64 = 1 << 21;

/// A transport without a device: it notes where the ring is.
struct Paper {
    arena: Arena,
    features: Features,
    status: Status,
    ring: Arc<Mutex<Ring>>,
}

struct Silence;

impl Notifier for Silence {
    fn notify(&self, _: NotifyPosition) -> Result<(), TransportError> {
        Ok(())
    }
    fn wait(&self, _: std::time::Duration) -> Result<bool, TransportError> {
        Ok(true)
    }
}

impl Transport for Paper {
    fn name(&self) -> &str {
        "paper"
    }
    fn identity(&self) -> Identity {
        Identity::of(DeviceId::BLOCK)
    }
    fn arena(&self) -> &Arena {
        &self.arena
    }
    fn allowed_features(&self) -> Features {
        self.features
    }
    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        self.status = Status::RESET;
        Ok(Quiesced::on(Evidence::NeverEnabled))
    }
    fn status(&mut self) -> Result<Status, TransportError> {
        Ok(self.status)
    }
    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        self.status = status;
        Ok(())
    }
    fn device_features(&mut self) -> Result<Features, TransportError> {
        Ok(self.features)
    }
    fn set_driver_features(&mut self, _: Features) -> Result<(), TransportError> {
        Ok(())
    }
    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        device::read_bytes(SECTORS.as_bytes(), offset, to);
        Ok(())
    }
    fn write_config(&mut self, _: usize, _: &[u8]) -> Result<(), TransportError> {
        Ok(())
    }
    fn max_queue_size(&mut self, _: u16) -> Result<u16, TransportError> {
        Ok(256)
    }
    fn enable_queue(
        &mut self,
        _: u16,
        setup: QueueSetup,
        _: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        let at = setup.addrs;
        *self.ring.lock().expect("no panic") =
            Ring { desc: at.desc.get(), driver: at.driver.get(), device: at.device.get() };
        Ok(Box::new(Silence))
    }
    fn reset_queue(&mut self, _: u16) -> Result<Quiesced, TransportError> {
        Ok(Quiesced::on(Evidence::NeverEnabled))
    }
}

fn features(packed: bool, in_order: bool) -> Features {
    let mut features = F::VERSION_1;
    for (feature, on) in [(F::RING_PACKED, packed), (F::IN_ORDER, in_order)] {
        if on {
            features |= feature;
        }
    }
    features
}

/// The block driver, reads of 4 KiB into owned buffers.
pub(super) struct Driver {
    queue: BlkQueue<DmaBuf, usize>,
    _device: BlkDevice,
    device: minimal::Device,
    pool: Vec<DmaBuf>,
    spare: Vec<DmaBuf>,
    next: usize,
}

impl Driver {
    pub(super) fn new(packed: bool, in_order: bool) -> Self {
        let arena = Arena::new(Flat::new(4 << 20)).expect("an arena");
        let features = features(packed, in_order);
        let ring = Arc::new(Mutex::new(Ring::default()));
        let paper = Paper { arena: arena.clone(), features, status: Status::RESET, ring: ring.clone() };
        let (mut blk, device) =
            blk::open(Found::new(Box::new(paper)), &blk::Options::default()).expect("a driver");
        let queue = blk.queues.remove(0);
        let pool = (0..32).map(|_| arena.alloc(4096).expect("a buffer")).collect();
        let ring = *ring.lock().expect("no panic");
        let other = minimal::Device::new(packed, ring, queue.size(), 3, true);
        Self { queue, _device: device, device: other, pool, spare: Vec::with_capacity(32), next: 0 }
    }
}

impl Bench for Driver {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        let Self { queue, pool, next, .. } = self;
        let mut left = n;
        let added = queue.read_batch(|| {
            left = left.checked_sub(1)?;
            *next += 1;
            Some(((*next as u64 & 63) * 8, pool.pop()?, *next))
        });
        assert!(matches!(added, Ok(added) if added == n));
        black_box(queue.kick()).expect("a device");
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the ring lives as long as the queue, whose chains are valid.
        assert_eq!(unsafe { self.device.complete_all(4097) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        let Self { queue, pool, .. } = self;
        let mut keep = |done: Completion<DmaBuf, usize>| {
            assert!(done.result.is_ok());
            black_box(done.token);
            if let Some(data) = done.data {
                pool.push(data);
            }
        };
        if n == 1 {
            keep(queue.complete().expect("not broken").expect("it is done"));
        } else {
            assert_eq!(queue.complete_batch(n, keep).expect("not broken"), n);
        }
    }

    #[inline(always)]
    fn pool(&mut self, n: usize) {
        for _ in 0..n {
            let Some(data) = self.pool.pop() else { break };
            self.spare.push(data);
        }
        std::mem::swap(&mut self.pool, &mut self.spare);
    }
}

/// The whole of the block device, with nothing behind it: what a transport calls when a queue was notified.
pub(super) struct Device {
    worker: Box<dyn Worker>,
    driver: minimal::Driver,
}

impl Device {
    pub(super) fn new(packed: bool, in_order: bool) -> Self {
        let main = Flat::new(4 << 20);
        let start = main.start();
        let (desc, driver, device) = (start, start + (1 << 20), start + (2 << 20));
        let data = start + (3 << 20);
        let memory = device::Memory::new([Region::new(start, main).expect("a region")]).expect("a region");
        let config = device::QueueConfig { in_order, ..device::QueueConfig::fresh(packed, 256) };
        let addrs = device::RingAddrs { desc, driver, device };
        let mut blk = Blk::new(NullBackend::new(SECTORS * 512), 1);
        blk.activate(features(packed, in_order)).expect("features");
        let storage = virtio_kit::ring::device::Storage::boxed(256, blk.max_segments(0));
        let queue = device::Queue::new(config, addrs, memory, None, storage).expect("a queue");
        let mut worker = blk.start_queue(0, queue).expect("a worker");
        worker.disable();
        // A request's buffers: header, data, status; in 64 places.
        let place = |c: u16, i: u16| data + u64::from(c % 64) * 8192 + [0, 4096, 64][usize::from(i)];
        for c in 0..64 {
            let header = spec::blk::RequestHeader {
                kind: spec::blk::RequestType::IN.0.into(),
                reserved: 0.into(),
                sector: (u64::from(c) * 8).into(),
            };
            // SAFETY: in the fourth mebibyte of the memory, which has room for 64 times 8192.
            unsafe {
                (place(c, 0) as *mut [u8; 16]).copy_from_nonoverlapping(header.as_bytes().as_ptr().cast(), 1)
            };
        }
        let shape = [(16, 0), (4096, WRITE), (1, WRITE)];
        // SAFETY: the ring's parts have a mebibyte each, and are never given back.
        let driver =
            unsafe { minimal::Driver::new(packed, Ring { desc, driver, device }, 256, &shape, place) };
        Self { worker, driver }
    }
}

impl Bench for Device {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        // SAFETY: the ring has room for a batch.
        unsafe { self.driver.publish(n) };
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        let run = self.worker.run().expect("a device");
        assert_eq!((run.taken, run.completed), (n, n));
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        // SAFETY: the ring lives as long as this.
        unsafe { self.driver.reap(n) };
    }
}
