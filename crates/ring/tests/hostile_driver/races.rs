//! A driver that changes descriptors while the device takes them.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use virtio_kit_ring::device::{Config, Position, Queue, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_testkit::raw::flags::{INDIRECT, NEXT, WRITE};
use virtio_kit_testkit::raw::{ForeignDriver, Raw};
use virtio_kit_testkit::{Rng, Shape, SharedMemory};

/// Takes of each shape, at least.
const TAKES: u32 = 50_000;
/// How long the other thread may take to do harm.
const PATIENCE: Duration = Duration::from_secs(20);

// Trap 16: each descriptor is read once into private memory, and the copy is checked and used.
#[test]
fn descriptors_that_change_while_they_are_taken_never_give_bytes_outside_memory() {
    for shape in [Shape::of_size(false, 8), Shape::of_size(true, 5)].into_iter().flatten() {
        let memory = SharedMemory::new(0x4000_0000, 64 << 10);
        let region = || Memory::new([Region::new(memory.start(), memory.clone()).unwrap()]).unwrap();
        let mut driver = ForeignDriver::new(shape, memory.clone());
        let (ring, data) = (driver.ring(), driver.after_ring());
        let table = data + 0x1000;
        let stop = AtomicBool::new(false);
        let mut outcomes = [0u32; 2];
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            let (memory, stop_now, both_now) = (&memory, &stop, &both);
            scope.spawn(move || {
                let mut rng = Rng::new(shape.size.into());
                let addrs = [data, memory.end() - 4, memory.end(), 0, u64::MAX - 3, table];
                both_now.wait();
                let lens = [0u32, 8, 16, 32, 100, 4096, 65536, u32::MAX];
                while !stop_now.load(Relaxed) {
                    let descs = u64::from(shape.size);
                    let base = if rng.one_in(2) { table } else { ring.desc };
                    let desc = base + 16 * (rng.bits() % descs);
                    match rng.below(4) {
                        0 => memory.write64(desc, addrs[rng.below(addrs.len())]),
                        1 => memory.write32(desc + 8, lens[rng.below(lens.len())]),
                        // Not the byte with the lap bits of a packed ring, so that chains keep coming.
                        2 if shape.packed => memory.write16(desc + 12, rng.bits() as u16),
                        2 => memory.write16(desc + 14, rng.bits() as u16 % 9),
                        _ => {
                            let flags = [0, NEXT, WRITE, INDIRECT, NEXT | WRITE][rng.below(5)] as u8;
                            let at = desc + if shape.packed { 14 } else { 12 };
                            let keep = memory.read8(at) & 0x80;
                            memory.write8(at, flags | keep);
                        }
                    }
                }
            });
            let fresh = |position: Position| {
                let config = Config { position, ..shape.config() };
                Queue::new(config, ring, region(), None, Storage::boxed(shape.size, 6)).unwrap()
            };
            let mut device = fresh(Position::fresh(shape.packed));
            let mut taken = 0;
            both.wait();
            let start = Instant::now();
            // Until the other thread has run for long enough to be in the way.
            while taken < TAKES || outcomes.contains(&0) && start.elapsed() < PATIENCE {
                driver.offer(&[Raw::new(data, 16, NEXT), Raw::new(table, 32, WRITE)]);
                loop {
                    taken += 1;
                    match device.take() {
                        Ok(None) => break,
                        Ok(Some(mut chain)) => {
                            outcomes[0] += 1;
                            let segments = chain.readable().iter().chain(chain.writable());
                            for segment in segments {
                                assert!(
                                    memory.holds(segment.as_ptr(), segment.len()),
                                    "{shape}: outside memory"
                                );
                            }
                            let read: usize = chain.readable().iter().map(|s| s.len()).sum();
                            let write: usize = chain.writable().iter().map(|s| s.len()).sum();
                            assert_eq!((read, write), (chain.readable_len(), chain.writable_len()));
                            chain.read(&mut vec![0; read]).unwrap();
                            device.complete(chain).unwrap();
                            device.publish();
                        }
                        Err(broken) => {
                            outcomes[1] += 1;
                            assert_eq!(device.broken(), Some(broken));
                            // Begin anew, with a ring that is empty again.
                            device = fresh(Position::fresh(shape.packed));
                            let len = if shape.packed { 16 * usize::from(shape.size) } else { 0 };
                            memory.fill(ring.desc, len, 0);
                            memory.fill(ring.driver, 4, 0);
                            driver = ForeignDriver::new(shape, memory.clone());
                            break;
                        }
                    }
                }
            }
            stop.store(true, Relaxed);
        });
        assert!(outcomes.iter().all(|&n| n > 0), "{shape}: good and bad chains {outcomes:?}");
    }
}
