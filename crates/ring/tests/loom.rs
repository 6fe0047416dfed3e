//! A model of the notification primitive in which every execution is tried: `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU16, Ordering::*, fence};
use virtio_kit_ring::notify::{FullFence, need_event, publish_then_look};

struct LoomFence;

impl FullFence for LoomFence {
    fn full(&self) {
        fence(SeqCst);
    }
}

/// No fence at all: the mutant.
struct NoFence;

impl FullFence for NoFence {
    fn full(&self) {}
}

/// The shared words of one direction of a ring, with flags.
#[derive(Default)]
struct Flags {
    index: AtomicU16,
    /// Set when the consumer wants no notification.
    quiet: AtomicBool,
    data: AtomicU16,
}

/// One side publishes while the other goes to sleep.
fn with_flags<F: FullFence + Send + Sync + 'static>(fence: fn() -> F) {
    let ring = Arc::new(Flags::default());
    ring.quiet.store(true, Relaxed);
    let theirs = ring.clone();
    let producer = loom::thread::spawn(move || {
        theirs.data.store(7, Relaxed);
        publish_then_look(&fence(), || theirs.index.store(1, Release), || !theirs.quiet.load(Relaxed))
    });
    let waiting =
        publish_then_look(&fence(), || ring.quiet.store(false, Relaxed), || ring.index.load(Acquire) == 1);
    if waiting {
        assert_eq!(ring.data.load(Relaxed), 7, "what was announced is not visible");
    }
    let notified = producer.join().unwrap();
    assert!(waiting || notified, "a wake-up was lost");
}

/// The same with an event index, over a batch of two that is published one by one.
fn with_event_index<F: FullFence + Send + Sync + 'static>(fence: fn() -> F) {
    let index = Arc::new(AtomicU16::new(0));
    // An index that was passed long ago: no notification.
    let event = Arc::new(AtomicU16::new(u16::MAX));
    let (their_index, their_event) = (index.clone(), event.clone());
    let producer = loom::thread::spawn(move || {
        let mut notified = false;
        for new in 1..=2u16 {
            notified |= publish_then_look(
                &fence(),
                || their_index.store(new, Release),
                || need_event(their_event.load(Relaxed), new, new - 1),
            );
        }
        notified
    });
    // Takes what is there, then asks to be told of the next, and looks again.
    let mut taken = 0;
    let mut asleep = false;
    for _ in 0..3 {
        let seen = publish_then_look(&fence(), || event.store(taken, Relaxed), || index.load(Acquire));
        if seen == taken {
            asleep = true;
            break;
        }
        taken = seen;
    }
    let notified = producer.join().unwrap();
    assert!(!asleep || taken == 2 || notified, "a wake-up was lost");
}

fn caught(model: fn()) -> bool {
    std::panic::catch_unwind(|| loom::model(model)).is_err()
}

#[test]
fn no_wakeup_is_lost_with_flags_in_any_execution() {
    loom::model(|| with_flags(|| LoomFence));
}

#[test]
fn no_wakeup_is_lost_with_an_event_index_in_any_execution() {
    loom::model(|| with_event_index(|| LoomFence));
}

#[test]
fn the_mutant_without_the_fence_loses_a_wakeup_with_flags() {
    assert!(caught(|| with_flags(|| NoFence)));
}

#[test]
fn the_mutant_without_the_fence_loses_a_wakeup_with_an_event_index() {
    assert!(caught(|| with_event_index(|| NoFence)));
}
