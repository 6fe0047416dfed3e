//! Private storage of a device queue.

use super::chain::{Segment, SlotCell};
use crate::store::Store;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Slots for chains in flight, each with space for its segments.
pub struct Storage {
    pub(super) slots: Store<SlotCell>,
    pub(super) order: Store<u16>,
    pub(super) segments: Store<MaybeUninit<Segment>>,
    /// Segments of a slot.
    pub(super) limit: u16,
}

impl Storage {
    /// Storage on the heap for a queue of `size` descriptors whose chains have at most `segments` segments.
    #[cfg(feature = "alloc")]
    pub fn boxed(size: u16, segments: u16) -> Self {
        let all = Store::boxed(usize::from(size) * usize::from(segments), |_| MaybeUninit::uninit());
        Self::over(all, segments, |make| Store::boxed(size.into(), make), Store::boxed(size.into(), |_| 0))
    }

    /// `all` must have `limit` elements for each slot.
    fn over(
        mut all: Store<MaybeUninit<Segment>>,
        limit: u16,
        slots: impl FnOnce(&mut dyn FnMut(usize) -> SlotCell) -> Store<SlotCell>,
        order: Store<u16>,
    ) -> Self {
        let first = NonNull::from(&mut *all).cast::<MaybeUninit<Segment>>();
        // SAFETY: slot `i` has its own `limit` elements of the store, which is as long as all slots need.
        let slots = slots(&mut |i| SlotCell::new(unsafe { first.add(i * usize::from(limit)) }));
        Self { slots, order, segments: all, limit }
    }
}

/// Donated storage of a device queue, to be put into a static: for up to `SIZE` descriptors, with `SEGMENTS`
/// segments a chain.
pub struct StaticStorage<const SIZE: usize, const SEGMENTS: usize> {
    slots: [MaybeUninit<SlotCell>; SIZE],
    order: [MaybeUninit<u16>; SIZE],
    segments: [[MaybeUninit<MaybeUninit<Segment>>; SEGMENTS]; SIZE],
}

impl<const SIZE: usize, const SEGMENTS: usize> StaticStorage<SIZE, SEGMENTS> {
    /// Uninitialised storage.
    pub const fn new() -> Self {
        const { assert!(SEGMENTS <= u16::MAX as usize, "a chain has at most 65535 segments") };
        Self {
            slots: [const { MaybeUninit::uninit() }; SIZE],
            order: [const { MaybeUninit::uninit() }; SIZE],
            segments: [const { [const { MaybeUninit::uninit() }; SEGMENTS] }; SIZE],
        }
    }

    /// Donates the storage to a queue.
    pub fn donate(&'static mut self) -> Storage {
        let all = Store::in_static(self.segments.as_flattened_mut(), |_| MaybeUninit::uninit());
        let order = Store::in_static(&mut self.order, |_| 0);
        Storage::over(all, SEGMENTS as u16, |make| Store::in_static(&mut self.slots, make), order)
    }
}

impl<const SIZE: usize, const SEGMENTS: usize> Default for StaticStorage<SIZE, SEGMENTS> {
    fn default() -> Self {
        Self::new()
    }
}
