//! Memory that other processes can map: the driver's side of vhost-user.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use virtio_kit_ring::Domain;
use virtio_kit_ring::mem::DmaMemory;

/// Bytes that lengths are rounded up to.
const PAGE: usize = 4096;

/// A memory file, mapped shared and never to shrink or grow, that is the only memory of its domain.
///
/// Pages come into being, zeroed, when they are first touched.
pub struct MemfdMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
    domain: Domain,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for MemfdMemory {}
// SAFETY: no function gives access to the memory.
unsafe impl Sync for MemfdMemory {}

impl MemfdMemory {
    /// Where every such memory begins in its domain. Neither 0 nor where it is mapped: an address that a
    /// device does not translate, or translates as the wrong kind, must not work by luck.
    pub const DEVICE_BASE: u64 = 1 << 36;

    /// Makes `len` bytes, rounded up to 4096. Fails with the error of the operating system.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let len = len.max(1).checked_next_multiple_of(PAGE).ok_or(Errno::NOMEM)?;
        let fd = memfd_create(c"virtio-kit", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        // Who holds the descriptor cannot cut the file short under those who have it mapped.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, which nothing else refers to.
        let base = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, &fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { fd, base, len, domain: Domain::new() })
    }

    /// Where this process has it mapped: its *user address*.
    pub fn user_addr(&self) -> u64 {
        self.base.addr().get() as u64
    }
}

impl AsFd for MemfdMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// SAFETY: the file was made here and is mapped here once, so no Rust reference or allocation of anyone else
// lies in it. Its length is sealed, so that access never faults. Its domain was made for it. What is dropped
// is only this process's mapping: the file lives on under whoever else has it mapped.
unsafe impl DmaMemory for MemfdMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
    fn device_base(&self) -> u64 {
        Self::DEVICE_BASE
    }
    fn domain(&self) -> Domain {
        self.domain
    }
}

impl Drop for MemfdMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the arena that held this value, and with it every buffer,
        // is gone.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

impl fmt::Debug for MemfdMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemfdMemory({:#x} bytes at {:#x})", self.len, self.user_addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_kit_ring::Arena;

    #[test]
    fn what_is_written_into_the_arena_is_in_the_file() {
        let memory = MemfdMemory::new(5000).unwrap();
        assert_eq!(memory.len(), 8192);
        assert_ne!(memory.user_addr(), memory.device_base());
        let file = memory.as_fd().try_clone_to_owned().unwrap();
        let arena = Arena::new(memory).unwrap();
        let mut buffer = arena.alloc(100).unwrap();
        buffer.write(0, b"shared").unwrap();
        let offset = buffer.device_addr().get() - arena.device_base().get();
        let mut seen = [0; 6];
        assert_eq!(rustix::io::pread(&file, &mut seen, offset), Ok(6));
        assert_eq!(&seen, b"shared");
    }

    #[test]
    fn the_file_can_neither_shrink_nor_grow() {
        let memory = MemfdMemory::new(8192).unwrap();
        assert_eq!(ftruncate(&memory, 4096), Err(Errno::PERM));
        assert_eq!(ftruncate(&memory, 16384), Err(Errno::PERM));
        assert_eq!(ftruncate(&memory, 8192), Ok(()));
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        assert_eq!(MemfdMemory::new(usize::MAX).unwrap_err(), Errno::NOMEM);
        assert!(MemfdMemory::new(usize::MAX / 2).is_err());
    }
}
