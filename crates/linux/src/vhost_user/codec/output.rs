//! Writing one message: header, payload, and the descriptors to pass.

use std::os::fd::{AsFd, BorrowedFd};

use super::input::{NO_FD, check_config, check_count, check_end, check_iotlb, check_region, check_shmem};
use super::payload::*;
use super::{Error, HEADER_SIZE, Header, MAX_FDS, MessageId};

/// A message that is being put together at the end of the caller's buffers.
pub(super) struct Output<'o, 'f> {
    pub(super) message: MessageId,
    bytes: &'o mut Vec<u8>,
    fds: &'o mut Vec<BorrowedFd<'f>>,
}

/// Appends a message whose payload `write` makes; leaves both buffers as they were if it fails.
pub(super) fn encode<'o, 'f>(
    message: MessageId,
    need_reply: bool,
    bytes: &'o mut Vec<u8>,
    fds: &'o mut Vec<BorrowedFd<'f>>,
    write: impl FnOnce(&mut Output<'_, 'f>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (start, first_fd) = (bytes.len(), fds.len());
    bytes.extend_from_slice(&[0; HEADER_SIZE]);
    let written = write(&mut Output { message, bytes, fds }).and_then(|()| {
        let size = u32::try_from(bytes.len() - start - HEADER_SIZE).unwrap_or(u32::MAX);
        let (max, count) = (message.max_payload(), fds.len() - first_fd);
        if size > max {
            return Err(Error::TooLong { message, size, max });
        }
        if count > MAX_FDS {
            return Err(Error::TooManyFds { count });
        }
        Ok(size)
    });
    match written {
        Ok(size) => {
            let reply = matches!(message, MessageId::Reply(_) | MessageId::BackendReply(_));
            let header = Header { request: message.id(), reply, need_reply, size };
            bytes[start..start + HEADER_SIZE].copy_from_slice(&header.to_bytes());
            Ok(())
        }
        Err(error) => {
            bytes.truncate(start);
            fds.truncate(first_fd);
            Err(error)
        }
    }
}

impl<'f> Output<'_, 'f> {
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_ne_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn fd(&mut self, fd: &'f impl AsFd) {
        self.fds.push(fd.as_fd());
    }

    pub(super) fn vring_state(&mut self, index: u32, num: u32) {
        self.u32(index);
        self.u32(num);
    }

    pub(super) fn vring_addr(&mut self, addr: &VringAddr) {
        self.vring_state(addr.index, addr.flags);
        for value in [addr.descriptor, addr.used, addr.available, addr.log] {
            self.u64(value);
        }
    }

    pub(super) fn queue_fd(&mut self, index: u8, fd: Option<&'f impl AsFd>) {
        match fd {
            Some(fd) => {
                self.u64(index.into());
                self.fd(fd);
            }
            None => self.u64(u64::from(index) | NO_FD),
        }
    }

    pub(super) fn region(&mut self, region: &MemoryRegion) -> Result<(), Error> {
        check_region(self.message, region)?;
        for value in [region.guest_addr, region.size, region.user_addr, region.mmap_offset] {
            self.u64(value);
        }
        if let Some(xen) = region.xen {
            self.u32(xen.flags);
            self.u32(xen.domid);
        }
        Ok(())
    }

    pub(super) fn single_region(&mut self, region: &MemoryRegion) -> Result<(), Error> {
        self.u64(0);
        self.region(region)
    }

    /// Xen fields must be in all regions or in none.
    pub(super) fn regions<'r>(
        &mut self,
        regions: impl ExactSizeIterator<Item = &'r MemoryRegion>,
    ) -> Result<(), Error> {
        check_count(self.message, regions.len(), MAX_REGIONS)?;
        self.u32(regions.len() as u32);
        self.u32(0);
        let mut xen = None;
        for (at, region) in regions.enumerate() {
            if *xen.get_or_insert(region.xen.is_some()) != region.xen.is_some() {
                return Err(Error::Value {
                    message: self.message,
                    field: "region without xen fields",
                    value: at as u64,
                });
            }
            self.region(region)?;
        }
        Ok(())
    }

    pub(super) fn config(&mut self, offset: u32, flags: u32, data: &[u8]) -> Result<(), Error> {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        check_config(self.message, offset, size)?;
        self.u32(offset);
        self.u32(size);
        self.u32(flags);
        self.raw(data);
        Ok(())
    }

    pub(super) fn iotlb(&mut self, iotlb: &Iotlb) -> Result<(), Error> {
        check_iotlb(self.message, iotlb)?;
        for value in [iotlb.iova, iotlb.size, iotlb.user_addr] {
            self.u64(value);
        }
        self.u8(iotlb.access.bits());
        self.u8(iotlb.kind as u8);
        self.raw(&[0; 6]);
        Ok(())
    }

    pub(super) fn inflight(&mut self, inflight: &Inflight) -> Result<(), Error> {
        check_end(self.message, "mmap offset", inflight.mmap_offset, inflight.mmap_size)?;
        self.u64(inflight.mmap_size);
        self.u64(inflight.mmap_offset);
        self.u16(inflight.num_queues);
        self.u16(inflight.queue_size);
        self.u32(0);
        Ok(())
    }

    pub(super) fn host_notifier(&mut self, notifier: &'f HostNotifier<impl AsFd>) -> Result<(), Error> {
        check_end(self.message, "offset", notifier.offset, notifier.size)?;
        self.queue_fd(notifier.index, notifier.fd.as_ref());
        self.u64(notifier.size);
        self.u64(notifier.offset);
        Ok(())
    }

    pub(super) fn shmem_range(&mut self, range: &ShmemRange) -> Result<(), Error> {
        check_shmem(self.message, range)?;
        self.u8(range.shmid);
        self.raw(&[0; 7]);
        for value in [range.fd_offset, range.shm_offset, range.len, range.writable.into()] {
            self.u64(value);
        }
        Ok(())
    }

    pub(super) fn shmem_config(&mut self, config: &ShmemConfig) {
        self.u32(config.0.iter().filter(|&&size| size != 0).count() as u32);
        self.u32(0);
        for &size in &config.0 {
            self.u64(size);
        }
    }
}
