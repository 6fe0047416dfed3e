//! What the common way through a chain must leave to the careful one.

use crate::chained;
use crate::scene::{Extra, Scene};
use virtio_kit_ring::device::{BadChain, Queue, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
use virtio_kit_testkit::{Shape, SharedMemory};

#[test]
fn short_chains_that_run_into_what_the_device_has_latch_a_packed_queue() {
    for shape in Shape::of_layout(true).filter(|shape| shape.size >= 8) {
        for len in 2..=4 {
            let mut s = Scene::new(shape, 0, Extra::Roomy);
            // One after the other round the ring, the last over the first.
            let mut in_flight = 1;
            while in_flight + len <= usize::from(shape.size) {
                s.driver.offer(&chained(vec![s.write(8); len]));
                s.held.push(s.device.take().unwrap().unwrap());
                in_flight += len;
            }
            s.driver.offer(&chained(vec![s.write(8); len]));
            assert_eq!(s.device.take().map(|_| ()), Err(BadChain::Overrun), "{shape}, {len}");
        }
    }
}

#[test]
fn a_chain_of_more_segments_than_slots_have_space_for_latches_the_queue() {
    for shape in Shape::all().filter(|shape| shape.size >= 4) {
        for limit in 1..4u16 {
            let memory = SharedMemory::new(0x4000_0000, 64 << 10);
            let mut driver = ForeignDriver::new(shape, memory.clone());
            let regions = Memory::new([Region::new(memory.start(), memory).unwrap()]).unwrap();
            let storage = Storage::boxed(shape.size, limit);
            let mut device = Queue::new(shape.config(), driver.ring(), regions, None, storage).unwrap();
            let buffer = Raw::new(driver.after_ring(), 8, 2);
            driver.offer(&chained(vec![buffer; usize::from(limit)]));
            let fits = device.take().unwrap().unwrap();
            assert_eq!(fits.writable().len(), usize::from(limit));
            device.complete(fits).unwrap();
            device.publish();
            if shape.size < 2 * limit + 1 {
                continue;
            }
            driver.offer(&chained(vec![buffer; usize::from(limit) + 1]));
            assert_eq!(device.take().map(|_| ()), Err(BadChain::TooLong), "{shape}, limit {limit}");
        }
    }
}

#[test]
fn nothing_is_shown_of_what_is_completed_after_a_queue_has_stopped() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        let mut s = Scene::new(shape, 2, Extra::Nothing);
        s.driver.offer(&[s.write(8)]);
        s.held.push(s.device.take().unwrap().unwrap());
        s.device.publish();
        let (position, in_flight) = s.device.stop();
        assert_eq!(in_flight, 2);
        for mut chain in s.held.drain(..) {
            chain.write(&[1; 8]).unwrap();
            s.device.complete(chain).unwrap();
        }
        s.device.publish();
        assert_eq!(s.device.in_flight(), 0);
        assert_eq!(s.device.position(), position, "{shape}: the ring stands where it stopped");
        assert_eq!(s.driver.take_used(1), None, "{shape}");
    }
}
