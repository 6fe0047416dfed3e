//! What different queues' threads write is never on the same cache line, wherever users put their queues.

use std::sync::Arc;
use virtio_kit::driver::{QueueInterrupt, Virtqueue};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::ring::{device, driver};
use virtio_kit::{Apart, Arena, Chain, DmaBuf, device::Slots};

/// Processors fetch lines of 64 bytes in pairs.
const LINES: usize = 128;

/// Types that are whole lines share none with their neighbours, in an array as on a stack.
fn has_lines_of_its_own<T>() -> bool {
    align_of::<T>() >= LINES && size_of::<T>().is_multiple_of(LINES)
}

#[test]
fn queues_and_what_is_kept_for_each_queue_have_lines_of_their_own() {
    assert!(has_lines_of_its_own::<driver::Queue<Chain<DmaBuf>, u64>>());
    assert!(has_lines_of_its_own::<device::Queue>());
    assert!(has_lines_of_its_own::<Virtqueue<Chain<DmaBuf>, u64>>());
    assert!(has_lines_of_its_own::<QueueInterrupt>());
    assert!(has_lines_of_its_own::<Apart<u8>>());
    fn element<T>(_: fn() -> Arc<[T]>) -> bool {
        has_lines_of_its_own::<T>()
    }
    assert!(element(|| -> Slots { unreachable!() }));
}

#[test]
fn buffers_of_an_arena_share_no_line_with_each_other() {
    let arena = Arena::new(HeapMemory::new(1 << 16).unwrap()).unwrap();
    let mut lines = Vec::new();
    // Kept, so that none is used twice.
    let buffers: Vec<DmaBuf> = (1..200).map(|len| arena.alloc(len).unwrap()).collect();
    for buffer in &buffers {
        let start = buffer.device_addr().get();
        lines.extend(start / 64..(start + buffer.len() as u64).div_ceil(64));
    }
    lines.sort_unstable();
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1]));
}
