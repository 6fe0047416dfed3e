//! No request allocates: after a warm-up a counting allocator must see nothing, on either side.

use virtio_kit_ring::driver::{Evidence, Indirect, Queue, Quiesced, RingMemory, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_ring::{Arena, Chain, DmaBuf, device};
use virtio_kit_testkit::counting::{CountingAllocator, calls_during};
use virtio_kit_testkit::pair::device_addrs;
use virtio_kit_testkit::{Shape, SharedMemory};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Header, data and status.
type Request = Chain<DmaBuf, [DmaBuf; 2]>;

struct Ends {
    arena: Arena,
    driver: Queue<Request, u64>,
    device: device::Queue,
    /// Buffers that are with nobody, in a list that is long enough.
    free: Vec<Request>,
    held: Vec<device::Chain>,
    parity: bool,
}

impl Ends {
    /// With tables, chains of three buffers go into them when `direct_up_to` is less.
    fn new(shape: Shape, direct_up_to: u16) -> Self {
        let memory = SharedMemory::new(0x10_0000, 1 << 20);
        let arena = Arena::new(memory.clone()).unwrap();
        let ring = RingMemory::alloc(&arena, shape.packed, shape.size).unwrap();
        let options = shape.options(Indirect { max_parts: 4, direct_up_to, keep_free: 0 });
        let driver = Queue::new(ring, Storage::boxed(shape.size), options, &arena).unwrap();
        let regions = Memory::new([Region::new(memory.start(), memory).unwrap()]).unwrap();
        let storage = device::Storage::boxed(shape.size, 4);
        let addrs = device_addrs(&driver);
        let device = device::Queue::new(shape.config(), addrs, regions, None, storage).unwrap();
        let free = (0..10)
            .map(|_| {
                let [header, data, status] = [16, 200, 1].map(|len| arena.alloc(len).unwrap());
                Request::new(header, [data, status])
            })
            .collect();
        Self { arena, driver, device, free, held: Vec::with_capacity(16), parity: false }
    }

    /// Every operation of the data path, once or more.
    fn round(&mut self) {
        while let Some(mut chain) = self.free.pop() {
            chain.readable.write_value(0, &7u64).unwrap();
            if let Err(e) = self.driver.add_buf(chain, 7) {
                self.free.push(e.chain);
                break;
            }
        }
        let (driver, device, free, held) =
            (&mut self.driver, &mut self.device, &mut self.free, &mut self.held);
        let mut one = free.pop();
        if let Err(e) = driver.add_batch(|place| Some(place.put(one.take()?, 8))) {
            free.extend(e.refused.map(|(chain, _)| chain));
        }
        free.extend(one);
        driver.publish();
        device.disable_notifications();
        while let Some(chain) = device.take().unwrap() {
            held.push(chain);
        }
        assert!(device.restart());
        if self.parity {
            held.reverse();
        }
        self.parity = !self.parity;
        for mut chain in held.drain(..) {
            let token: u64 = chain.read_value().unwrap();
            chain.write(&token.to_le_bytes()).unwrap();
            chain.write_at(8, &[1; 150]).unwrap();
            chain.write_last(0).unwrap();
            device.complete(chain).unwrap();
        }
        device.publish();
        driver.disable_callbacks();
        if let Some(used) = driver.get_buf().unwrap() {
            free.push(used.chain);
        }
        driver.get_batch(100, |used| free.push(used.chain)).unwrap();
        assert!(driver.restart());
        // Buffers come and go from an arena without the heap, too.
        drop(self.arena.alloc(500).unwrap());
    }
}

#[test]
fn no_request_allocates_after_warm_up_on_either_side() {
    for shape in Shape::all() {
        for direct_up_to in [0, 2, 3] {
            if !shape.indirect && (direct_up_to != 3 || shape.size < 3) {
                continue;
            }
            let mut ends = Ends::new(shape, direct_up_to);
            (0..20).for_each(|_| ends.round());
            let calls = calls_during(|| (0..200).for_each(|_| ends.round()));
            assert_eq!(calls, 0, "{shape}, direct up to {direct_up_to}");
        }
    }
}

#[test]
fn the_counting_allocator_counts() {
    assert_eq!(calls_during(|| drop(std::hint::black_box(Box::new(7)))), 2);
}

#[test]
fn refusals_allocate_nothing_either() {
    for shape in Shape::all().filter(|shape| shape.size >= 3) {
        let mut ends = Ends::new(shape, 3);
        ends.round();
        let mut refused = ends.free.pop();
        assert_eq!(ends.driver.shutdown(Quiesced::on(Evidence::DeviceHalfReturned)).count(), 0);
        let calls = calls_during(|| {
            refused = Some(ends.driver.add_buf(refused.take().unwrap(), 1).unwrap_err().chain);
        });
        assert_eq!(calls, 0, "{shape}");
    }
}
