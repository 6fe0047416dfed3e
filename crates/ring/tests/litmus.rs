//! The notification primitive on two real cores: no wake-up may be lost, and without the fence some are.
//!
//! A round is the store-buffering litmus test, with a queue around it: one side publishes and looks whether it
//! is to notify, while the other asks to be notified and looks whether something is there. If the first says "no
//! need" and the second "nothing there", both sleep for ever: a lost wake-up.

use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};
use virtio_kit_ring::driver::{Indirect, Queue, RingMemory, Storage};
use virtio_kit_ring::mem::{Memory, Region};
use virtio_kit_ring::notify::{Barriers, FullFence, publish_then_look};
use virtio_kit_ring::{Arena, Chain, DmaBuf, device};
use virtio_kit_testkit::pair::device_addrs;
use virtio_kit_testkit::{Rng, Shape, SharedMemory};

/// Rounds of each direction of each queue.
const ROUNDS: u32 = 200_000;

/// One litmus test at a time: each needs both cores.
static CORES: Mutex<()> = Mutex::new(());

/// Lets two threads go at the same moment, again and again.
#[derive(Default)]
struct Gate(AtomicUsize);

impl Gate {
    /// Waits until both threads called for the `n`th time, counted from 1.
    fn pass(&self, n: usize) {
        self.0.fetch_add(1, AcqRel);
        let mut spins = 0u32;
        while self.0.load(Acquire) < 2 * n {
            spin_loop();
            spins += 1;
            if spins.is_multiple_of(1 << 14) {
                // One core only, or the other thread is not running.
                std::thread::yield_now();
            }
        }
    }
}

/// A few cycles more or less, so that all interleavings come up.
fn jitter(rng: &mut Rng) {
    (0..rng.below(12)).for_each(|_| spin_loop());
}

