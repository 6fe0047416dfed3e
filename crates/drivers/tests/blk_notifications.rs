//! How often a block driver and its device on another thread wake each other: a busy pair never, a sleeping one once for
//! many requests.

mod common;

use common::{Bell, LIMIT, StdClock, layouts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit::in_process::{Event, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, DmaBuf, Features, Window};
use virtio_kit_devices::blk::{Blk as Device, NullBackend};
use virtio_kit_drivers::blk;

/// Requests with one publish.
const BATCH: u64 = 16;
const BATCHES: u64 = 500;

/// An event, with how often it was set and how often it ended a wait.
#[derive(Default)]
struct Counted {
    bell: Bell,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    set: AtomicU64,
    woken: AtomicU64,
}

impl Event for Counted {
    fn set(&self) {
        self.counts.set.fetch_add(1, SeqCst);
        self.bell.set();
    }

    fn wait(&self, limit: Duration) -> bool {
        let woken = self.bell.wait(limit);
        self.counts.woken.fetch_add(u64::from(woken), SeqCst);
        woken
    }
}

/// Reads in batches, each when all of the one before have come back: how often events were set and ended waits while
/// that went on, for each thousand requests.
fn read(ring_features: Features, look: Duration) -> (u64, u64) {
    let arena = Arena::new(HeapMemory::new(8 << 20).unwrap()).unwrap();
    let counts = Arc::new(Counts::default());
    let of_events = counts.clone();
    let event =
        move || Arc::new(Counted { counts: of_events.clone(), ..Counted::default() }) as Arc<dyn Event>;
    let clock = StdClock::new();
    let options =
        Options { arena, ring_features, inline: false, clock: clock.clone(), event: Box::new(event) };
    let device = Device::new(NullBackend::new(1 << 20), 1);
    let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
    let (mut blk, bound) =
        blk::open::<DmaBuf, u64>(Found::new(Box::new(transport)), &blk::Options::default()).unwrap();
    let queue = &mut blk.queues[0];
    let stop = AtomicBool::new(false);
    let (mut before, mut after) = ((0, 0), (0, 0));
    std::thread::scope(|scope| {
        scope.spawn(|| end.serve(0, look, &stop));
        let mut free: Vec<DmaBuf> = (0..BATCH).map(|_| queue.arena().alloc(512).unwrap()).collect();
        let mut window = Window::new(look);
        let now = || (counts.set.load(SeqCst), counts.woken.load(SeqCst));
        // The first one finds the device asleep.
        for batch in 0..=BATCHES {
            if batch == 1 {
                before = now();
            }
            let added = queue.read_batch(|| Some((0, free.pop()?, batch)));
            assert_eq!(added.unwrap() as u64, BATCH);
            queue.kick().unwrap();
            while queue.in_flight() > 0 {
                let got = queue.complete_batch(usize::MAX, |done| {
                    assert_eq!((done.result, done.token), (Ok(()), batch));
                    free.extend(done.data);
                });
                if got.unwrap() == 0 {
                    queue.wait_looking(LIMIT, &mut window, &*clock).unwrap();
                }
            }
        }
        after = now();
        stop.store(true, SeqCst);
    });
    drop(bound);
    let per_thousand = |count: u64| count * 1000 / (BATCH * BATCHES);
    (per_thousand(after.0 - before.0), per_thousand(after.1 - before.1))
}

#[test]
fn a_pair_that_looks_for_work_never_wakes_anybody() {
    for layout in layouts() {
        // Longer than anybody keeps a thread from running.
        assert_eq!(read(layout, Duration::from_secs(20)), (0, 0), "{layout:?}");
    }
}

#[test]
fn a_pair_that_sleeps_at_once_wakes_once_for_a_batch_on_each_side() {
    // A thousand requests are 62.5 batches, each with a notification on both sides; the device's sets two events.
    const BATCHES_IN_THOUSAND: u64 = 1000 / BATCH + 2;
    for layout in layouts() {
        let (set, woken) = read(layout, Duration::ZERO);
        assert!(
            set <= 3 * BATCHES_IN_THOUSAND && woken <= 2 * BATCHES_IN_THOUSAND,
            "{layout:?}: {set} {woken}"
        );
    }
}
