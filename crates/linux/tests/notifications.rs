//! How often a driver and a device over vhost-user tell each other something: a busy pair never, a sleeping one once for
//! many requests.

mod common;

use std::time::Duration;

use common::LONG;
use common::served::{Data, Queue, back_end, layouts, open, options, serve};
use virtio_kit::{F, Features, Window};
use virtio_kit_devices::blk::{Blk as Device, NullBackend};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::back_end::{Options, Polling, Threads};
use virtio_kit_linux::vhost_user::front_end::{self, FrontEnd};

const SECTORS: u64 = 1 << 16;
/// Requests with one publish.
const BATCH: u64 = 16;
const BATCHES: u64 = 500;
const REQUESTS: u64 = BATCH * BATCHES;

/// What happened, for each thousand requests.
#[derive(Debug)]
struct PerThousand {
    kicks: u64,
    calls: u64,
    device_wakes: u64,
    driver_wakes: u64,
}

/// Reads in batches, each when all of the one before have come back.
fn read(layout: Features, polling: Polling, look: Duration) -> PerThousand {
    let features = !(F::RING_PACKED | F::IN_ORDER | F::EVENT_IDX | F::INDIRECT_DESC) | layout;
    let back = back_end(Device::new(NullBackend::new(SECTORS * 512), 1), Options::default());
    let (runner, stream) = serve(back, Threads::PerQueue, polling);
    let front = FrontEnd::over(stream, front_end::Options { features, ..options() }).unwrap();
    let (mut blk, device) = open(front);
    let queue: &mut Queue = &mut blk.queues[0];
    let mut free: Vec<Data> = (0..BATCH).map(|_| vec![queue.arena().alloc(512).unwrap()]).collect();
    let mut window = Window::new(look);
    for batch in 0..BATCHES {
        let added = queue.read_batch(|| Some((batch, free.pop()?, batch)));
        assert_eq!(added.unwrap() as u64, BATCH);
        queue.kick().unwrap();
        while queue.in_flight() > 0 {
            let got = queue.complete_batch(usize::MAX, |done| {
                assert_eq!((done.result, done.token), (Ok(()), batch));
                free.extend(done.data);
            });
            if got.unwrap() == 0 {
                queue.wait_looking(LONG, &mut window, &MonotonicClock).unwrap();
            }
        }
    }
    let (ours, theirs) = (queue.stats(), runner.queues()[0].counters().clone());
    assert_eq!((theirs.taken(), theirs.completed()), (REQUESTS, REQUESTS));
    assert_eq!(ours.kicks, BATCHES);
    assert!(theirs.kicks() <= ours.notifications + 1);
    let per_thousand = |count: u64| count * 1000 / REQUESTS;
    let all = PerThousand {
        kicks: per_thousand(ours.notifications),
        calls: per_thousand(theirs.calls()),
        device_wakes: per_thousand(theirs.wakes()),
        driver_wakes: per_thousand(ours.wakeups),
    };
    drop(device);
    drop(blk);
    runner.join();
    all
}

#[test]
fn a_pair_that_looks_for_work_stays_out_of_the_kernel() {
    // Longer than anybody keeps a thread from running.
    let look = Duration::from_secs(20);
    for layout in layouts() {
        let PerThousand { kicks, calls, device_wakes, driver_wakes } =
            read(layout, Polling::UpTo(look), look);
        // Setting up takes a few in all.
        assert_eq!((kicks, calls, device_wakes, driver_wakes), (0, 0, 0, 0), "{layout:?}");
    }
}

#[test]
fn a_pair_that_sleeps_at_once_tells_and_wakes_once_for_a_batch() {
    // A thousand requests are 62.5 batches.
    const ONCE: u64 = 1000 / BATCH + 2;
    for layout in layouts() {
        let all = read(layout, Polling::UpTo(Duration::ZERO), Duration::ZERO);
        let PerThousand { kicks, calls, device_wakes, driver_wakes } = all;
        assert!(kicks <= ONCE && calls <= ONCE, "{layout:?}: {all:?}");
        // Each is woken for what it is told, and by nothing else.
        assert!(device_wakes <= kicks + 2 && driver_wakes <= calls + 2, "{layout:?}: {all:?}");
    }
}
