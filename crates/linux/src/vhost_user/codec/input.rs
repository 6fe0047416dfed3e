//! Reading one message's payload and taking its descriptors, with every check named after the message.

use std::os::fd::OwnedFd;

use super::payload::*;
use super::{Error, MessageId};

/// The invalid FD flag beside a queue index.
pub(super) const NO_FD: u64 = 1 << 8;

/// A complete message that is being taken apart.
pub(super) struct Input<'a> {
    pub(super) message: MessageId,
    bytes: &'a [u8],
    at: usize,
    fds: Vec<OwnedFd>,
}

impl<'a> Input<'a> {
    pub(super) fn new(message: MessageId, bytes: &'a [u8], fds: Vec<OwnedFd>) -> Self {
        Self { message, bytes, at: 0, fds }
    }

    /// Size of the whole payload.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The payload must have this size.
    pub(super) fn exact(&self, expected: usize) -> Result<(), Error> {
        if self.len() == expected { Ok(()) } else { Err(self.length(expected)) }
    }

    pub(super) fn length(&self, expected: usize) -> Error {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Error::Length { message: self.message, size: clamp(self.len()), expected: clamp(expected) }
    }

    pub(super) fn value(&self, field: &'static str, value: impl Into<u64>) -> Error {
        Error::Value { message: self.message, field, value: value.into() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = *rest.first_chunk().ok_or_else(|| self.length(self.at + N))?;
        self.at += N;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_ne_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_ne_bytes)
    }

