//! Private storage of a queue: slots, links and tables that the other end can never reach.

use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A fixed-length array that is either on the heap or donated as a static slice.
///
/// Queues and arenas take all the storage that they will ever use as `Store`s when they are made, so that
/// no operation on them allocates, and so that they work where there is no heap.
pub struct Store<T> {
    ptr: NonNull<T>,
    len: usize,
    #[cfg_attr(not(feature = "alloc"), allow(dead_code))]
    boxed: bool,
}

// SAFETY: a `Store` owns its elements exclusively, as a `Box<[T]>` does.
unsafe impl<T: Send> Send for Store<T> {}
// SAFETY: shared access to a `Store` gives shared access to its elements and nothing more.
unsafe impl<T: Sync> Sync for Store<T> {}

impl<T> Store<T> {
    /// Allocates `len` elements, made by `make` from their index.
    #[cfg(feature = "alloc")]
    pub fn boxed(len: usize, make: impl FnMut(usize) -> T) -> Self {
        let elements: alloc::boxed::Box<[T]> = (0..len).map(make).collect();
        let ptr = NonNull::from(alloc::boxed::Box::leak(elements)).cast();
        Self { ptr, len, boxed: true }
    }

    /// Fills donated memory with elements, made by `make` from their index.
    ///
    /// The memory is never given back: elements are dropped with the store, the slice is not.
    pub fn in_static(memory: &'static mut [MaybeUninit<T>], mut make: impl FnMut(usize) -> T) -> Self {
        for (i, element) in memory.iter_mut().enumerate() {
            element.write(make(i));
        }
        Self { ptr: NonNull::from(&mut *memory).cast(), len: memory.len(), boxed: false }
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        let elements = NonNull::slice_from_raw_parts(self.ptr, self.len).as_ptr();
        #[cfg(feature = "alloc")]
        if self.boxed {
            // SAFETY: `boxed` made the pointer by leaking a box of this length, and nothing else frees it.
            drop(unsafe { alloc::boxed::Box::from_raw(elements) });
            return;
        }
        // SAFETY: `in_static` initialised all elements, and they are not used after this.
        unsafe { elements.drop_in_place() }
    }
}

impl<T> Deref for Store<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` points to `len` initialised elements that this store owns.
        unsafe { NonNull::slice_from_raw_parts(self.ptr, self.len).as_ref() }
    }
}

impl<T> DerefMut for Store<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` makes the access exclusive.
        unsafe { NonNull::slice_from_raw_parts(self.ptr, self.len).as_mut() }
    }
}

impl<T> core::fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Store(len {})", self.len)
    }
}
