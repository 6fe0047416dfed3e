//! Memory of another process, mapped into this one: the device's side of vhost-user.
//!
//! Whoever has a descriptor of the same file may cut it short at any time, and then touching what is gone is
//! SIGBUS. [`guard`] installs a handler that puts private zeros in the place of what is gone, so that the access
//! goes on, and remembers it: see [`Mapping::is_cut_short`]. That is sound, since nothing here relies on what is
//! in such memory, or on it staying the same. Without the guard the signal ends the process.

mod bus_error;

pub use bus_error::guard;
pub(crate) use bus_error::hits;

use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use std::{fmt, io};

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use virtio_kit_ring::mem::RegionMemory;

use bus_error::Entry;

/// Smallest page of any machine; a file system's pages may be larger (hugetlbfs).
const PAGE: u64 = 4096;

/// A piece of a file of another process, mapped shared. Clones share the mapping.
#[derive(Clone)]
pub struct Mapping(Arc<Inner>);

struct Inner {
    /// The whole pages that are mapped.
    pages: NonNull<u8>,
    pages_len: usize,
    /// The piece in them.
    base: NonNull<u8>,
    len: usize,
    entry: &'static Entry,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Inner {}
// SAFETY: access to the memory is the users' affair, and theirs is by copying.
unsafe impl Sync for Inner {}

/// Why a piece of a file cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The descriptor is of neither a file nor a device with memory.
    NotMemory,
    /// The file ends before the piece does.
    TooShort {
        /// Where the piece ends, in bytes.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },
    /// No such piece can be in an address space.
    BadRange,
    /// The operating system refused, with its error number.
    Os(i32),
}

impl From<Errno> for MapError {
    fn from(error: Errno) -> Self {
        Self::Os(error.raw_os_error())
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMemory => f.write_str("the descriptor is no memory"),
            Self::TooShort { end, len } => {
                write!(f, "the file has {len:#x} bytes, and the region ends at {end:#x}")
            }
            Self::BadRange => f.write_str("the region is empty or larger than an address space"),
            Self::Os(number) => write!(f, "cannot be mapped: {}", io::Error::from_raw_os_error(*number)),
        }
    }
}

impl std::error::Error for MapError {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on, which need not be at a page.
    pub fn new(fd: impl AsFd, offset: u64, len: u64) -> Result<Self, MapError> {
        let stat = fstat(&fd)?;
        // What hugetlbfs says of itself is the size of its pages, to which mappings of it are bound.
        let page = u64::try_from(stat.st_blksize).ok().filter(|size| size.is_power_of_two());
        let page = page.unwrap_or(PAGE).max(PAGE);
        let end = offset.checked_add(len).filter(|_| len != 0).ok_or(MapError::BadRange)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file_len = u64::try_from(stat.st_size).unwrap_or(0);
                if end > file_len {
                    return Err(MapError::TooShort { end, len: file_len });
                }
            }
            // It says itself how far it can be mapped.
            FileType::CharacterDevice => {}
            _ => return Err(MapError::NotMemory),
        }
        let start = offset & !(page - 1);
        let pages_len = end.checked_next_multiple_of(page).ok_or(MapError::BadRange)? - start;
        let pages_len = usize::try_from(pages_len).map_err(|_| MapError::BadRange)?;
        // Both fit, since the whole does.
        let (skip, len) = ((offset - start) as usize, len as usize);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, which nothing else refers to.
        let pages = unsafe { mmap(ptr::null_mut(), pages_len, access, MapFlags::SHARED, fd, start) }?;
        let pages = NonNull::new(pages.cast::<u8>()).ok_or(MapError::BadRange)?;
        // SAFETY: inside the mapping.
        let base = unsafe { pages.add(skip) };
        let entry = Entry::register(pages.addr().get(), pages_len, page as usize);
        Ok(Self(Arc::new(Inner { pages, pages_len, base, len, entry })))
    }

    /// Whether its file was found to have been cut short: part of it is private zeros now.
    pub fn is_cut_short(&self) -> bool {
        self.0.entry.was_hit()
    }
}

macro_rules! words {
    ($($load:ident $store:ident $atomic:ident $word:ty;)*) => {
        impl Mapping {
            $(
                /// Loads a word at `offset`, in native byte order; `None` if it is not inside or not aligned.
                pub fn $load(&self, offset: usize) -> Option<$word> {
                    Some(self.word::<$atomic>(offset)?.load(Acquire))
                }

                /// Stores a word at `offset`, in native byte order; `None` if it is not inside or not aligned.
                ///
                /// Whoever kills this process sees such stores in the order of the program.
                pub fn $store(&self, offset: usize, value: $word) -> Option<()> {
                    self.word::<$atomic>(offset)?.store(value, Release);
                    Some(())
                }
            )*
        }
    };
}

