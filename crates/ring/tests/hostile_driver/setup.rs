//! What a queue is made with may come from the driver too, or from a file: it passes the same checks.

use crate::scene::{Extra, Scene};
use virtio_kit_ring::device::{Config, NewError, Position, Queue, RingAddrs, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::ForeignDriver;
use virtio_kit_testkit::{Shape, SharedMemory};

fn make(
    shape: Shape,
    config: Config,
    ring: impl FnOnce(RingAddrs, u64) -> RingAddrs,
) -> Result<Queue, NewError> {
    let memory = SharedMemory::new(0x4000_0000, 128 << 10);
    let driver = ForeignDriver::new(shape, memory.clone());
    let ring = ring(driver.ring(), memory.end());
    let regions = Memory::new([Region::new(memory.start(), memory).unwrap()]).unwrap();
    Queue::new(config, ring, regions, None, Storage::boxed(shape.size, 4))
}

#[test]
fn ring_areas_outside_memory_or_misaligned_are_refused() {
    for shape in Shape::all() {
        type Place = fn(RingAddrs, u64) -> RingAddrs;
        let places: [Place; 8] = [
            |r, end| RingAddrs { desc: end, ..r },
            |r, _| RingAddrs { desc: r.desc - 16, ..r },
            |r, _| RingAddrs { desc: u64::MAX - 15, ..r },
            |r, end| RingAddrs { driver: end - 2, ..r },
            |r, end| RingAddrs { device: end - 2, ..r },
            |r, _| RingAddrs { desc: r.desc + 8, ..r },
            |r, _| RingAddrs { driver: r.driver + 1, ..r },
            |r, _| RingAddrs { device: r.device + 2, ..r },
        ];
        for (i, place) in places.into_iter().enumerate() {
            let error = make(shape, shape.config(), place).unwrap_err();
            assert!(matches!(error, NewError::BadArea { .. }), "{shape}, place {i}: {error:?}");
        }
    }
}

#[test]
fn positions_that_no_queue_can_stand_at_are_refused() {
    for shape in Shape::all() {
        let n = shape.size;
        let at = |next, next_wrap, used, used_wrap| Position { next, next_wrap, used, used_wrap };
        let bad = if shape.packed {
            vec![
                at(n, true, 0, true),
                at(0, true, n, true),
                at(n - 1, true, 0, false),
                at(0xffff, true, 0xffff, true),
            ]
        } else {
            vec![
                at(n + 1, false, 0, false),
                at(0, false, 1, false),
                at(5, false, 5u16.wrapping_sub(n + 1), false),
            ]
        };
        for position in bad {
            if shape.packed && n == 1 && position.next == 0 && position.used == 0 {
                continue;
            }
            let config = Config { position, ..shape.config() };
            assert_eq!(
                make(shape, config, |r, _| r).unwrap_err(),
                NewError::BadPosition,
                "{shape} {position:?}"
            );
        }
    }
}

#[test]
fn sizes_that_no_ring_has_are_refused() {
    for (packed, size) in [(false, 0), (false, 3), (false, 0x8001), (true, 0), (true, 0x8001)] {
        let shape = Shape { packed, in_order: false, event_idx: false, indirect: false, size: 8 };
        let config = Config { size, ..shape.config() };
        assert_eq!(make(shape, config, |r, _| r).unwrap_err(), NewError::BadSize(size));
    }
}

#[test]
fn a_chain_of_another_queue_comes_back_from_complete() {
    for shape in Shape::all() {
        let mut ours = Scene::new(shape, 1, Extra::Nothing);
        let mut theirs = Scene::new(shape, 1, Extra::Nothing);
        theirs.driver.offer(&[theirs.write(8)]);
        let chain = theirs.device.take().unwrap().unwrap();
        let chain = ours.device.complete(chain).unwrap_err();
        assert_eq!(usize::from(ours.device.in_flight()), ours.held.len());
        theirs.device.complete(chain).unwrap();
    }
}
