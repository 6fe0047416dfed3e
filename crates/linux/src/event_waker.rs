//! Wakers that are events, for those who can only write to a descriptor: the kernel, for one.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use rustix::io::Errno;

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_it);

/// A waker that adds 1 to an event, an eventfd that does not block.
pub fn waker(event: Arc<OwnedFd>) -> Waker {
    // SAFETY: the functions of the table are given what they were made for, the pointer of an `Arc` that the
    // waker owns; they may be called from any thread.
    unsafe { Waker::from_raw(RawWaker::new(Arc::into_raw(event).cast(), &TABLE)) }
}

/// The event that a waker writes to, if it was made by [`waker`].
pub fn event_of(waker: &Waker) -> Option<BorrowedFd<'_>> {
    if !std::ptr::eq(waker.vtable(), &TABLE) {
        return None;
    }
    // SAFETY: with this table it was made above (or by somebody's unsafe code, that had to know what it needs): the
    // pointer is of an `Arc` that lives at least as long as the waker.
    let event: &OwnedFd = unsafe { &*waker.data().cast() };
    Some(event.as_fd())
}

/// The event behind the pointer, without taking it.
///
/// # Safety
///
/// The pointer must be that of a waker made here, which lives.
unsafe fn borrow(data: *const ()) -> ManuallyDrop<Arc<OwnedFd>> {
    // SAFETY: the caller's promise; not dropped, it stays the waker's.
    ManuallyDrop::new(unsafe { Arc::from_raw(data.cast()) })
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: called for a waker that lives.
    let event = Arc::clone(&*unsafe { borrow(data) });
    RawWaker::new(Arc::into_raw(event).cast(), &TABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: called for a waker that ends with this, and so may both be.
    unsafe {
        wake_by_ref(data);
        drop_it(data);
    }
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: called for a waker that lives.
    let event = unsafe { borrow(data) };
    // A full counter wakes as well; there is no other error that could be told to anybody.
    while rustix::io::write(&**event, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
}

unsafe fn drop_it(data: *const ()) {
    // SAFETY: called once for each waker.
    drop(unsafe { Arc::<OwnedFd>::from_raw(data.cast()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn count(event: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn each_wake_is_counted_and_the_event_is_known() {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let first = waker(event.clone());
        let second = first.clone();
        first.wake_by_ref();
        assert!(second.will_wake(&first));
        second.wake();
        std::thread::spawn(move || first.wake()).join().unwrap();
        assert_eq!(count(&event), 3);
        let third = waker(event.clone());
        let own = rustix::fs::fstat(&event).unwrap().st_ino;
        assert_eq!(rustix::fs::fstat(event_of(&third).unwrap()).unwrap().st_ino, own);
        drop(third);
        assert_eq!(Arc::strong_count(&event), 1);
        assert!(event_of(Waker::noop()).is_none());
    }
}
