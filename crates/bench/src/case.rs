//! Both ends of a ring, joined in memory.

use crate::row::{Mode, Row, Shape};
use std::hint::black_box;
use std::time::{Duration, Instant};
use virtio_kit_ring::chain::Parts;
use virtio_kit_ring::driver::{Evidence, Indirect, Options, Quiesced, RingMemory, Storage};
use virtio_kit_ring::mem::{HeapMemory, Memory, Region};
use virtio_kit_ring::{Arena, Bufs, Chain, DmaBuf, device, driver};

/// Descriptors of every ring.
const SIZE: u16 = 256;
/// Chains in the pool: as many as can be in flight.
const POOL: usize = 64;
/// Lengths of the buffers of the longest shape; shorter ones leave out the last, then the first.
const LENGTHS: [usize; 3] = [16, 4096, 1];

/// One row, ready to run.
pub trait Case {
    /// Runs `turns` batches.
    fn run(&mut self, turns: usize);
    /// Runs `turns` batches, and how long submit, device and reap took in all. Reads the clock four times a
    /// batch.
    fn run_parts(&mut self, turns: usize) -> [Duration; 3];
    /// Takes buffers from the pool and returns them, as `turns` batches do, and nothing else.
    fn run_pool(&mut self, turns: usize);
}

/// Makes a row's case.
///
/// # Panics
///
/// If memory runs out.
pub fn case(row: &Row) -> Box<dyn Case> {
    match row.shape {
        Shape::One => boxed::<[DmaBuf; 1]>(row),
        Shape::Two => boxed::<[DmaBuf; 2]>(row),
        Shape::Three => boxed::<[DmaBuf; 3]>(row),
        Shape::Blk if row.mode == Mode::Batch => Box::new(Joined::<[DmaBuf; 3], true, true>::new(row)),
        Shape::Blk => Box::new(Joined::<[DmaBuf; 3], false, true>::new(row)),
        Shape::Dyn => boxed::<Bufs<4>>(row),
    }
}

fn boxed<P: Shaped + 'static>(row: &Row) -> Box<dyn Case> {
    match row.mode {
        Mode::Batch => Box::new(Joined::<P, true, false>::new(row)),
        Mode::One | Mode::Calls => Box::new(Joined::<P, false, false>::new(row)),
    }
}

/// A list of buffers that can be made from an arena.
pub trait Shaped: Parts + Sized {
    /// How many of the first are for the device to read.
    const READABLE: u16;
    /// Allocates the buffers.
    fn alloc(arena: &Arena) -> Self;
}

fn buffer(arena: &Arena, len: usize) -> DmaBuf {
    arena.alloc_zeroed(len).expect("the arena is large enough")
}

impl Shaped for [DmaBuf; 1] {
    const READABLE: u16 = 0;
    fn alloc(arena: &Arena) -> Self {
        [LENGTHS[1]].map(|n| buffer(arena, n))
    }
}

impl Shaped for [DmaBuf; 2] {
    const READABLE: u16 = 1;
    fn alloc(arena: &Arena) -> Self {
        [LENGTHS[0], LENGTHS[1]].map(|n| buffer(arena, n))
    }
}

impl Shaped for [DmaBuf; 3] {
    const READABLE: u16 = 1;
    fn alloc(arena: &Arena) -> Self {
        LENGTHS.map(|n| buffer(arena, n))
    }
}

impl Shaped for Bufs<4> {
    const READABLE: u16 = 1;
    fn alloc(arena: &Arena) -> Self {
        LENGTHS.into_iter().map(|n| buffer(arena, n)).collect()
    }
}

/// The driver's end with its pool of buffers.
pub struct Driver<P: Parts> {
    /// The queue.
    pub queue: driver::Queue<P, u64>,
    pool: Vec<P>,
    spare: Vec<P>,
    readable: u16,
    token: u64,
    event: bool,
}

