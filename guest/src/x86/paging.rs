//! Device memory: mapping it, and registers in it.

use super::cpu;
use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::arch::asm;
use core::cell::UnsafeCell;
use spin::Mutex;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const UNCACHED: u64 = 0x18;
const LARGE: u64 = 0x80;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE_PAGE: u64 = 2 << 20;

unsafe extern "C" {
    static boot_pml4: Table;
}

/// Who changes the tables.
static CHANGING: Mutex<()> = Mutex::new(());

/// The table that an entry leads to, made if there is none.
///
/// # Safety
///
/// `entry` must be one of the tables' own above the last level, and `CHANGING` held.
unsafe fn below(entry: *mut u64) -> *mut u64 {
    // SAFETY: the caller's promise. Entries lead to tables at addresses that map to themselves.
    unsafe {
        if *entry & PRESENT == 0 {
            let layout = Layout::new::<Table>();
            let table = alloc_zeroed(layout);
            if table.is_null() {
                handle_alloc_error(layout);
            }
            *entry = table as u64 | PRESENT | WRITE;
        }
        (*entry & ADDRESS) as *mut u64
    }
}

/// Maps device memory to its own address. Below 4 GiB everything is mapped from the start.
///
/// # Safety
///
/// The memory must be a device's.
pub unsafe fn map(address: u64, len: u64) {
    let end = address + len;
    assert!(end <= 1 << 47, "device memory at {address:#x}");
    let _off = cpu::interrupts_off();
    let _lock = CHANGING.lock();
    let mut page = (address & !(LARGE_PAGE - 1)).max(1 << 32);
    while page < end {
        let index = |shift: u32| (page >> shift) as usize & 511;
        // SAFETY: entries of the tables in use. New pages take nothing away from anybody.
        unsafe {
            let directories = below(boot_pml4.0.get().cast::<u64>().add(index(39)));
            let directory = below(directories.add(index(30)));
            *directory.add(index(21)) = page | PRESENT | WRITE | UNCACHED | LARGE;
            asm!("invlpg [{}]", in(reg) page, options(nostack, preserves_flags));
        }
        page += LARGE_PAGE;
    }
}

macro_rules! accesses {
    ($($read:ident, $write:ident, $type:ty, $class:ident, $form:literal);+ $(;)?) => {$(
        /// Reads a register by one access of this width, in the order of the program.
        ///
        /// # Safety
        ///
        /// A register of a device must be there.
        #[inline]
        pub unsafe fn $read(address: usize) -> $type {
            let value: $type;
            // SAFETY: the caller's promise. Assembly, so that it is this access and no other; and the compiler
            // moves no access to memory past it, since it may touch any.
            unsafe {
                asm!(concat!("mov {0", $form, "}, [{1}]"), out($class) value, in(reg) address,
                     options(nostack, preserves_flags))
            };
            value
        }

        /// Writes a register by one access of this width, in the order of the program.
        ///
        /// # Safety
        ///
        /// A register of a device must be there, and what it makes the device do must not break what Rust code
        /// relies on.
        #[inline]
        pub unsafe fn $write(address: usize, value: $type) {
            // SAFETY: as above.
            unsafe {
                asm!(concat!("mov [{1}], {0", $form, "}"), in($class) value, in(reg) address,
                     options(nostack, preserves_flags))
            };
        }
    )+};
}

accesses! {
    read8, write8, u8, reg_byte, "";
    read16, write16, u16, reg, ":x";
    read32, write32, u32, reg, ":e";
    read64, write64, u64, reg, ":r";
}
