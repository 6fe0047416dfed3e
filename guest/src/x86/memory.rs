//! The heap.

use super::cpu;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};
use spin::Mutex;

/// A heap that handlers may use too: it is locked only with interrupts off.
struct Locked(Mutex<Heap<32>>);

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::empty()));

// SAFETY: the heap gives out blocks that suit their layout and overlap no other, under its lock.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _off = cpu::interrupts_off();
        self.0.lock().alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let _off = cpu::interrupts_off();
        // SAFETY: a block of this allocator, so not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: of this layout, by the caller's promise.
        #[allow(unused_unsafe, reason = "whether it is unsafe depends on the allocator's version")]
        unsafe {
            self.0.lock().dealloc(block, layout)
        }
    }
}

/// Gives memory to the heap.
///
/// # Safety
///
/// The memory must be nobody's, and mapped.
pub unsafe fn init(memory: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(memory.start, memory.len()) }
}