    /// What is left of the payload.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest.to_vec()
    }

    /// All descriptors, which must be this many.
    pub(super) fn fds(&mut self, expected: usize) -> Result<Vec<OwnedFd>, Error> {
        if self.fds.len() != expected {
            return Err(Error::Fds { message: self.message, count: self.fds.len(), expected });
        }
        Ok(std::mem::take(&mut self.fds))
    }

    /// The one descriptor.
    pub(super) fn fd(&mut self) -> Result<OwnedFd, Error> {
        self.fd_if(true)?.ok_or(Error::Fds { message: self.message, count: 0, expected: 1 })
    }

    /// The one descriptor, or none.
    pub(super) fn fd_if(&mut self, there: bool) -> Result<Option<OwnedFd>, Error> {
        Ok(self.fds(usize::from(there))?.pop())
    }

    /// One descriptor or none, as came.
    pub(super) fn optional_fd(&mut self) -> Result<Option<OwnedFd>, Error> {
        let there = !self.fds.is_empty();
        self.fd_if(there)
    }

    /// A payload of nothing.
    pub(super) fn nothing(&mut self) -> Result<(), Error> {
        self.exact(0)
    }

    /// A payload of one 64-bit integer.
    pub(super) fn only_u64(&mut self) -> Result<u64, Error> {
        self.exact(8)?;
        self.u64()
    }

    pub(super) fn vring_state(&mut self) -> Result<VringState, Error> {
        self.exact(8)?;
        Ok(VringState { index: self.u32()?, num: self.u32()? })
    }

    /// A vring state whose number is reserved, and not looked at.
    pub(super) fn vring_index(&mut self) -> Result<u32, Error> {
        Ok(self.vring_state()?.index)
    }

    /// A vring state whose number is 0 or 1.
    pub(super) fn vring_switch(&mut self) -> Result<(u32, bool), Error> {
        let VringState { index, num } = self.vring_state()?;
        match num {
            0 | 1 => Ok((index, num == 1)),
            _ => Err(self.value("num", num)),
        }
    }

    pub(super) fn vring_addr(&mut self) -> Result<VringAddr, Error> {
        self.exact(40)?;
        Ok(VringAddr {
            index: self.u32()?,
            flags: self.u32()?,
            descriptor: self.u64()?,
            used: self.u64()?,
            available: self.u64()?,
            log: self.u64()?,
        })
    }

    /// A queue index with the invalid FD flag; the descriptor has to agree.
    pub(super) fn vring_fd(&mut self) -> Result<VringFd, Error> {
        let value = self.only_u64()?;
        let (index, fd) = self.queue_fd("vring index", value)?;
        Ok(VringFd { index, fd })
    }

    fn queue_fd(&mut self, field: &'static str, value: u64) -> Result<(u8, Option<OwnedFd>), Error> {
        let index = u8::try_from(value & !NO_FD).map_err(|_| self.value(field, value))?;
        Ok((index, self.fd_if(value & NO_FD == 0)?))
    }

    /// A region with or without Xen fields.
    pub(super) fn region(&mut self, xen: bool) -> Result<MemoryRegion, Error> {
        let region = MemoryRegion {
            guest_addr: self.u64()?,
            size: self.u64()?,
            user_addr: self.u64()?,
            mmap_offset: self.u64()?,
            xen: if xen { Some(XenMapping { flags: self.u32()?, domid: self.u32()? }) } else { None },
        };
        check_region(self.message, &region)?;
        Ok(region)
    }

    /// A single memory region description.
    pub(super) fn single_region(&mut self) -> Result<MemoryRegion, Error> {
        let xen = self.len() == 48;
        self.exact(if xen { 48 } else { 40 })?;
        self.u64()?;
        self.region(xen)
    }

    /// A multiple memory regions description; the payload's size says whether Xen fields are there.
    pub(super) fn regions(&mut self) -> Result<Vec<MemoryRegion>, Error> {
        if self.len() < 8 {
            return Err(self.length(8));
        }
        let count = self.u32()?;
        self.u32()?;
        check_count(self.message, count as usize, MAX_REGIONS)?;
        let count = count as usize;
        let xen = count > 0 && self.len() == 8 + count * 40;
        self.exact(8 + count * if xen { 40 } else { 32 })?;
        (0..count).map(|_| self.region(xen)).collect()
    }

    pub(super) fn config(&mut self) -> Result<ConfigSpace, Error> {
        if self.len() < 12 {
            return Err(self.length(12));
        }
        let (offset, size, flags) = (self.u32()?, self.u32()?, self.u32()?);
        check_config(self.message, offset, size)?;
        self.exact(12 + size as usize)?;
        Ok(ConfigSpace { offset, flags, data: self.rest() })
    }

    pub(super) fn iotlb(&mut self) -> Result<Iotlb, Error> {
        self.exact(32)?;
        let (iova, size, user_addr) = (self.u64()?, self.u64()?, self.u64()?);
        let access = self.u8()?;
        let access = Access::from_bits(access).ok_or_else(|| self.value("permissions", access))?;
        let kind = match self.u8()? {
            1 => IotlbKind::Miss,
            2 => IotlbKind::Update,
            3 => IotlbKind::Invalidate,
            4 => IotlbKind::AccessFail,
            other => return Err(self.value("type", other)),
        };
        self.array::<6>()?;
        let iotlb = Iotlb { iova, size, user_addr, access, kind };
        check_iotlb(self.message, &iotlb)?;
        Ok(iotlb)
    }

    /// An in-flight description, with or without the padding that a C compiler puts at its end.
    pub(super) fn inflight(&mut self) -> Result<Inflight, Error> {
        if self.len() != 20 {
            self.exact(24)?;
        }
        let inflight = Inflight {
            mmap_size: self.u64()?,
            mmap_offset: self.u64()?,
            num_queues: self.u16()?,
            queue_size: self.u16()?,
        };
        self.rest();
        check_end(self.message, "mmap offset", inflight.mmap_offset, inflight.mmap_size)?;
        Ok(inflight)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, Error> {
        self.exact(16)?;
        self.array().map(Uuid)
    }

    pub(super) fn status(&mut self) -> Result<u8, Error> {
        let status = self.only_u64()?;
        u8::try_from(status).map_err(|_| self.value("status", status))
    }

    pub(super) fn host_notifier(&mut self) -> Result<HostNotifier, Error> {
        self.exact(24)?;
        let (value, size, offset) = (self.u64()?, self.u64()?, self.u64()?);
        check_end(self.message, "offset", offset, size)?;
        let (index, fd) = self.queue_fd("vring index", value)?;
        Ok(HostNotifier { index, size, offset, fd })
    }

    pub(super) fn shmem_range(&mut self) -> Result<ShmemRange, Error> {
        self.exact(40)?;
        let shmid = self.u8()?;
        self.array::<7>()?;
        let (fd_offset, shm_offset, len, flags) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        if flags > 1 {
            return Err(self.value("flags", flags));
        }
        let range = ShmemRange { shmid, fd_offset, shm_offset, len, writable: flags == 1 };
        check_shmem(self.message, &range)?;
        Ok(range)
    }

    /// Shared memory sizes; a short list is filled up with zeros.
    pub(super) fn shmem_config(&mut self) -> Result<ShmemConfig, Error> {
        if self.len() < 8 || !self.len().is_multiple_of(8) {
            return Err(self.length(8 + 8 * MAX_SHMEM_REGIONS));
        }
        let count = self.u32()?;
        self.u32()?;
        check_count(self.message, count as usize, MAX_SHMEM_REGIONS)?;
        let mut sizes = [0; MAX_SHMEM_REGIONS];
        for size in sizes.iter_mut().take((self.bytes.len() - 8) / 8) {
            *size = self.u64()?;
        }
        if sizes.iter().filter(|&&size| size != 0).count() != count as usize {
            return Err(self.value("num regions", count));
        }
        Ok(ShmemConfig(sizes))
    }

    /// Nothing may be left over.
    pub(super) fn finish<T>(self, message: T) -> Result<T, Error> {
        self.exact(self.at)?;
        match self.fds.len() {
            0 => Ok(message),
            count => Err(Error::Fds { message: self.message, count, expected: 0 }),
        }
    }
}

