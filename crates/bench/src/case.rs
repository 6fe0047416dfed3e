//! Both ends of a ring, joined in memory.

use crate::row::{Mode, Row, Shape};
use std::hint::black_box;
use std::time::{Duration, Instant};
use virtio_kit_ring::driver::{Evidence, Indirect, Options, Quiesced, RingMemory, Storage};
use virtio_kit_ring::mem::{HeapMemory, Memory, Region};
use virtio_kit_ring::{AnyChain, Arena, Bufs, Chain, DmaBuf, device, driver};

/// Descriptors of every ring.
const SIZE: u16 = 256;
/// Chains in the pool: as many as can be in flight.
pub const POOL: usize = 128;
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
        Shape::One => boxed::<One>(row),
        Shape::Two => boxed::<Two>(row),
        Shape::Three => boxed::<Three>(row),
        Shape::Blk if row.mode == Mode::Batch => Box::new(Joined::<Three, true, true>::new(row)),
        Shape::Blk => Box::new(Joined::<Three, false, true>::new(row)),
        Shape::Dyn => boxed::<Dyn>(row),
    }
}

fn boxed<C: Shaped>(row: &Row) -> Box<dyn Case> {
    match row.mode {
        Mode::Batch => Box::new(Joined::<C, true, false>::new(row)),
        Mode::One | Mode::Calls => Box::new(Joined::<C, false, false>::new(row)),
    }
}

/// A chain whose buffers can be made from an arena.
pub trait Shaped: AnyChain + Sized + 'static {
    /// The buffers, while they are in the pool.
    type Buffers: Send;
    /// Allocates buffers.
    fn alloc(arena: &Arena) -> Self::Buffers;
    /// Makes a chain of them.
    fn of(buffers: Self::Buffers) -> Self;
    /// Takes it apart again.
    fn into_buffers(self) -> Self::Buffers;
}

fn buffer(arena: &Arena, len: usize) -> DmaBuf {
    arena.alloc_zeroed(len).expect("the arena is large enough")
}

impl<const R: usize, const W: usize> Shaped for Chain<[DmaBuf; R], [DmaBuf; W]> {
    type Buffers = ([DmaBuf; R], [DmaBuf; W]);
    fn alloc(arena: &Arena) -> Self::Buffers {
        let first = usize::from(R + W == 1);
        let make = |i: usize| buffer(arena, LENGTHS[first + i]);
        (std::array::from_fn(make), std::array::from_fn(|i| make(R + i)))
    }
    #[inline(always)]
    fn of((readable, writable): Self::Buffers) -> Self {
        Self::new(readable, writable)
    }
    #[inline(always)]
    fn into_buffers(self) -> Self::Buffers {
        self.into_parts()
    }
}

/// A list of up to two buffers on each side.
type Dyn = Chain<Bufs<2>, Bufs<2>>;

impl Shaped for Dyn {
    type Buffers = (Bufs<2>, Bufs<2>);
    fn alloc(arena: &Arena) -> Self::Buffers {
        let list = |lengths: &[usize]| lengths.iter().map(|&n| buffer(arena, n)).collect();
        (list(&LENGTHS[..1]), list(&LENGTHS[1..]))
    }
    #[inline(always)]
    fn of((readable, writable): Self::Buffers) -> Self {
        Self::new(readable, writable)
    }
    #[inline(always)]
    fn into_buffers(self) -> Self::Buffers {
        self.into_parts()
    }
}

/// One chain of as many buffers as the name says.
pub type One = Chain<[DmaBuf; 0], [DmaBuf; 1]>;
/// One to read and one to write.
pub type Two = Chain<[DmaBuf; 1], [DmaBuf; 1]>;
/// One to read and two to write.
pub type Three = Chain<[DmaBuf; 1], [DmaBuf; 2]>;