/// Publish against restart in both directions, `rounds` times each; how often both went to sleep.
fn lost_wakeups(shape: Shape, rounds: u32) -> [u32; 2] {
    let memory = SharedMemory::new(0x10_0000, 1 << 20);
    let arena = Arena::new(memory.clone()).unwrap();
    let ring = RingMemory::alloc(&arena, shape.packed, shape.size).unwrap();
    let options = shape.options(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
    let mut driver: Queue<Chain<(), DmaBuf>, u32> =
        Queue::new(ring, Storage::boxed(shape.size), options, &arena).unwrap();
    let regions = Memory::new([Region::new(memory.start(), memory.clone()).unwrap()]).unwrap();
    let storage = device::Storage::boxed(shape.size, 4);
    let addrs = device_addrs(&driver);
    let mut dev = device::Queue::new(shape.config(), addrs, regions, None, storage).unwrap();
    let gate = Gate::default();
    let armed = [AtomicU32::new(0), AtomicU32::new(0)];
    let mut lost = [0, 0];
    std::thread::scope(|scope| {
        let (gate, armed) = (&gate, &armed);
        scope.spawn(move || {
            let mut rng = Rng::new(1);
            for round in 0..rounds as usize {
                dev.disable_notifications();
                gate.pass(4 * round + 1);
                jitter(&mut rng);
                // Against the driver's publish.
                let asleep = dev.restart();
                armed[0].store(asleep.into(), Release);
                gate.pass(4 * round + 2);
                let chain = dev.take().unwrap().expect("the driver published");
                dev.complete(chain).unwrap();
                gate.pass(4 * round + 3);
                jitter(&mut rng);
                // Against the driver's restart.
                let notify = dev.publish();
                armed[1].store(notify.into(), Release);
                gate.pass(4 * round + 4);
            }
        });
        let mut rng = Rng::new(2);
        let mut buffer = Some(arena.alloc(8).unwrap());
        for round in 0..rounds as usize {
            driver.add_buf(Chain::writable(buffer.take().unwrap()), 7).unwrap();
            gate.pass(4 * round + 1);
            jitter(&mut rng);
            let notify = driver.publish();
            gate.pass(4 * round + 2);
            lost[0] += u32::from(armed[0].load(Acquire) == 1 && !notify);
            driver.disable_callbacks();
            gate.pass(4 * round + 3);
            jitter(&mut rng);
            let asleep = driver.restart();
            gate.pass(4 * round + 4);
            lost[1] += u32::from(asleep && armed[1].load(Acquire) == 0);
            let used = driver.get_buf().unwrap().expect("the device published");
            buffer = Some(used.chain.writable);
        }
    });
    lost
}

fn no_wakeup_is_lost(packed: bool, event_idx: bool) {
    let _cores = CORES.lock().unwrap_or_else(|e| e.into_inner());
    let shape = Shape { packed, in_order: false, event_idx, indirect: false, size: 8 };
    assert_eq!(lost_wakeups(shape, ROUNDS), [0, 0], "{shape}: lost by the device, by the driver");
}

// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Supplying Buffers to The Device / Notifying The Device
#[test]
fn no_wakeup_is_lost_on_two_cores_in_a_split_ring_with_flags() {
    no_wakeup_is_lost(false, false);
}

#[test]
fn no_wakeup_is_lost_on_two_cores_in_a_split_ring_with_event_indices() {
    no_wakeup_is_lost(false, true);
}

// drivernormative:Basic Facilities of a Virtio Device / Packed Virtqueues / Supplying Buffers to The Device / Sending Available Buffer Notifications
#[test]
fn no_wakeup_is_lost_on_two_cores_in_a_packed_ring_with_flags() {
    no_wakeup_is_lost(true, false);
}

#[test]
fn no_wakeup_is_lost_on_two_cores_in_a_packed_ring_with_event_indices() {
    no_wakeup_is_lost(true, true);
}

/// No fence at all: the mutant.
struct NoFence;

impl FullFence for NoFence {
    fn full(&self) {
        std::sync::atomic::compiler_fence(SeqCst);
    }
}

/// Words on cache lines of their own.
#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU32);

/// Rounds of the bare primitive in both roles at once: how many both sides slept in, of how many.
fn bare<F: FullFence + Sync>(fence: &F, rounds: usize) -> u32 {
    let (index, wish) = (Word::default(), Word::default());
    let gate = Gate::default();
    let asleep = AtomicU32::new(0);
    let mut lost = 0;
    std::thread::scope(|scope| {
        let (index, wish, gate, asleep) = (&index.0, &wish.0, &gate, &asleep);
        scope.spawn(move || {
            let mut rng = Rng::new(3);
            for round in 1..=rounds {
                gate.pass(2 * round - 1);
                jitter(&mut rng);
                let ask = || wish.store(round as u32, Relaxed);
                let seen = publish_then_look(fence, ask, || index.load(Relaxed));
                asleep.store(u32::from(seen != round as u32), Relaxed);
                gate.pass(2 * round);
            }
        });
        let mut rng = Rng::new(4);
        for round in 1..=rounds {
            gate.pass(2 * round - 1);
            jitter(&mut rng);
            let publish = || index.store(round as u32, Release);
            let wanted = publish_then_look(fence, publish, || wish.load(Relaxed)) == round as u32;
            gate.pass(2 * round);
            lost += u32::from(!wanted && asleep.load(Relaxed) == 1);
        }
    });
    lost
}

#[test]
fn the_bare_primitive_with_its_fence_loses_nothing_on_two_cores() {
    let _cores = CORES.lock().unwrap_or_else(|e| e.into_inner());
    for barriers in [Barriers::Smp, Barriers::Device] {
        assert_eq!(bare(&barriers, 300_000), 0, "{barriers:?}");
    }
}

/// How long the mutant is given to show itself.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[cfg(target_arch = "x86_64")]
fn the_bare_primitive_without_its_fence_is_caught_on_two_cores() {
    let _cores = CORES.lock().unwrap_or_else(|e| e.into_inner());
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        eprintln!("one core only: nothing to see");
        return;
    }
    let start = Instant::now();
    let (mut rounds, mut lost) = (0, 0);
    while lost == 0 && start.elapsed() < PATIENCE {
        lost += bare(&NoFence, 100_000);
        rounds += 100_000;
    }
    println!("without the fence: {lost} wake-ups lost in {rounds} rounds, {:?}", start.elapsed());
    assert!(lost > 0, "the litmus test cannot tell the mutant from the primitive here");
}
