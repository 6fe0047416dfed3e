//! What happens when a mapped file was cut short: the signal handler, and the list of mappings that it knows.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};

/// A mapping that the handler knows. Entries are never freed, only used again, so that the handler can walk the
/// list at any moment without a lock.
pub(super) struct Entry {
    start: AtomicUsize,
    /// 0 while the entry is free.
    len: AtomicUsize,
    page: AtomicUsize,
    hit: AtomicBool,
    next: AtomicPtr<Self>,
}

static FIRST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

/// Only for those who register and release.
static FREE: Mutex<Vec<&'static Entry>> = Mutex::new(Vec::new());

static HITS: AtomicU64 = AtomicU64::new(0);

/// How often any mapping was found to have been cut short.
pub(crate) fn hits() -> u64 {
    HITS.load(Relaxed)
}

impl Entry {
    pub(super) fn register(start: usize, len: usize, page: usize) -> &'static Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = free.pop().unwrap_or_else(|| {
            let next = AtomicPtr::new(FIRST.load(Relaxed));
            let (start, len, page) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
            let entry = Box::leak(Box::new(Self { start, len, page, hit: AtomicBool::new(false), next }));
            FIRST.store(entry, Release);
            entry
        });
        entry.hit.store(false, Relaxed);
        entry.start.store(start, Relaxed);
        entry.page.store(page, Relaxed);
        entry.len.store(len, Release);
        entry
    }

    /// Before it is unmapped. Nobody touches the mapping any more, so no fault of it is under way.
    pub(super) fn release(&'static self) {
        self.len.store(0, Release);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    pub(super) fn was_hit(&self) -> bool {
        self.hit.load(Acquire)
    }

    /// Puts zeros from the page of `addr` to the end of the mapping, if it is in it.
    fn repair(&self, addr: usize) -> bool {
        let len = self.len.load(Acquire);
        let (start, page) = (self.start.load(Relaxed), self.page.load(Relaxed));
        if addr.wrapping_sub(start) >= len {
            return false;
        }
        let from = addr & !(page - 1);
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: whole pages at the end of a mapping of this module's, which takes their place. Whoever has
        // pointers into it has pointers to memory that anybody may change at any time, and finds such there.
        let mapped = unsafe { libc::mmap(from as *mut _, start + len - from, access, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        self.hit.store(true, Release);
        HITS.fetch_add(1, AcqRel);
        true
    }
}

/// What handled SIGBUS before: Rust's own detection of stack overflows, or somebody else's.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Makes this process survive it if a file that it has mapped as a [`Mapping`](super::Mapping) is cut short.
///
/// Installs a handler of SIGBUS for the whole process, once. Faults elsewhere go to the handler that was there
/// before. Fails if the operating system refuses.
pub fn guard() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the call.
    let previous = Box::leak(Box::new(unsafe { previous.assume_init() }));
    // Before the handler, which reads it.
    PREVIOUS.store(previous, Release);
    // SAFETY: all zeros is an action without flags.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler does only what a handler may: atomics, mmap(2) and what the one before it does.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid one with SA_SIGINFO, and for SIGBUS it has an address.
    let addr = unsafe { (*info).si_addr() } as usize;
    // SAFETY: this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let mut at = FIRST.load(Acquire);
    // SAFETY: null or an entry, and these are never freed.
    while let Some(entry) = unsafe { at.as_ref() } {
        if entry.repair(addr) {
            // SAFETY: as above.
            unsafe { *libc::__errno_location() = errno };
            return;
        }
        at = entry.next.load(Relaxed);
    }
    pass_on(signal, info, context);
}

/// Leaves the signal to whoever handled it before; to the default action if nobody did, which the access, made
/// again, then meets.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: null or leaked, and written before the handler was installed.
    let previous = unsafe { PREVIOUS.load(Acquire).as_ref() };
    match previous {
        Some(action) if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN => {
            if action.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: with this flag the kernel was told that it is such a function.
                let handler: Handler = unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: without it, it is such a function.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal);
            }
        }
        _ => {
            // SAFETY: all zeros is the default action.
            let action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
            // SAFETY: a valid action. If it fails the access faults for ever, which it cannot.
            unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
        }
    }
}
