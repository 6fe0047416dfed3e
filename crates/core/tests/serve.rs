//! A queue that stops gives back to the ring what its service has not begun.

use std::collections::VecDeque;
use virtio_kit::device::{Chain, DeviceError, Memory, Queue, QueueConfig, Region};
use virtio_kit::device::{Service, Serving, Submitted, Worker};
use virtio_kit::ring::device::Storage;
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

/// Keeps chains. It works on the first `begun`, which are done when somebody waits for them.
struct Keeper {
    kept: VecDeque<Chain>,
    begun: usize,
    waited: bool,
}

impl Service for Keeper {
    fn submit(&mut self, chain: Chain) -> Submitted {
        self.kept.push_back(chain);
        Submitted::Pending
    }
    fn pending(&self) -> usize {
        self.kept.len()
    }
    fn poll(&mut self) -> Option<Chain> {
        if self.waited { self.kept.pop_front() } else { None }
    }
    fn withdraw(&mut self) -> Option<Chain> {
        if self.kept.len() > self.begun { self.kept.pop_back() } else { None }
    }
    fn wait(&mut self) -> Result<(), DeviceError> {
        self.waited = true;
        Ok(())
    }
}

#[test]
fn a_stopping_queue_puts_back_what_was_not_begun_and_completes_the_rest() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        for begun in [0, 1, 3, 5] {
            let memory = SharedMemory::new(0x4000_0000, 64 << 10);
            let mut driver = ForeignDriver::new(shape, memory.clone());
            let buffer = Raw::new(driver.after_ring(), 8, 2);
            let regions = Memory::new([Region::new(memory.start(), memory).unwrap()]).unwrap();
            let ring = driver.ring();
            let queue = |config: QueueConfig| {
                let storage = Storage::boxed(shape.size, 4);
                Queue::new(config, ring, regions.clone(), None, storage).unwrap()
            };
            let keeper = Keeper { kept: VecDeque::new(), begun, waited: false };
            let ids = [(); 5].map(|()| driver.offer(&[buffer]));
            let mut worker = Box::new(Serving::new(queue(shape.config()), keeper));
            assert_eq!(worker.run().map(|run| run.pending), Ok(5), "{shape}");
            let stopped = worker.stop();
            assert_eq!(stopped.in_flight, 0, "{shape}");
            // Another queue goes on from there, with the others in their order.
            let config = QueueConfig { position: stopped.position, ..shape.config() };
            let mut second = queue(config);
            for &id in &ids[begun..] {
                let chain = second.take().unwrap().unwrap();
                assert_eq!(chain.id(), id, "{shape}");
                second.complete(chain).unwrap();
            }
            assert!(second.take().unwrap().is_none(), "{shape}");
            second.publish();
            assert_eq!(second.in_flight(), 0, "{shape}");
            // Chains that are not filled have a used entry each, in order or not.
            let used = core::iter::from_fn(|| driver.take_used(1)).map(|(id, _)| id);
            assert!(used.eq(ids.map(u32::from)), "{shape}");
        }
    }
}
