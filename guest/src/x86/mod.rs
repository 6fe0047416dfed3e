//! The machine: what any small kernel for x86_64 has, and nothing of virtio.
//!
//! | module | what it holds |
//! |---|---|
//! | [`boot`] | what the loader tells (PVH) |
//! | [`memory`] | heap and memory functions |
//! | [`cpu`] | segments and stacks of each CPU, interrupts on and off |
//! | [`interrupts`] | entry of interrupts and exceptions, vectors given to devices |
//! | [`apic`] | local and I/O interrupt controllers |
//! | [`time`] | the clock, and sleeping until a deadline |
//! | [`smp`] | the other CPUs, and work for them |
//! | [`acpi`], [`paging`], [`port`], [`serial`] | tables, device memory, I/O ports, output |

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod cpu;
pub mod interrupts;
pub mod memory;
pub mod paging;
pub mod port;
pub mod serial;
pub mod smp;
pub mod time;

use core::arch::global_asm;

global_asm!(include_str!("boot.s"), options(att_syntax));
global_asm!(include_str!("memory.s"), options(att_syntax));
global_asm!(include_str!("smp.s"), options(att_syntax));

/// Ends QEMU through its device `isa-debug-exit` at port 0xf4, with status `2 * code + 1`.
pub fn exit(code: u8) -> ! {
    // SAFETY: the port is of a device that ends the machine, or of none.
    unsafe { port::write32(0xf4, code.into()) };
    // QEMU stops a little later.
    loop {
        cpu::halt_for_good();
    }
}