/// `start + size` must be a number.
pub(super) fn check_end(message: MessageId, field: &'static str, start: u64, size: u64) -> Result<(), Error> {
    match start.checked_add(size) {
        Some(_) => Ok(()),
        None => Err(Error::Overflow { message, field }),
    }
}

pub(super) fn check_count(message: MessageId, count: usize, max: usize) -> Result<(), Error> {
    if count <= max {
        return Ok(());
    }
    let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Err(Error::Regions { message, count: clamp(count), max: clamp(max) })
}

pub(super) fn check_region(message: MessageId, region: &MemoryRegion) -> Result<(), Error> {
    if region.size == 0 {
        return Err(Error::Empty { message });
    }
    check_end(message, "guest address", region.guest_addr, region.size)?;
    check_end(message, "user address", region.user_addr, region.size)?;
    check_end(message, "mmap offset", region.mmap_offset, region.size)
}

pub(super) fn check_config(message: MessageId, offset: u32, size: u32) -> Result<(), Error> {
    if size > MAX_CONFIG_SIZE {
        return Err(Error::Value { message, field: "size", value: size.into() });
    }
    match offset.checked_add(size) {
        Some(_) => Ok(()),
        None => Err(Error::Overflow { message, field: "offset" }),
    }
}

/// The last byte must have an address; a range may end at the very top.
pub(super) fn check_iotlb(message: MessageId, iotlb: &Iotlb) -> Result<(), Error> {
    check_end(message, "iova", iotlb.iova, iotlb.size.saturating_sub(1))?;
    match iotlb.kind {
        IotlbKind::Update => {
            check_end(message, "user address", iotlb.user_addr, iotlb.size.saturating_sub(1))
        }
        IotlbKind::Miss | IotlbKind::Invalidate | IotlbKind::AccessFail => Ok(()),
    }
}

pub(super) fn check_shmem(message: MessageId, range: &ShmemRange) -> Result<(), Error> {
    if range.len == 0 {
        return Err(Error::Empty { message });
    }
    check_end(message, "fd offset", range.fd_offset, range.len)?;
    check_end(message, "shm offset", range.shm_offset, range.len)
}