words! {
    load8 store8 AtomicU8 u8;
    load16 store16 AtomicU16 u16;
    load32 store32 AtomicU32 u32;
    load64 store64 AtomicU64 u64;
}

impl Mapping {
    fn word<W>(&self, offset: usize) -> Option<&W> {
        let at = self.0.base.as_ptr().wrapping_add(offset).cast::<W>();
        if offset.checked_add(size_of::<W>())? > self.0.len || !at.is_aligned() {
            return None;
        }
        // SAFETY: inside the mapping and aligned. Only called, above and below, for atomics, which tolerate
        // that others write there; any bytes are a value of theirs.
        Some(unsafe { &*at })
    }

    /// Sets bits of the byte at `offset`; `None` if it is not inside.
    pub fn set_bits(&self, offset: usize, bits: u8) -> Option<()> {
        let byte = self.word::<AtomicU8>(offset)?;
        // Most are set already, and then the cache line stays shared.
        if byte.load(Relaxed) & bits != bits {
            byte.fetch_or(bits, AcqRel);
        }
        Some(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.entry.release();
        // SAFETY: mapped in `new` with this length, and every user of the memory holds a clone.
        let unmapped = unsafe { munmap(self.pages.as_ptr().cast(), self.pages_len) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: mapped readable and writable as long as any clone lives, and never moved. No reference into it is
// made. If the file is cut short, an access either ends the process or, guarded, finds other memory there.
unsafe impl RegionMemory for Mapping {
    fn base(&self) -> NonNull<u8> {
        self.0.base
    }

    fn len(&self) -> usize {
        self.0.len
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({:#x} bytes at {:p})", self.0.len, self.0.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;
    use virtio_kit_ring::mem::{Memory, Region};

    fn file(len: u64) -> OwnedFd {
        let fd = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    #[test]
    fn a_piece_in_the_middle_of_a_page_is_the_files() {
        let fd = file(3 * 4096);
        rustix::io::pwrite(&fd, b"here", 5000).unwrap();
        let mapping = Mapping::new(&fd, 5000, 4096).unwrap();
        // SAFETY: mapped, and nobody writes to it.
        let bytes = unsafe { mapping.base().cast::<[u8; 4]>().read_volatile() };
        assert_eq!((&bytes, mapping.len()), (b"here", 4096));
        assert!(!mapping.is_cut_short());
        // Words have to be inside and aligned where they are mapped.
        assert_eq!(mapping.load32(0), Some(u32::from_ne_bytes(*b"here")));
        assert_eq!((mapping.load16(1), mapping.load64(4092), mapping.load8(4096)), (None, None, None));
        assert_eq!(mapping.load64(usize::MAX), None);
        assert_eq!((mapping.store16(8, 0x0102), mapping.set_bits(9, 0xf0)), (Some(()), Some(())));
        assert_eq!(mapping.load16(8), Some(0x0102 | 0xf0 << 8));
    }

    #[test]
    fn what_is_not_there_is_not_mapped() {
        let fd = file(8192);
        let error = |offset, len| Mapping::new(&fd, offset, len).unwrap_err();
        assert_eq!(error(0, 8193), MapError::TooShort { end: 8193, len: 8192 });
        assert_eq!(error(8192, 1), MapError::TooShort { end: 8193, len: 8192 });
        assert_eq!(error(0, 0), MapError::BadRange);
        assert_eq!(error(u64::MAX, 2), MapError::BadRange);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(Mapping::new(&pipe, 0, 4096).unwrap_err(), MapError::NotMemory);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Mapping::new(&null, 0, 4096), Err(MapError::Os(_))));
        let own = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(Mapping::new(&own, 0, 4096), Err(MapError::Os(_))), "it is open for reading alone");
    }

    #[test]
    fn a_file_that_is_cut_short_leaves_zeros_and_is_known() {
        guard().unwrap();
        guard().unwrap();
        let fd = file(4 * 4096);
        rustix::io::pwrite(&fd, &[7; 4 * 4096], 0).unwrap();
        let whole = Mapping::new(&fd, 100, 4 * 4096 - 100).unwrap();
        let other = Mapping::new(&fd, 0, 4096).unwrap();
        ftruncate(&fd, 4096).unwrap();
        let at = |offset: usize| {
            // SAFETY: inside the mapping, which nobody else writes to.
            unsafe { whole.base().add(offset).read_volatile() }
        };
        assert_eq!(at(0), 7);
        assert!(!whole.is_cut_short());
        let before = hits();
        assert_eq!(at(8192), 0);
        assert!(whole.is_cut_short() && hits() > before);
        assert!(!other.is_cut_short());
        // What was before the fault is still the file's, what comes after is there as well.
        assert_eq!((at(0), at(4 * 4096 - 101)), (7, 0));
        let memory = Memory::new([Region::new(0, whole).unwrap(), Region::new(1 << 30, other).unwrap()]);
        assert_eq!(memory.unwrap().regions().len(), 2);
    }
}
