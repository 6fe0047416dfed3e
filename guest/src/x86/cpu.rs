//! Each CPU's segments and stacks; interrupts on and off.

use core::arch::asm;
use core::cell::UnsafeCell;

/// Most CPUs that are used.
pub const MAX: usize = 8;

/// Selector of the first CPU's task state; each further one's is 16 bytes on.
const FIRST_TASK: u16 = 0x18;

/// Interrupts of devices and timers use this stack. Every gate must name one: see `boot.s`.
pub const STACK_DEVICE: u8 = 1;
/// Exceptions need another, or one inside a handler would overwrite the handler's frame.
pub const STACK_EXCEPTION: u8 = 2;
/// What may come at any time: double faults, NMIs, machine checks.
pub const STACK_FATAL: u8 = 3;

const STACK: usize = 32 << 10;

/// The structure in which a CPU looks its stacks up.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct TaskState {
    _reserved0: u32,
    stacks: [u64; 3],
    _reserved1: u64,
    interrupt_stacks: [u64; 7],
    _reserved2: u64,
    _reserved3: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<TaskState>() == 104);

#[repr(C, align(16))]
struct Stack([u8; STACK]);

struct Tables {
    /// Nothing, code, data, and a descriptor of two words for each CPU's task state.
    descriptors: [u64; 3 + 2 * MAX],
    tasks: [TaskState; MAX],
    stacks: [[Stack; 3]; MAX],
}

struct Shared(UnsafeCell<Tables>);

// SAFETY: each CPU writes only its own parts, once, before interrupts are on (`init`).
unsafe impl Sync for Shared {}

const NO_TASK: TaskState = TaskState {
    _reserved0: 0,
    stacks: [0; 3],
    _reserved1: 0,
    interrupt_stacks: [0; 7],
    _reserved2: 0,
    _reserved3: 0,
    io_map: 104,
};

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    descriptors: [0; 3 + 2 * MAX],
    tasks: [NO_TASK; MAX],
    stacks: [const { [const { Stack([0; STACK]) }; 3] }; MAX],
}));

/// What `lgdt` and `lidt` take.
#[repr(C, packed)]
pub struct TablePointer {
    pub limit: u16,
    pub base: u64,
}

/// Loads the segments and stacks of CPU `index`.
///
/// # Safety
///
/// To be called once for each index, on that CPU, with interrupts off; for number 0 first.
pub unsafe fn init(index: usize) {
    assert!(index < MAX, "CPU {index} is one too many");
    let tables = TABLES.0.get();
    let selector = FIRST_TASK + 16 * index as u16;
    // SAFETY: nobody else uses this CPU's parts, by the caller's promise, and no reference to the tables is made.
    // The new code and data segments are those that the CPU runs with already.
    unsafe {
        let task = &raw mut (*tables).tasks[index];
        for slot in 0..3 {
            // Where a stack begins, which is at its end.
            (*task).interrupt_stacks[slot] = (&raw mut (*tables).stacks[index][slot]).add(1) as u64;
        }
        let descriptors = (&raw mut (*tables).descriptors).cast::<u64>();
        if index == 0 {
            descriptors.add(1).write(0x00af_9b00_0000_ffff);
            descriptors.add(2).write(0x00cf_9300_0000_ffff);
        }
        let (low, high) = task_descriptor(task as u64);
        descriptors.add(usize::from(selector) / 8).write(low);
        descriptors.add(usize::from(selector) / 8 + 1).write(high);
        let limit = size_of::<[u64; 3 + 2 * MAX]>() as u16 - 1;
        let pointer = TablePointer { limit, base: descriptors as u64 };
        asm!("lgdt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags));
        asm!("ltr {0:x}", in(reg) selector, options(nostack, preserves_flags));
    }
}

fn task_descriptor(at: u64) -> (u64, u64) {
    let limit = size_of::<TaskState>() as u64 - 1;
    (limit | (at & 0xff_ffff) << 16 | 0x89 << 40 | (at >> 24 & 0xff) << 56, at >> 32)
}

/// Number of the CPU that asks.
pub fn current() -> usize {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    usize::from(selector.saturating_sub(FIRST_TASK) / 16)
}

const INTERRUPT_FLAG: u64 = 1 << 9;

/// Interrupts are off while this lives, and then as they were.
pub struct InterruptsOff {
    were_on: bool,
    /// It belongs to the CPU that made it.
    _here: core::marker::PhantomData<*const ()>,
}

/// Turns interrupts off.
#[must_use = "they are on again when the value is dropped"]
pub fn interrupts_off() -> InterruptsOff {
    let flags: u64;
    // SAFETY: reads the flags, and turns interrupts off, which is always allowed. Not `nomem`: what is inside must
    // stay inside.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    InterruptsOff { were_on: flags & INTERRUPT_FLAG != 0, _here: core::marker::PhantomData }
}

impl Drop for InterruptsOff {
    fn drop(&mut self) {
        if self.were_on {
            interrupts_on();
        }
    }
}

impl InterruptsOff {
    /// Turns interrupts on, and sleeps until there was one; no interrupt fits between the two. Off again afterwards.
    pub fn sleep(&self) {
        // SAFETY: whoever holds the value has interrupts off, and gets them off again.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    }
}

/// Turns interrupts on, for the first time.
pub fn interrupts_on() {
    // SAFETY: the tables that interrupts need are loaded first thing on each CPU.
    unsafe { asm!("sti", options(nostack)) };
}

/// Sleeps with interrupts off.
pub fn halt_for_good() {
    // SAFETY: nothing happens any more.
    unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
}

/// The CPU's time stamp counter.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: every x86_64 has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The CPU must have it.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}
