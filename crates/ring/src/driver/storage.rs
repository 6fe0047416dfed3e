//! Private storage of a queue.

use super::ring::Meta;
use crate::store::Store;
use core::mem::MaybeUninit;

/// Private storage of a queue, of at least as many elements as the queue's size each.
pub struct Storage<C, T> {
    pub(super) metas: Store<Meta>,
    pub(super) links: Store<u16>,
    pub(super) payloads: Store<MaybeUninit<Payload<C, T>>>,
}

/// A chain in flight with its token.
pub(super) struct Payload<C, T> {
    pub(super) chain: C,
    pub(super) token: T,
}

#[cfg(feature = "alloc")]
impl<C, T> Storage<C, T> {
    /// Storage on the heap.
    pub fn boxed(size: u16) -> Self {
        let size = usize::from(size);
        Self {
            metas: Store::boxed(size, |_| Meta::default()),
            links: Store::boxed(size, |_| 0),
            payloads: Store::boxed(size, |_| MaybeUninit::uninit()),
        }
    }
}

/// Donated storage of a queue, to be put into a static.
pub struct StaticStorage<C, T, const N: usize> {
    metas: [MaybeUninit<Meta>; N],
    links: [MaybeUninit<u16>; N],
    payloads: [MaybeUninit<MaybeUninit<Payload<C, T>>>; N],
}

impl<C, T, const N: usize> StaticStorage<C, T, N> {
    /// Uninitialised storage.
    pub const fn new() -> Self {
        Self {
            metas: [const { MaybeUninit::uninit() }; N],
            links: [const { MaybeUninit::uninit() }; N],
            payloads: [const { MaybeUninit::uninit() }; N],
        }
    }

    /// Donates the storage to a queue.
    pub fn donate(&'static mut self) -> Storage<C, T> {
        Storage {
            metas: Store::in_static(&mut self.metas, |_| Meta::default()),
            links: Store::in_static(&mut self.links, |_| 0),
            payloads: Store::in_static(&mut self.payloads, |_| MaybeUninit::uninit()),
        }
    }
}

impl<C, T, const N: usize> Default for StaticStorage<C, T, N> {
    fn default() -> Self {
        Self::new()
    }
}
