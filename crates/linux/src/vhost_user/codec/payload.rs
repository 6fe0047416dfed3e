//! The parts that messages are made of.
//!
//! `F` is how a descriptor is held: [`OwnedFd`] in what was received, anything that is
//! [`AsFd`](std::os::fd::AsFd) in what is sent.

use std::os::fd::OwnedFd;

/// The most regions in one `SET_MEM_TABLE`.
pub const MAX_REGIONS: usize = 8;

/// The most bytes of configuration space in one message.
pub const MAX_CONFIG_SIZE: u32 = 256;

/// The number of VIRTIO shared memory regions that a device may have.
pub const MAX_SHMEM_REGIONS: usize = 256;

/// `VHOST_VRING_F_LOG`, in [`VringAddr::flags`]: writes to the used ring are logged.
pub const VRING_F_LOG: u32 = 1 << 0;

/// A memory region description. Sizes and offsets are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest physical address.
    pub guest_addr: u64,
    /// Size; not zero.
    pub size: u64,
    /// Address in the front-end's process.
    pub user_addr: u64,
    /// Where the region starts in the descriptor's memory.
    pub mmap_offset: u64,
    /// Only and always with `XEN_MMAP`.
    pub xen: Option<XenMapping>,
}

/// The two fields that `XEN_MMAP` adds to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenMapping {
    /// Bit 0 foreign memory, bit 1 grant memory, bit 8 not to be mapped in advance.
    pub flags: u32,
    /// Xen domain id.
    pub domid: u32,
}

/// A memory region and the descriptor it is mapped from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRegion<F = OwnedFd> {
    /// Where it is.
    pub region: MemoryRegion,
    /// What to map.
    pub fd: F,
}

/// Where the dirty log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogBase<F = OwnedFd> {
    /// An address, when `LOG_SHMFD` was not negotiated.
    Address(u64),
    /// A log description.
    Area {
        /// Bytes of log.
        size: u64,
        /// Where it starts in the descriptor's memory.
        offset: u64,
        /// Shared memory; always there with `LOG_SHMFD`.
        fd: Option<F>,
    },
}

/// A vring state description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringState {
    /// The queue.
    pub index: u32,
    /// A size, or a descriptor index: see [`PackedBase`] for packed rings.
    pub num: u32,
}

/// The number in `SET_VRING_BASE` and `GET_VRING_BASE` for a packed ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBase {
    /// Next descriptor that the device takes, 15 bits.
    pub avail: u16,
    /// The driver's wrap counter.
    pub avail_wrap: bool,
    /// Next descriptor that the device uses, 15 bits.
    pub used: u16,
    /// The device's wrap counter.
    pub used_wrap: bool,
}

impl PackedBase {
    /// From [`VringState::num`].
    pub const fn from_num(num: u32) -> Self {
        Self {
            avail: (num & 0x7fff) as u16,
            avail_wrap: num & (1 << 15) != 0,
            used: ((num >> 16) & 0x7fff) as u16,
            used_wrap: num & (1 << 31) != 0,
        }
    }

    /// To [`VringState::num`]; bit 15 of an index is dropped.
    pub const fn to_num(self) -> u32 {
        (self.avail & 0x7fff) as u32
            | (self.avail_wrap as u32) << 15
            | ((self.used & 0x7fff) as u32) << 16
            | (self.used_wrap as u32) << 31
    }
}

/// A vring address description. Ring addresses are user addresses, or IOVAs with `ACCESS_PLATFORM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringAddr {
    /// The queue.
    pub index: u32,
    /// [`VRING_F_LOG`].
    pub flags: u32,
    /// Descriptor table, or packed ring.
    pub descriptor: u64,
    /// Used ring, or device event suppression.
    pub used: u64,
    /// Available ring, or driver event suppression.
    pub available: u64,
    /// Guest address at which writes to the used ring are logged.
    pub log: u64,
}

/// An event descriptor of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringFd<F = OwnedFd> {
    /// The queue.
    pub index: u8,
    /// None: the ring is polled (sent as the invalid FD flag).
    pub fd: Option<F>,
}

/// A piece of the device's configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    /// Where it starts, in bytes.
    pub offset: u32,
    /// 0 for writable fields, 1 for live migration; some front-ends send other values.
    pub flags: u32,
    /// At most [`MAX_CONFIG_SIZE`] bytes.
    pub data: Vec<u8>,
}

bitflags::bitflags! {
    /// What an IOTLB entry permits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 2;
    }
}

/// What an IOTLB message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IotlbKind {
    /// The back-end needs an entry.
    Miss = 1,
    /// The front-end gives an entry.
    Update = 2,
    /// The front-end takes entries back.
    Invalidate = 3,
    /// The back-end was not permitted an access.
    AccessFail = 4,
}

/// An IOTLB message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iotlb {
    /// I/O virtual address.
    pub iova: u64,
    /// Size in bytes; zero in a miss or a failure.
    pub size: u64,
    /// Address in the front-end's process.
    pub user_addr: u64,
    /// What is permitted or wanted.
    pub access: Access,
    /// What it says.
    pub kind: IotlbKind,
}

/// An in-flight description: the buffer that [`inflight`](super::inflight) lays out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// Bytes of buffer; zero in the request for one.
    pub mmap_size: u64,
    /// Where it starts in the descriptor's memory.
    pub mmap_offset: u64,
    /// Number of queues.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

/// A shared object's UUID, in the byte order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

/// Which way the device state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// From back-end to front-end.
    Save = 0,
    /// From front-end to back-end.
    Load = 1,
}

/// When in a migration the device state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The device is suspended.
    Stopped = 0,
}

/// Sizes in bytes of the VIRTIO shared memory regions, by shmid; zero for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmemConfig(pub [u64; MAX_SHMEM_REGIONS]);

/// Memory that takes the place of a queue's notification register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNotifier<F = OwnedFd> {
    /// The queue.
    pub index: u8,
    /// Bytes to map.
    pub size: u64,
    /// Where it starts in the descriptor's memory.
    pub offset: u64,
    /// None: take the notifier away (sent as the invalid FD flag).
    pub fd: Option<F>,
}

/// A range of a VIRTIO shared memory region. Sizes and offsets are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmemRange {
    /// The region.
    pub shmid: u8,
    /// Where it starts in the descriptor's memory; unused when unmapping.
    pub fd_offset: u64,
    /// Where it starts in the region.
    pub shm_offset: u64,
    /// Its size; not zero.
    pub len: u64,
    /// Mapped for writing too.
    pub writable: bool,
}
