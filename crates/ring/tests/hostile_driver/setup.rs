//! What a queue is made with may come from the driver too, or from a file: it passes the same checks.

use crate::scene::{Extra, Scene};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use virtio_kit_ring::device::{BadChain, Config, NewError, Position, Queue, RingAddrs, Storage};
use virtio_kit_ring::mem::{Memory, Region, RegionMemory};
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
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

/// A mapping whose undoing is seen, and may panic.
struct Watched {
    memory: SharedMemory,
    undone: Arc<AtomicBool>,
    panics: bool,
}

// SAFETY: forwards to a type that keeps the contract.
unsafe impl RegionMemory for Watched {
    fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }
    fn len(&self) -> usize {
        RegionMemory::len(&self.memory)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.undone.store(true, SeqCst);
        assert!(!self.panics, "munmap failed");
    }
}

/// A new set of regions over `memory`, and whether its mapping was undone.
fn watched(memory: &SharedMemory, panics: bool) -> (Memory, Arc<AtomicBool>) {
    let undone = Arc::new(AtomicBool::new(false));
    let mapping = Watched { memory: memory.clone(), undone: undone.clone(), panics };
    (Memory::new([Region::new(memory.start(), mapping).unwrap()]).unwrap(), undone)
}

#[test]
fn chains_in_flight_keep_their_memory_when_undoing_another_mapping_panics() {
    for shape in Shape::all() {
        let memory = SharedMemory::new(0x4000_0000, 128 << 10);
        let mut driver = ForeignDriver::new(shape, memory.clone());
        let buffer = Raw::new(driver.after_ring(), 8, 0);
        let ([chains, next], [rings, other]) =
            ([(); 2].map(|()| watched(&memory, false)), [true, false].map(|panics| watched(&memory, panics)));
        let storage = Storage::boxed(shape.size, 4);
        let mut device = Queue::new(shape.config(), driver.ring(), chains.0, Some(rings.0), storage).unwrap();
        driver.offer(&[buffer]);
        let chain = device.take().unwrap().unwrap();
        let moved = catch_unwind(AssertUnwindSafe(|| {
            device.set_memory(driver.ring(), next.0, Some(other.0)).unwrap();
        }));
        assert!(moved.is_err() && rings.1.load(SeqCst));
        assert!(!chains.1.load(SeqCst), "{shape}: unmapped under a chain in flight");
        device.complete(chain).unwrap();
        assert!(chains.1.load(SeqCst), "{shape}: still mapped");
    }
}

#[test]
fn no_mapping_is_remembered_when_its_undoing_panics() {
    for shape in Shape::all() {
        let memory = SharedMemory::new(0x4000_0000, 128 << 10);
        let [first, second, ring] = [0, 1, 0].map(|_| memory.clone());
        let mut driver = ForeignDriver::new(shape, ring);
        let buffer = Raw::new(driver.after_ring(), 8, 0);
        // The chain's buffer is in the first set of regions and not in the second.
        let (chains, _) = watched(&first, true);
        let (rings, _) = watched(&second, false);
        let storage = Storage::boxed(shape.size, 4);
        let mut device =
            Queue::new(shape.config(), driver.ring(), chains, Some(rings.clone()), storage).unwrap();
        driver.offer(&[buffer]);
        let chain = device.take().unwrap().unwrap();
        device.complete(chain).unwrap();
        let empty = SharedMemory::new(0x8000_0000, 4096);
        let nothing = Memory::new([Region::new(empty.start(), empty).unwrap()]).unwrap();
        let moved = catch_unwind(AssertUnwindSafe(|| {
            device.set_memory(driver.ring(), nothing, Some(rings)).unwrap();
        }));
        assert!(moved.is_err());
        driver.offer(&[buffer]);
        let addr = driver.after_ring();
        assert_eq!(device.take().map(|_| ()), Err(BadChain::OutsideMemory { addr, len: 8 }), "{shape}");
    }
}

/// Whatever happens to the queue, a chain that is held has its slot and its memory.
#[test]
fn a_chain_outlives_its_queue_and_no_other_queue_takes_it() {
    for shape in Shape::all().filter(|shape| shape.size >= 2) {
        let memory = SharedMemory::new(0x4000_0000, 128 << 10);
        let mut driver = ForeignDriver::new(shape, memory.clone());
        let buffer = Raw::new(driver.after_ring(), 8, 2);
        let ring = driver.ring();
        let make =
            |regions| Queue::new(shape.config(), ring, regions, None, Storage::boxed(shape.size, 4)).unwrap();
        let (regions, undone) = watched(&memory, false);
        let mut device = make(regions);
        driver.offer(&[buffer]);
        driver.offer(&[buffer]);
        let [mut first, second] = [(); 2].map(|()| device.take().unwrap().unwrap());
        // With IN_ORDER this one waits for the first, which never comes.
        device.complete(second).unwrap();
        device.stop();
        drop(device);
        for _ in 0..4 {
            let mut other = make(watched(&memory, false).0);
            first = other.complete(first).unwrap_err();
            assert_eq!(other.in_flight(), 0);
        }
        first.write(&[7; 8]).unwrap();
        assert_eq!(memory.read8(driver.after_ring()), 7);
        assert!(!undone.load(SeqCst), "{shape}: unmapped under a chain");
    }
}
