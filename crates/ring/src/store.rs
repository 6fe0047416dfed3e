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
    /// On the heap: how many.
    #[cfg_attr(not(feature = "alloc"), allow(dead_code))]
    lines: Option<usize>,
}

/// As many cache lines as processors fetch at once.
#[cfg(feature = "alloc")]
#[repr(align(128))]
struct Line(#[allow(dead_code, reason = "space")] [u8; 128]);

// SAFETY: a `Store` owns its elements exclusively, as a `Box<[T]>` does.
unsafe impl<T: Send> Send for Store<T> {}
// SAFETY: shared access to a `Store` gives shared access to its elements and nothing more.
unsafe impl<T: Sync> Sync for Store<T> {}

impl<T> Store<T> {
    /// Allocates `len` elements, made by `make` from their index, on cache lines of their own: nothing else that is
    /// on the heap shares them.
    ///
    /// # Panics
    ///
    /// As a `Vec`, if that is more than there can be.
    #[cfg(feature = "alloc")]
    pub fn boxed(len: usize, make: impl FnMut(usize) -> T) -> Self {
        let lines = Self::layout(len).size() / size_of::<Line>();
        let memory: alloc::boxed::Box<[MaybeUninit<Line>]> = alloc::boxed::Box::new_uninit_slice(lines);
        let ptr = NonNull::from(alloc::boxed::Box::leak(memory)).cast::<T>();
        let mut store = Self { ptr, len: 0, lines: Some(lines) };
        for (i, element) in (0..len).map(make).enumerate() {
            // SAFETY: the lines have room for `len` elements. Should `make` panic, those that are there are dropped.
            unsafe { store.ptr.add(i).write(element) };
            store.len += 1;
        }
        store
    }

    /// Whole lines.
    #[cfg(feature = "alloc")]
    fn layout(len: usize) -> core::alloc::Layout {
        assert!(align_of::<T>() <= align_of::<Line>(), "elements fit into lines");
        let array = core::alloc::Layout::array::<T>(len);
        let whole = array.and_then(|array| array.align_to(align_of::<Line>()));
        whole.expect("a size that there can be").pad_to_align()
    }

    /// Fills donated memory with elements, made by `make` from their index.
    ///
    /// The memory is never given back: elements are dropped with the store, the slice is not.
    pub fn in_static(memory: &'static mut [MaybeUninit<T>], mut make: impl FnMut(usize) -> T) -> Self {
        for (i, element) in memory.iter_mut().enumerate() {
            element.write(make(i));
        }
        Self { ptr: NonNull::from(&mut *memory).cast(), len: memory.len(), lines: None }
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        let elements = NonNull::slice_from_raw_parts(self.ptr, self.len).as_ptr();
        // Freed also if an element panics.
        #[cfg(feature = "alloc")]
        let _memory = self.lines.map(|lines| {
            let memory = NonNull::slice_from_raw_parts(self.ptr.cast::<MaybeUninit<Line>>(), lines);
            // SAFETY: `boxed` made the pointer by leaking a box of so many lines, and nothing else frees it.
            unsafe { alloc::boxed::Box::from_raw(memory.as_ptr()) }
        });
        // SAFETY: all elements were initialised, and they are not used after this.
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

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    #[test]
    fn no_two_stores_on_the_heap_share_a_cache_line() {
        let stores: Vec<Store<u16>> = (0..50).map(|n| Store::boxed(n * 7, |i| i as u16)).collect();
        let mut lines = Vec::new();
        for (n, store) in stores.iter().enumerate() {
            assert!(
                store.iter().enumerate().all(|(i, &value)| usize::from(value) == i) && store.len() == n * 7
            );
            let range = store.as_ptr_range();
            if n > 0 {
                lines.extend(range.start.addr() / 128..range.end.addr().div_ceil(128));
            }
        }
        lines.sort_unstable();
        assert!(lines.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn elements_are_dropped_once_with_the_store() {
        let counted = Arc::new(());
        let store = Store::boxed(9, |_| counted.clone());
        assert_eq!(Arc::strong_count(&counted), 10);
        drop(store);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
