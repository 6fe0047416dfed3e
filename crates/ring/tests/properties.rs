//! Random schedules of everything that both ends of a queue can do, in every shape, against a model.
//!
//! `VIRTIO_KIT_SEED=n` replays one seed over the shapes of each test; `VIRTIO_KIT_SCHEDULES=n` runs another
//! number of them for each shape.

use virtio_kit_testkit::pair::run;
use virtio_kit_testkit::shape::{PACKED_SIZES, SPLIT_SIZES};
use virtio_kit_testkit::{Ground, Pair, Rng, Shape};

/// Schedules of each shape in a run without instructions: 88 shapes make more than 100,000.
const SCHEDULES: u64 = 1200;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn schedules(shapes: impl Iterator<Item = Shape>) {
    let ground = Ground::new();
    let seeds = match number("VIRTIO_KIT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VIRTIO_KIT_SCHEDULES").unwrap_or(SCHEDULES),
    };
    for shape in shapes {
        for seed in seeds.clone() {
            let steps = Rng::new(seed ^ 0xabcd).within(10, 150);
            run(&ground, shape, seed, steps);
        }
    }
}

// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Descriptor Table
// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Available Ring
// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Used Buffer Notification Suppression
// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / Used Buffer Notification Suppression
// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Available Buffer Notification Suppression
// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / Available Buffer Notification Suppression
// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / The Virtqueue Used Ring
// devicenormative:Basic Facilities of a Virtio Device / Message Framing
// devicenormative:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Re-enable
// drivernormative:Basic Facilities of a Virtio Device / Virtqueues / Virtqueue Reset / Virtqueue Re-enable
#[test]
fn split_queues_do_what_the_model_says_in_every_schedule() {
    schedules(SPLIT_SIZES.into_iter().flat_map(|size| Shape::of_size(false, size)));
}

// drivernormative:Basic Facilities of a Virtio Device / Packed Virtqueues
// devicenormative:Basic Facilities of a Virtio Device / Packed Virtqueues
// drivernormative:Basic Facilities of a Virtio Device / Packed Virtqueues / Scatter-Gather Support
// devicenormative:Basic Facilities of a Virtio Device / Packed Virtqueues / The Virtqueue Descriptor Table
#[test]
fn small_packed_queues_do_what_the_model_says_in_every_schedule() {
    schedules(PACKED_SIZES.into_iter().filter(|&n| n <= 8).flat_map(|size| Shape::of_size(true, size)));
}

#[test]
fn large_packed_queues_do_what_the_model_says_in_every_schedule() {
    schedules(PACKED_SIZES.into_iter().filter(|&n| n > 8).flat_map(|size| Shape::of_size(true, size)));
}

/// Runs until all indices have passed 65536 twice.
fn onward(packed: bool, in_order: bool) {
    let ground = Ground::new();
    let sizes = if packed { [3, 5, 100] } else { [2, 8, 256] };
    for (seed, size) in sizes.into_iter().enumerate() {
        for event_idx in [false, true] {
            let shape = Shape { packed, in_order, event_idx, indirect: seed == 1, size };
            let mut pair = Pair::new(&ground, shape, number("VIRTIO_KIT_SEED").unwrap_or(seed as u64));
            while pair.reaped() < 140_000 {
                pair.step_onward();
            }
            pair.finish();
        }
    }
}

#[test]
fn split_indices_run_on_beyond_65536() {
    onward(false, false);
}

#[test]
fn split_indices_run_on_beyond_65536_in_order() {
    onward(false, true);
}

#[test]
fn packed_laps_run_on_beyond_65536_chains() {
    onward(true, false);
}

#[test]
fn packed_laps_run_on_beyond_65536_chains_in_order() {
    onward(true, true);
}
