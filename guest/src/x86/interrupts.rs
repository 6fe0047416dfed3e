//! Interrupts and exceptions: their entry, and vectors for devices.

use super::{apic, cpu, time};
use alloc::sync::Arc;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// The timer of [`time`] has run out: whoever sleeps looks again.
pub const TIMER: u8 = 0x40;
/// Another CPU has news: whoever sleeps looks again.
pub const WAKE: u8 = 0x41;
/// What the local controller sends when it has nothing to say.
pub const SPURIOUS: u8 = 0xff;

const FIRST_DEVICE: u8 = 0x50;
const DEVICES: usize = 0x90;

/// Runs with interrupts off, in the middle of anything.
pub type Handler = Arc<dyn Fn() + Send + Sync>;

/// What devices' vectors run. Locked only with interrupts off.
static HANDLERS: [Mutex<Option<Handler>>; DEVICES] = [const { Mutex::new(None) }; DEVICES];

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Interrupts of devices so far, on all CPUs.
pub fn count() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// A vector that belongs to somebody. Dropped, it runs nothing any more.
pub struct Vector(u8);

impl Vector {
    /// Takes a free vector, and has it run `handler`. `None` if there is none left.
    pub fn new(handler: Handler) -> Option<Self> {
        let _off = cpu::interrupts_off();
        for (slot, number) in HANDLERS.iter().zip(FIRST_DEVICE..) {
            let mut slot = slot.lock();
            if slot.is_none() {
                *slot = Some(handler);
                return Some(Self(number));
            }
        }
        None
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.0
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let off = cpu::interrupts_off();
        let handler = HANDLERS[usize::from(self.0 - FIRST_DEVICE)].lock().take();
        drop(off);
        drop(handler);
    }
}

/// What `boot.s` leaves on the stack.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

#[unsafe(no_mangle)]
extern "C" fn guest_interrupt(frame: &Frame) {
    match frame.vector as u8 {
        SPURIOUS => {}
        TIMER | WAKE => apic::end_of_interrupt(),
        vector if vector >= FIRST_DEVICE && usize::from(vector - FIRST_DEVICE) < DEVICES => {
            TAKEN.fetch_add(1, Ordering::Relaxed);
            // Not run under the lock: it may well give its own vector up.
            let handler = HANDLERS[usize::from(vector - FIRST_DEVICE)].lock().clone();
            if let Some(handler) = handler {
                handler();
            }
            // Whoever waits for this may sleep on another CPU.
            time::wake_others();
            apic::end_of_interrupt();
        }
        vector => {
            let page_fault: u64;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, cr2", out(reg) page_fault, options(nomem, nostack)) };
            panic!(
                "exception {vector}, error {:#x}, at {:#x} (stack {:#x}, page fault {page_fault:#x}), CPU {}",
                frame.error,
                frame.rip,
                frame.rsp,
                cpu::current()
            );
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate(u64, u64);

impl Gate {
    const NONE: Self = Self(0, 0);

    /// A gate that turns interrupts off.
    fn new(target: u64, stack: u8) -> Self {
        let low = (target & 0xffff) | 0x08 << 16 | u64::from(stack) << 32 | 0x8e00 << 32;
        Self(low | (target >> 16 & 0xffff) << 48, target >> 32)
    }
}

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once, by the first CPU, before anyone reads it (`init`).
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::NONE; 256]));

unsafe extern "C" {
    static interrupt_entries: u8;
}

/// Loads the table of interrupts, on each CPU. They stay off.
///
/// # Safety
///
/// On number 0 first, and before any other CPU runs; after [`cpu::init`] on each.
pub unsafe fn init() {
    let table = TABLE.0.get().cast::<Gate>();
    if cpu::current() == 0 {
        for vector in 0..256usize {
            let stack = match vector {
                2 | 8 | 18 => cpu::STACK_FATAL,
                0..32 => cpu::STACK_EXCEPTION,
                _ => cpu::STACK_DEVICE,
            };
            // SAFETY: the first CPU is the only one yet, and the table has 256 gates.
            unsafe {
                table
                    .add(vector)
                    .write(Gate::new(&raw const interrupt_entries as u64 + vector as u64 * 16, stack));
            }
        }
    }
    let pointer = cpu::TablePointer { limit: 256 * 16 - 1, base: table as u64 };
    // SAFETY: all gates lead to code for interrupts, on stacks that this CPU has.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };
}
