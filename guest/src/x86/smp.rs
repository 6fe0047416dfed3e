//! The other CPUs, and work for them.

use super::{acpi::Tables, apic, cpu, interrupts, time};
use alloc::alloc::{Layout, alloc, handle_alloc_error};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use spin::Mutex;

/// Where another CPU begins, as in `smp.s`.
const PAGE: usize = 0x8000;
const STACK: usize = 128 << 10;
const INIT: u32 = 0x4500;
const START: u32 = 0x4600 | (PAGE >> 12) as u32;
const LIMIT: Duration = Duration::from_secs(10);

unsafe extern "C" {
    static ap_code: u8;
    static ap_code_end: u8;
    static ap_stack: AtomicU64;
}

type Job = Box<dyn FnOnce() + Send>;

/// CPUs that run. One that starts reads its number here.
static RUNNING: AtomicUsize = AtomicUsize::new(1);
static JOBS: [Mutex<Option<Job>>; cpu::MAX] = [const { Mutex::new(None) }; cpu::MAX];

/// CPUs that run.
pub fn count() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// Starts all CPUs that ACPI names; how many run then.
///
/// # Safety
///
/// To be called once, by the first CPU; nobody may use the page at 0x8000.
pub unsafe fn start(tables: &Tables) -> usize {
    let (begin, end) = (&raw const ap_code, &raw const ap_code_end);
    // SAFETY: the page is free, by the caller's promise, and the code is shorter.
    unsafe { ptr::copy_nonoverlapping(begin, PAGE as *mut u8, end as usize - begin as usize) };
    for id in tables.cpus().filter(|&id| id != apic::id(0)) {
        let running = count();
        if running == cpu::MAX {
            break;
        }
        let layout = Layout::from_size_align(STACK, 16).expect("a layout");
        // SAFETY: the layout is not empty.
        let stack = unsafe { alloc(layout) };
        if stack.is_null() {
            handle_alloc_error(layout);
        }
        let top = stack as u64 + STACK as u64;
        assert!(top < 1 << 32, "a stack that 32-bit code cannot load");
        // SAFETY: an aligned word; other CPUs read it only after they were started.
        unsafe { ap_stack.store(top, Ordering::Release) };
        apic::send(id, INIT);
        time::spin(Duration::from_millis(1));
        apic::send(id, START);
        let runs = || time::sleep_until(time::now() + Duration::from_millis(20), || count() > running);
        if !runs() {
            // The second that the manuals ask for; one that runs takes no notice.
            apic::send(id, START);
            let deadline = time::now() + LIMIT;
            assert!(time::sleep_until(deadline, || count() > running), "CPU {running} does not start");
        }
    }
    count()
}

#[unsafe(no_mangle)]
extern "C" fn guest_ap_start() -> ! {
    // One is started at a time.
    let me = RUNNING.load(Ordering::Acquire);
    // SAFETY: the first thing on this CPU, long after the first CPU did the same.
    unsafe {
        cpu::init(me);
        interrupts::init();
    }
    apic::init();
    cpu::interrupts_on();
    RUNNING.store(me + 1, Ordering::Release);
    time::wake_others();
    loop {
        let mut job = None;
        time::sleep_until(Duration::MAX, || {
            job = JOBS[me].lock().take();
            job.is_some()
        });
        if let Some(job) = job {
            job();
            time::wake_others();
        }
    }
}

/// Work on another CPU, whose result is to be fetched.
pub struct Task<R>(Arc<Mutex<Option<R>>>);

/// Has CPU `n`, which must be idle, do some work. Number 0 does it at once, in the middle of what it does.
pub fn run_on<R: Send + 'static>(n: usize, work: impl FnOnce() -> R + Send + 'static) -> Task<R> {
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    let job = move || {
        let value = work();
        *place.lock() = Some(value);
    };
    if n == cpu::current() {
        job();
    } else {
        let _off = cpu::interrupts_off();
        let before = JOBS[n].lock().replace(Box::new(job));
        assert!(before.is_none(), "CPU {n} has work already");
        time::wake_others();
    }
    Task(result)
}

impl<R> Task<R> {
    /// Waits for the result. `None` if it does not come within the limit.
    pub fn join(self, limit: Duration) -> Option<R> {
        let mut result = None;
        time::sleep_until(time::now().saturating_add(limit), || {
            result = self.0.lock().take();
            result.is_some()
        });
        result
    }
}
