//! Interrupt controllers: the local one of each CPU, and those of devices' lines.

use super::interrupts::SPURIOUS;
use super::{cpu, paging, port};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use spin::Mutex;

const APIC_BASE_MSR: u32 = 0x1b;

/// Registers of the local controller.
mod local {
    pub(super) const ID: usize = 0x20;
    pub(super) const TASK_PRIORITY: usize = 0x80;
    pub(super) const END_OF_INTERRUPT: usize = 0xb0;
    pub(super) const SPURIOUS: usize = 0xf0;
    pub(super) const COMMAND: usize = 0x300;
    pub(super) const COMMAND_TARGET: usize = 0x310;
    pub(super) const TIMER: usize = 0x320;
    pub(super) const TIMER_START: usize = 0x380;
    pub(super) const TIMER_NOW: usize = 0x390;
    pub(super) const TIMER_DIVIDER: usize = 0x3e0;
}

static BASE: AtomicUsize = AtomicUsize::new(0);
/// The controllers' numbers, by CPU.
static IDS: [AtomicU32; cpu::MAX] = [const { AtomicU32::new(0) }; cpu::MAX];

fn read(register: usize) -> u32 {
    // SAFETY: a register of the controller, which `init` located and paging maps.
    unsafe { paging::read32(BASE.load(Ordering::Relaxed) + register) }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above; no register used here makes the controller touch memory.
    unsafe { paging::write32(BASE.load(Ordering::Relaxed) + register, value) }
}

/// Turns the local controller of this CPU on, and the old ones off.
pub fn init() {
    // SAFETY: the masks of the old controllers.
    unsafe {
        port::write8(0x21, 0xff);
        port::write8(0xa1, 0xff);
    }
    // SAFETY: every x86_64 has it.
    let base = unsafe { cpu::read_msr(APIC_BASE_MSR) };
    assert!(base & 3 << 10 == 2 << 10, "the local APIC is not in its first mode");
    BASE.store((base & 0xf_ffff_f000) as usize, Ordering::Relaxed);
    write(local::TASK_PRIORITY, 0);
    write(local::SPURIOUS, 0x100 | u32::from(SPURIOUS));
    write(local::TIMER_DIVIDER, 0xb); // by 1
    IDS[cpu::current()].store(read(local::ID) >> 24, Ordering::Relaxed);
}

/// The number of a CPU's controller.
pub fn id(cpu: usize) -> u32 {
    IDS[cpu].load(Ordering::Relaxed)
}

/// Tells the controller that the handler is at its end.
pub fn end_of_interrupt() {
    write(local::END_OF_INTERRUPT, 0);
}

/// Starts this CPU's timer: `ticks` from now it interrupts once, by `vector`.
pub fn start_timer(vector: u8, ticks: u32) {
    write(local::TIMER, vector.into());
    write(local::TIMER_START, ticks);
}

/// Starts this CPU's timer without an interrupt, for measuring.
pub fn start_timer_masked(ticks: u32) {
    write(local::TIMER, 1 << 16);
    write(local::TIMER_START, ticks);
}

/// What is left of the timer.
pub fn timer_now() -> u32 {
    read(local::TIMER_NOW)
}

/// Sends an interrupt, or a command to start, to the CPU whose controller has this number.
pub fn send(id: u32, command: u32) {
    let _off = cpu::interrupts_off();
    write(local::COMMAND_TARGET, id << 24);
    write(local::COMMAND, command);
    while read(local::COMMAND) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
}

/// Address and data by which a message interrupts a CPU.
pub fn message(cpu: usize, vector: u8) -> (u64, u32) {
    (0xfee0_0000 | u64::from(id(cpu)) << 12, vector.into())
}

/// A controller of interrupt lines.
pub struct IoApic {
    base: usize,
    first: u32,
}

/// Two accesses make one; one lock is enough for all of them.
static SELECT: Mutex<()> = Mutex::new(());

impl IoApic {
    /// The controller at an address, whose first line has number `first`.
    ///
    /// # Safety
    ///
    /// There must be one.
    pub unsafe fn new(base: u32, first: u32) -> Self {
        Self { base: base as usize, first }
    }

    fn access(&self, register: u32, value: Option<u32>) -> u32 {
        let _off = cpu::interrupts_off();
        let _lock = SELECT.lock();
        // SAFETY: registers of a controller, by the contract of `new`.
        unsafe {
            paging::write32(self.base, register);
            match value {
                Some(value) => {
                    paging::write32(self.base + 0x10, value);
                    value
                }
                None => paging::read32(self.base + 0x10),
            }
        }
    }

    /// Whether a line ends here.
    pub fn has(&self, line: u32) -> bool {
        let count = (self.access(1, None) >> 16 & 0xff) + 1;
        line.checked_sub(self.first).is_some_and(|n| n < count)
    }

    /// Sends a line to a CPU: active high, for as long as it is high.
    pub fn route(&self, line: u32, vector: u8, cpu: usize) {
        let register = 0x10 + 2 * (line - self.first);
        self.access(register + 1, Some(id(cpu) << 24));
        self.access(register, Some(u32::from(vector) | 1 << 15));
    }

    /// Stops a line.
    pub fn mask(&self, line: u32) {
        self.access(0x10 + 2 * (line - self.first), Some(1 << 16));
    }
}
