//! One full fence for each decision to notify or to sleep, and none for anything else. Alone in its program, since the
//! count is the program's.
#![cfg(debug_assertions)]

use std::sync::atomic::Ordering::Relaxed;
use virtio_kit_ring::driver::{Evidence, Indirect, Queue, Quiesced, RingMemory, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_ring::notify::FULL_FENCES;
use virtio_kit_ring::{Arena, Chain, DmaBuf, device};
use virtio_kit_testkit::pair::device_addrs;
use virtio_kit_testkit::{Shape, SharedMemory};

/// How many fences `work` takes.
fn fences(work: impl FnOnce()) -> usize {
    let before = FULL_FENCES.load(Relaxed);
    work();
    FULL_FENCES.load(Relaxed) - before
}

#[test]
fn a_batch_takes_one_fence_to_publish_on_either_side_and_none_to_add_take_complete_or_get() {
    for shape in Shape::all().filter(|shape| shape.size >= 8) {
        let memory = SharedMemory::new(0x10_0000, 1 << 20);
        let arena = Arena::new(memory.clone()).unwrap();
        let ring = RingMemory::alloc(&arena, shape.packed, shape.size).unwrap();
        let options = shape.options(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
        let mut driver: Queue<Chain<DmaBuf, DmaBuf>, usize> =
            Queue::new(ring, Storage::boxed(shape.size), options, &arena).unwrap();
        let regions = Memory::new([Region::new(memory.start(), memory).unwrap()]).unwrap();
        let storage = device::Storage::boxed(shape.size, 4);
        let mut dev =
            device::Queue::new(shape.config(), device_addrs(&driver), regions, None, storage).unwrap();
        let mut free: Vec<_> =
            (0..4).map(|_| Chain::new(arena.alloc(8).unwrap(), arena.alloc(8).unwrap())).collect();
        for round in 0..30 {
            let n: usize = 1 + round % 4;
            let mut left: usize = n;
            let mut add = || {
                let added = driver.add_batch(|place| {
                    left = left.checked_sub(1)?;
                    Some(place.put(free.pop()?, round))
                });
                assert_eq!(added.unwrap(), n);
            };
            assert_eq!(fences(&mut add), 0, "{shape}: adding");
            assert_eq!(fences(|| _ = driver.publish()), 1, "{shape}: publishing {n}");
            assert_eq!(fences(|| _ = driver.publish()), 0, "{shape}: publishing nothing");
            let serve = || assert_eq!(dev.serve(9, Some).unwrap(), n);
            assert_eq!(fences(serve), 0, "{shape}: taking and completing");
            assert_eq!(fences(|| _ = dev.publish()), 1, "{shape}: publishing {n} used");
            assert_eq!(fences(|| _ = dev.publish()), 0, "{shape}: publishing nothing used");
            assert_eq!(fences(|| assert!(dev.restart())), 1, "{shape}: before the device sleeps");
            let get = || assert_eq!(driver.get_batch(9, |used| free.push(used.chain)).unwrap(), n);
            assert_eq!(fences(get), 0, "{shape}: getting");
            assert_eq!(fences(|| assert!(driver.restart())), 1, "{shape}: before the driver sleeps");
            assert_eq!(fences(|| driver.disable_callbacks()), 0, "{shape}: turning callbacks off");
        }
        driver.shutdown(Quiesced::on(Evidence::DeviceHalfReturned)).for_each(drop);
    }
}
