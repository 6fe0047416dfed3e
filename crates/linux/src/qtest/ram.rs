//! The machine's memory, mapped here.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::DmaMemory;

/// Where the words that interrupts write begin: above the first MiB, which is not all memory on a PC.
const WORDS: u64 = 1 << 20;
/// Where the arena begins.
const ARENA: u64 = 4 << 20;

/// All of the machine's memory.
pub(super) struct Ram {
    file: File,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Ram {}
// SAFETY: access is by atomic words, and by the one arena.
unsafe impl Sync for Ram {}

impl Ram {
    /// How many words there are for interrupts.
    pub(super) const WORDS: usize = (ARENA - WORDS) as usize / 4;

    pub(super) fn new(len: usize) -> Result<Self, Errno> {
        if (len as u64) < 2 * ARENA {
            return Err(Errno::INVAL);
        }
        let fd = memfd_create(c"virtio-kit-qtest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        // So that access never faults, whatever QEMU does.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, which nothing else refers to.
        let base = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, &fd, 0) }?;
        Ok(Self { file: fd.into(), base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A path by which other processes of this user can open it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Address of the word of interrupts number `n` for the machine.
    pub(super) fn word_address(n: usize) -> u64 {
        WORDS + 4 * n as u64
    }

    /// The word of interrupts number `n`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub(super) fn word(&self, n: usize) -> &AtomicU32 {
        let address = Self::word_address(n);
        assert!(address + 4 <= ARENA, "no word {n}");
        // SAFETY: aligned, inside the mapping and below the arena, and only ever accessed as an atomic word.
        unsafe { self.base.add(address as usize).cast().as_ref() }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; everyone who used it held a reference to this value.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// What drivers may use of it.
pub(super) struct ArenaMemory {
    ram: Arc<Ram>,
    domain: Domain,
}

impl ArenaMemory {
    /// Gives the part of the memory that is for drivers away. To be called once for each `Ram`.
    pub(super) fn of(ram: &Arc<Ram>) -> Self {
        Self { ram: ram.clone(), domain: Domain::new() }
    }
}

// SAFETY: mapped while `ram` is held, and nothing else in this process touches it (`word` is bounded). The
// machine sees its memory from address 0 on, and below 2 GiB in one piece. What is dropped is only this
// process's mapping: QEMU's is its own.
unsafe impl DmaMemory for ArenaMemory {
    fn base(&self) -> NonNull<u8> {
        // SAFETY: `new` refused anything shorter.
        unsafe { self.ram.base.add(ARENA as usize) }
    }
    fn len(&self) -> usize {
        self.ram.len - ARENA as usize
    }
    fn device_base(&self) -> u64 {
        ARENA
    }
    fn domain(&self) -> Domain {
        self.domain
    }
}
