//! What the loader tells: the start info of PVH.

use core::ffi::CStr;
use core::ops::Range;
use core::slice;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_len: u32,
    _reserved: u32,
}

#[repr(C)]
struct Module {
    start: u64,
    len: u64,
    command_line: u64,
    _reserved: u64,
}

#[repr(C)]
struct Range64 {
    start: u64,
    len: u64,
    kind: u32,
    _reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<Range64>() == 24);

unsafe extern "C" {
    static __image_end: u8;
}

/// What the loader told.
#[derive(Clone, Copy)]
pub struct BootInfo(&'static StartInfo);

impl BootInfo {
    /// # Safety
    ///
    /// `address` must be the start info that the loader passed, and neither it nor what it points to may be written
    /// to any more.
    pub unsafe fn new(address: usize) -> Self {
        // SAFETY: the caller's promise.
        let info = unsafe { &*(address as *const StartInfo) };
        assert!(
            info.magic == MAGIC && info.version >= 1,
            "the loader gave no PVH start info with a memory map"
        );
        Self(info)
    }

    /// The command line.
    pub fn command_line(self) -> &'static str {
        if self.0.command_line == 0 {
            return "";
        }
        // SAFETY: a string that ends with 0, by the contract of `new`.
        let text = unsafe { CStr::from_ptr(self.0.command_line as *const _) };
        text.to_str().unwrap_or("")
    }

    /// The value of `NAME=VALUE` on the command line.
    pub fn argument(self, name: &str) -> Option<&'static str> {
        self.command_line().split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Address of ACPI's root pointer, 0 if there is none.
    pub fn rsdp(self) -> u64 {
        self.0.rsdp
    }

    fn modules(self) -> &'static [Module] {
        match self.0.module_count {
            0 => &[],
            // SAFETY: an array of that length, by the contract of `new`.
            count => unsafe { slice::from_raw_parts(self.0.modules as *const Module, count as usize) },
        }
    }

    fn memory_map(self) -> &'static [Range64] {
        match self.0.memory_map_len {
            0 => &[],
            // SAFETY: an array of that length, by the contract of `new`.
            len => unsafe { slice::from_raw_parts(self.0.memory_map as *const Range64, len as usize) },
        }
    }

    /// Memory that belongs to nobody: from the end of the image to the end of the memory that it lies in, or to what
    /// the loader put there. The loader's own tables lie below 1 MiB.
    pub fn free_memory(self) -> Range<usize> {
        let start = &raw const __image_end as u64;
        let inside = |r: &&Range64| r.kind == RAM && r.start <= start && start < r.start + r.len;
        let all = self.memory_map().iter().find(inside).expect("the image is in no memory");
        let modules = self.modules().iter().map(|m| m.start).filter(|&at| at >= start);
        let end = modules.fold(all.start + all.len, u64::min);
        start as usize..end as usize
    }
}
