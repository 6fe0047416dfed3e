//! A device's queue with a foreign driver at the other end.

use virtio_kit_ring::device::{BadChain, Chain, Queue, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

/// Most segments of a chain, unless a scene is roomy.
pub(crate) const LIMIT: u16 = 4;
/// Where the second region is, of 2 GiB.
pub(crate) const BIG: u64 = 0x1_0000_0000;
/// Length of the second region.
pub(crate) const BIG_LEN: u32 = 1 << 31;

pub(crate) struct Scene {
    pub(crate) shape: Shape,
    pub(crate) driver: ForeignDriver,
    pub(crate) device: Queue,
    pub(crate) held: Vec<Chain>,
    /// Where buffers are.
    pub(crate) data: u64,
    /// Where tables are.
    pub(crate) table: u64,
}

/// What a scene has beyond the ordinary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    Nothing,
    /// Chains may have more segments than the ring has descriptors.
    Roomy,
    /// There is a region of 2 GiB.
    Big,
}

impl Scene {
    /// `trips` chains have been round before; in a ring of 8 or more one more is held.
    pub(crate) fn new(shape: Shape, trips: u16, extra: Extra) -> Self {
        let memory = SharedMemory::new(0x4000_0000, 256 << 10);
        let driver = ForeignDriver::new(shape, memory.clone());
        let limit = if extra == Extra::Roomy { shape.size + 8 } else { LIMIT };
        let mut regions = vec![Region::new(memory.start(), memory).unwrap()];
        if extra == Extra::Big {
            regions.push(Region::new(BIG, SharedMemory::new(BIG, BIG_LEN as usize)).unwrap());
        }
        let regions = Memory::new(regions).unwrap();
        let storage = Storage::boxed(shape.size, limit);
        let device = Queue::new(shape.config(), driver.ring(), regions, None, storage).unwrap();
        let data = driver.after_ring();
        let mut scene = Self { shape, driver, device, held: vec![], data, table: data + 0x1000 };
        for _ in 0..trips {
            let id = scene.driver.offer(&[scene.read(8)]);
            let chain = scene.device.take().unwrap().unwrap();
            scene.device.complete(chain).unwrap();
            scene.device.publish();
            assert_eq!(scene.driver.take_used(1), Some((id.into(), 0)));
        }
        if shape.size >= 8 {
            scene.driver.offer(&[scene.write(8)]);
            scene.held.push(scene.device.take().unwrap().unwrap());
        }
        scene
    }

    /// A good buffer to read.
    pub(crate) fn read(&self, len: u32) -> Raw {
        Raw::new(self.data, len, 0)
    }

    /// A good buffer to write.
    pub(crate) fn write(&self, len: u32) -> Raw {
        Raw::new(self.data, len, 2)
    }

    /// Descriptors that are free.
    pub(crate) fn room(&self) -> usize {
        usize::from(self.shape.size) - self.held.len()
    }

    /// Expects the error, and everything that must hold of a latched queue.
    pub(crate) fn latched(mut self, broken: BadChain) {
        assert_eq!(self.device.take().map(|_| ()), Err(broken), "the error");
        assert_eq!(self.device.broken(), Some(broken));
        assert_eq!(self.device.take().map(|_| ()), Err(broken), "and again");
        assert!(self.device.has_available(), "the error waits");
        assert!(!self.device.restart(), "nothing to sleep for");
        self.device.disable_notifications();
        for mut chain in self.held.drain(..) {
            chain.write(&[1; 8]).expect("inside the chain");
            self.device.complete(chain).expect("a chain of this queue");
        }
        self.device.publish();
        assert_eq!(self.device.in_flight(), 0);
        self.device.stop();
        assert_eq!(self.device.take().map(|_| ()), Err(broken), "the error stays");
        assert_eq!(self.device.broken(), Some(broken));
    }
}