/// The device's end.
pub struct Device {
    /// The queue.
    pub queue: device::Queue,
    event: bool,
}

/// Makes both ends of a row's ring.
///
/// # Panics
///
/// If memory runs out.
pub fn ends<P: Shaped>(row: &Row) -> (Driver<P>, Device) {
    let Row { packed, in_order, event, indirect, .. } = *row;
    let arena = Arena::new(HeapMemory::new(1 << 20).expect("memory")).expect("an arena");
    let memory = RingMemory::alloc(&arena, packed, SIZE).expect("a ring");
    let a = memory.addrs();
    let addrs = device::RingAddrs { desc: a.desc.get(), driver: a.driver.get(), device: a.device.get() };
    let tables = indirect.then_some(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
    let options = Options { in_order, event_idx: event, indirect: tables, ..Options::default() };
    let mut queue = driver::Queue::new(memory, Storage::boxed(SIZE), options, &arena).expect("a queue");
    let config =
        device::Config { in_order, event_idx: event, indirect, ..device::Config::fresh(packed, SIZE) };
    let regions = Memory::new([Region::of_arena(&arena)]).expect("one region");
    let storage = device::Storage::boxed(SIZE, 8);
    let mut other = device::Queue::new(config, addrs, regions, None, storage).expect("the other end");
    if !event {
        // Both ends poll.
        queue.disable_callbacks();
        other.disable_notifications();
    }
    let pool: Vec<P> = (0..POOL).map(|_| P::alloc(&arena)).collect();
    let spare = Vec::with_capacity(POOL);
    (Driver { queue, pool, spare, readable: P::READABLE, token: 0, event }, Device { queue: other, event })
}

impl<P: Parts> Driver<P> {
    /// Adds up to `n` chains and publishes them; fewer if the pool has no more.
    ///
    /// # Panics
    ///
    /// If the queue takes no more, or is broken.
    #[inline(always)]
    pub fn submit<const BATCH: bool>(&mut self, n: usize) {
        let Self { queue, pool, readable, token, .. } = self;
        let mut next = || {
            let chain = Chain::new(pool.pop()?, *readable);
            *token += 1;
            Some((chain, *token))
        };
        if BATCH {
            let mut left = n;
            let added = queue.add_batch(|| {
                left = left.checked_sub(1)?;
                next()
            });
            assert!(added.is_ok());
        } else {
            for _ in 0..n {
                let Some((chain, token)) = next() else { break };
                assert!(queue.add_buf(chain, token).is_ok());
            }
        }
        black_box(queue.publish());
    }

    /// Takes back all chains that are used, looks at their token and length, and returns their buffers to the
    /// pool; how many there were.
    ///
    /// # Panics
    ///
    /// If the queue is broken.
    #[inline(always)]
    pub fn reap<const BATCH: bool>(&mut self) -> usize {
        let Self { queue, pool, .. } = self;
        let mut got = 0;
        let mut keep = |used: driver::Used<P, u64>| {
            black_box(used.token);
            black_box(used.written);
            pool.push(used.chain.into_parts());
        };
        if BATCH {
            got = queue.get_batch(usize::MAX, keep).expect("not broken");
        } else {
            while let Some(used) = queue.get_buf().expect("not broken") {
                keep(used);
                got += 1;
            }
        }
        if self.event {
            black_box(queue.restart());
        }
        got
    }

    /// The pool's part of submit and reap: takes `n` out, and puts them into another pool.
    #[inline(always)]
    fn shuffle(&mut self, n: usize) {
        for _ in 0..n {
            let Some(parts) = self.pool.pop() else { break };
            self.spare.push(parts);
        }
    }
}

impl<P: Parts> Drop for Driver<P> {
    fn drop(&mut self) {
        // The device's half is never used after the driver's.
        self.queue.shutdown(Quiesced::on(Evidence::DeviceHalfReturned)).for_each(drop);
    }
}

impl Device {
    /// Answers every chain that is available; how many there were. With `BLK` a chain is a block request: a
    /// header is read, its data counts as written, its status is.
    ///
    /// # Panics
    ///
    /// If the queue is broken, or a chain is none of a row's shape.
    #[inline(always)]
    pub fn answer<const BLK: bool>(&mut self) -> usize {
        let queue = &mut self.queue;
        let mut got = 0;
        while let Some(mut chain) = queue.take().expect("not broken") {
            if BLK {
                black_box(chain.read_value::<[u8; 16]>().expect("a header"));
                let data = chain.writable_len() - 1;
                for segment in chain.writable_range(0, data).expect("data") {
                    look_at(&segment);
                }
                chain.mark_written(0, data).expect("data");
                chain.write_last(0).expect("a status");
            } else {
                chain.readable().iter().for_each(look_at);
                chain.writable().iter().for_each(look_at);
                chain.mark_written(0, chain.writable_len()).expect("all of it");
            }
            assert!(queue.complete(chain).is_ok());
            got += 1;
        }
        black_box(queue.publish());
        if self.event {
            black_box(queue.restart());
        }
        got
    }
}

#[inline(always)]
fn look_at(segment: &device::Segment) {
    black_box(segment.as_ptr());
    black_box(segment.len());
}

// Kept out of line so that callgrind can tell the parts apart by name.
#[inline(never)]
fn part_submit<P: Parts, const BATCH: bool>(driver: &mut Driver<P>, n: usize) {
    driver.submit::<BATCH>(n);
}

#[inline(never)]
fn part_device<const BLK: bool>(device: &mut Device) -> usize {
    device.answer::<BLK>()
}

#[inline(never)]
fn part_reap<P: Parts, const BATCH: bool>(driver: &mut Driver<P>) -> usize {
    driver.reap::<BATCH>()
}

#[inline(never)]
fn part_pool<P: Parts>(driver: &mut Driver<P>, n: usize) {
    driver.shuffle(n);
}

struct Joined<P: Parts, const BATCH: bool, const BLK: bool> {
    driver: Driver<P>,
    device: Device,
    batch: usize,
}

impl<P: Shaped, const BATCH: bool, const BLK: bool> Joined<P, BATCH, BLK> {
    fn new(row: &Row) -> Self {
        let (driver, device) = ends(row);
        Self { driver, device, batch: row.batch() }
    }
}

impl<P: Parts, const BATCH: bool, const BLK: bool> Case for Joined<P, BATCH, BLK> {
    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            part_submit::<P, BATCH>(&mut self.driver, self.batch);
            assert_eq!(part_device::<BLK>(&mut self.device), self.batch);
            assert_eq!(part_reap::<P, BATCH>(&mut self.driver), self.batch);
        }
    }

    fn run_parts(&mut self, turns: usize) -> [Duration; 3] {
        let mut parts = [Duration::ZERO; 3];
        for _ in 0..turns {
            let start = Instant::now();
            part_submit::<P, BATCH>(&mut self.driver, self.batch);
            let submitted = Instant::now();
            assert_eq!(part_device::<BLK>(&mut self.device), self.batch);
            let answered = Instant::now();
            assert_eq!(part_reap::<P, BATCH>(&mut self.driver), self.batch);
            let reaped = Instant::now();
            parts[0] += submitted - start;
            parts[1] += answered - submitted;
            parts[2] += reaped - answered;
        }
        parts
    }

    fn run_pool(&mut self, turns: usize) {
        for _ in 0..turns {
            part_pool(&mut self.driver, self.batch);
            std::mem::swap(&mut self.driver.pool, &mut self.driver.spare);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_runs_past_the_wrap_of_its_ring() {
        for row in Row::all() {
            let mut case = case(&row);
            case.run(1000);
            case.run_pool(10);
            case.run_parts(10);
        }
    }
}