/// The driver's end with its pool of buffers.
pub struct Driver<C: Shaped> {
    /// The queue.
    pub queue: driver::Queue<C, u64>,
    pool: Vec<C>,
    spare: Vec<C>,
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
pub fn ends<C: Shaped>(row: &Row) -> (Driver<C>, Device) {
    let Row { packed, in_order, event, indirect, .. } = *row;
    let arena = Arena::new(HeapMemory::new(2 << 20).expect("memory")).expect("an arena");
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
    let pool: Vec<C> = (0..POOL).map(|_| C::of(C::alloc(&arena))).collect();
    let spare = Vec::with_capacity(POOL);
    (Driver { queue, pool, spare, token: 0, event }, Device { queue: other, event })
}

impl<C: Shaped> Driver<C> {
    /// Adds up to `n` chains and publishes them; fewer if the pool has no more.
    ///
    /// # Panics
    ///
    /// If the queue takes no more, or is broken.
    #[inline(always)]
    pub fn submit<const BATCH: bool>(&mut self, n: usize) {
        let Self { queue, pool, token, .. } = self;
        if BATCH {
            let mut left = n;
            let added = queue.add_batch(|place| {
                left = left.checked_sub(1)?;
                *token += 1;
                Some(place.put(pool.pop()?, *token))
            });
            assert!(added.is_ok());
        } else {
            for _ in 0..n {
                let Some(chain) = pool.pop() else { break };
                *token += 1;
                assert!(queue.add_buf(chain, *token).is_ok());
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
        let mut keep = |used: driver::Used<C, u64>| {
            black_box(used.token);
            black_box(used.written);
            pool.push(used.chain);
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

impl<C: Shaped> Drop for Driver<C> {
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
    pub fn answer<const BATCH: bool, const BLK: bool>(&mut self) -> usize {
        let queue = &mut self.queue;
        let mut got = 0;
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
                chain.readable().iter().for_each(look_at);
                chain.writable().iter().for_each(look_at);
                chain.mark_written(0, chain.writable_len()).expect("all of it");
            }
            chain
        };
        if BATCH {
            got = queue.serve(usize::MAX, |chain| Some(answer(chain))).expect("not broken");
        } else {
            while let Some(chain) = queue.take().expect("not broken") {
                assert!(queue.complete(answer(chain)).is_ok());
                got += 1;
            }
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
fn part_submit<C: Shaped, const BATCH: bool>(driver: &mut Driver<C>, n: usize) {
    driver.submit::<BATCH>(n);
}

#[inline(never)]
fn part_device<const BATCH: bool, const BLK: bool>(device: &mut Device) -> usize {
    device.answer::<BATCH, BLK>()
}

#[inline(never)]
fn part_reap<C: Shaped, const BATCH: bool>(driver: &mut Driver<C>) -> usize {
    driver.reap::<BATCH>()
}

#[inline(never)]
fn part_pool<C: Shaped>(driver: &mut Driver<C>, n: usize) {
    driver.shuffle(n);
}

struct Joined<C: Shaped, const BATCH: bool, const BLK: bool> {
    driver: Driver<C>,
    device: Device,
    batch: usize,
}

impl<C: Shaped, const BATCH: bool, const BLK: bool> Joined<C, BATCH, BLK> {
    fn new(row: &Row) -> Self {
        let (driver, device) = ends(row);
        Self { driver, device, batch: row.batch() }
    }
}

impl<C: Shaped, const BATCH: bool, const BLK: bool> Case for Joined<C, BATCH, BLK> {
    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            part_submit::<C, BATCH>(&mut self.driver, self.batch);
            assert_eq!(part_device::<BATCH, BLK>(&mut self.device), self.batch);
            assert_eq!(part_reap::<C, BATCH>(&mut self.driver), self.batch);
        }
    }

    fn run_parts(&mut self, turns: usize) -> [Duration; 3] {
        let mut parts = [Duration::ZERO; 3];
        for _ in 0..turns {
            let start = Instant::now();
            part_submit::<C, BATCH>(&mut self.driver, self.batch);
            let submitted = Instant::now();
            assert_eq!(part_device::<BATCH, BLK>(&mut self.device), self.batch);
            let answered = Instant::now();
            assert_eq!(part_reap::<C, BATCH>(&mut self.driver), self.batch);
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
