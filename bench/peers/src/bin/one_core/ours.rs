//! The project's own ends: the public queues, layout and size chosen at run time, owned buffers.

use super::Bench;
use std::hint::black_box;
use virtio_kit_bench::case::{self, Shaped};
use virtio_kit_peers::memory::Flat;
use virtio_kit_peers::minimal::{self, Ring, WRITE};
use virtio_kit_ring::driver::{Options, RingMemory, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_ring::{Arena, device, driver};

/// As many chains as are in flight at most.
const POOL: usize = 32;

/// The driver's end of chains of 3.
pub(super) type Driver = Queue<case::Three>;
/// The driver's end of chains of one buffer.
pub(super) type One = Queue<case::One>;

/// The driver's end with its pool of buffers.
pub(super) struct Queue<C: Shaped> {
    queue: driver::Queue<C, u64>,
    device: minimal::Device,
    pool: Vec<C>,
    spare: Vec<C>,
    token: u64,
    used_len: u32,
}

impl<C: Shaped> Queue<C> {
    pub(super) fn new(packed: bool, in_order: bool, size: u16) -> Self {
        let arena = Arena::new(Flat::new(4 << 20)).expect("an arena");
        let memory = RingMemory::alloc(&arena, packed, size).expect("a ring");
        let at = memory.addrs();
        let ring = Ring { desc: at.desc.get(), driver: at.driver.get(), device: at.device.get() };
        let options = Options { in_order, ..Options::default() };
        let mut queue = driver::Queue::new(memory, Storage::boxed(size), options, &arena).expect("a queue");
        queue.disable_callbacks();
        let pool: Vec<C> = (0..POOL).map(|_| C::of(C::alloc(&arena))).collect();
        let (mut count, mut used_len) = (0, 0);
        pool[0].visit(|buffer, written| {
            count += 1;
            used_len += if written { buffer.len() as u32 } else { 0 };
        });
        let device = minimal::Device::new(packed, ring, size, count, false);
        Self { queue, device, pool, spare: Vec::with_capacity(POOL), token: 0, used_len }
    }
}

impl<C: Shaped> Bench for Queue<C> {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        let Self { queue, pool, token, .. } = self;
        if n == 1 {
            *token += 1;
            assert!(queue.add_buf(pool.pop().expect("not empty"), *token).is_ok());
        } else {
            let mut left = n;
            let added = queue.add_batch(|place| {
                left = left.checked_sub(1)?;
                *token += 1;
                Some(place.put(pool.pop()?, *token))
            });
            assert!(matches!(added, Ok(added) if added == n));
        }
        black_box(queue.publish());
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the ring lives as long as the queue, whose chains are valid.
        assert_eq!(unsafe { self.device.complete_all(self.used_len) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        let Self { queue, pool, .. } = self;
        let mut keep = |used: driver::Used<C, u64>| {
            black_box(used.token);
            black_box(used.written);
            pool.push(used.chain);
        };
        if n == 1 {
            keep(queue.get_buf().expect("not broken").expect("it is used"));
        } else {
            assert_eq!(queue.get_batch(n, keep), Ok(n));
        }
    }

    #[inline(always)]
    fn pool(&mut self, n: usize) {
        for _ in 0..n {
            let Some(chain) = self.pool.pop() else { break };
            self.spare.push(chain);
        }
        std::mem::swap(&mut self.pool, &mut self.spare);
    }
}

/// What is done with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Go over all segments of chains of 3.
    Walk,
    /// The same of chains of one.
    One,
    /// Parse a block read: take the header, count the data as written, write the status.
    Blk,
}

/// Where buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffers {
    /// All in the region of the ring.
    Together,
    /// Each in another region than the one before.
    Apart,
}

/// The device's end.
///
/// What it does with a chain is known when it is compiled, as it is in a device.
pub(super) struct Device<const BLK: bool> {
    queue: device::Queue,
    driver: minimal::Driver,
}

impl<const BLK: bool> Device<BLK> {
    /// Bytes of a region that buffers are in.
    const PART: usize = 8192;

    pub(super) fn new(
        packed: bool,
        in_order: bool,
        work: Work,
        size: u16,
        regions: usize,
        buffers: Buffers,
    ) -> Self {
        // Ring and buffers of the driver's first region; then small ones, with gaps between their addresses.
        let main = Flat::new(4 << 20);
        let start = main.start();
        let (desc, driver, device) = (start, start + (1 << 20), start + (2 << 20));
        let data = start + (3 << 20);
        let rest = Flat::new(Self::PART * regions.max(2));
        let far = |i: usize| (1 << 47) + (i * 2 * Self::PART) as u64;
        let mut all = vec![Region::new(start, main).expect("a region")];
        all.extend(
            (1..regions)
                .map(|i| Region::new(far(i), rest.part(i * Self::PART, Self::PART)).expect("a region")),
        );
        let memory = Memory::new(all).expect("regions");
        let config = device::Config { in_order, ..device::Config::fresh(packed, size) };
        let addrs = device::RingAddrs { desc, driver, device };
        let storage = device::Storage::boxed(size, 8);
        let mut queue = device::Queue::new(config, addrs, memory, None, storage).expect("a queue");
        queue.disable_notifications();
        let shape: &[(u32, u16)] = match work {
            Work::One => &[(4096, WRITE)],
            Work::Walk | Work::Blk => &[(16, 0), (4096, WRITE), (1, WRITE)],
        };
        let place = |c: u16, i: u16| match buffers {
            Buffers::Together => data + u64::from(c % 64) * 8192 + u64::from(i) * 64,
            // A step that visits all of them, in no order that could be guessed.
            Buffers::Apart => far(1 + (usize::from(c) * 3 + usize::from(i)) * 1009 % (regions - 1)),
        };
        // SAFETY: the ring's parts have a mebibyte each, and are never given back.
        let driver =
            unsafe { minimal::Driver::new(packed, Ring { desc, driver, device }, size, shape, place) };
        Self { queue, driver }
    }
}

impl<const BLK: bool> Bench for Device<BLK> {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        // SAFETY: the ring has room for a batch.
        unsafe { self.driver.publish(n) };
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        let answer = |mut chain: device::Chain| {
            if BLK {
                black_box(chain.read_value::<[u8; 16]>().expect("a header"));
                let data = chain.writable_len() - 1;
                for segment in chain.writable_range(0, data).expect("data") {
                    look_at(&segment);
                }
                chain.mark_written(0, data).expect("data");
                chain.write_last(0).expect("a status");
            } else {
                for segment in chain.readable() {
                    look_at(segment);
                }
                for segment in chain.writable() {
                    look_at(segment);
                }
                let all = chain.writable_len();
                chain.mark_written(0, all).expect("all of it");
            }
            chain
        };
        if n == 1 {
            let chain = self.queue.take().expect("not broken").expect("it is available");
            assert!(self.queue.complete(answer(chain)).is_ok());
        } else {
            assert_eq!(self.queue.serve(n, |chain| Some(answer(chain))).expect("not broken"), n);
        }
        black_box(self.queue.publish());
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        // SAFETY: the ring lives as long as this.
        unsafe { self.driver.reap(n) };
    }
}

#[inline(always)]
fn look_at(segment: &device::Segment) {
    black_box(segment.as_ptr());
    black_box(segment.len());
}
