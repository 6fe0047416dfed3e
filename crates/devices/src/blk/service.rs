//! What the device does with a request (5.2.6).

use super::config::Limits;
use super::storage::{Backend, Finished, Operation, Request, Storage, StorageError};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::Features;
use virtio_kit::device::{Chain, ConfigNotice, DeviceError, Service, Submitted};
use virtio_kit::spec::blk::{
    DiscardFlags, DiscardWriteZeroes, F, ID_LEN, RequestHeader, RequestType, SECTOR, Status,
};

const HEADER: usize = size_of::<RequestHeader>();

/// What all queues of a device, and its registers, know.
pub(super) struct Shared {
    len: AtomicU64,
    read_only: bool,
    id: String,
    can_discard: bool,
    can_erase: bool,
    /// Completed writes may still be volatile, until flushed.
    writeback: AtomicBool,
    notice: Mutex<Option<Arc<ConfigNotice>>>,
}

impl Shared {
    pub(super) fn new(backend: &impl Backend) -> Self {
        Self {
            len: AtomicU64::new(backend.len()),
            read_only: backend.read_only(),
            id: backend.id().into(),
            can_discard: backend.can_discard(),
            can_erase: backend.can_erase(),
            writeback: AtomicBool::new(true),
            notice: Mutex::new(None),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Relaxed)
    }

    /// The driver's choice of cache mode (5.2.5.2).
    pub(super) fn choose_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::Relaxed);
    }

    /// A driver that did not take FLUSH cannot ask for durability, so every write is durable (5.2.6.2). One
    /// that took it without CONFIG_WCE expects a volatile cache.
    pub(super) fn activate(&self, features: Features) {
        if !features.contains(F::CONFIG_WCE) {
            self.choose_writeback(features.contains(F::FLUSH));
        }
    }

    pub(super) fn reset(&self) {
        self.choose_writeback(true);
    }

    pub(super) fn attach(&self, notice: Arc<ConfigNotice>) {
        *self.notice.lock() = Some(notice);
    }

    pub(super) fn resize(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
        if let Some(notice) = &*self.notice.lock() {
            notice.changed();
        }
    }
}

/// One queue of the device.
pub(super) struct BlkService {
    storage: Box<dyn Storage>,
    shared: Arc<Shared>,
    limits: Limits,
}

impl BlkService {
    pub(super) fn new(storage: Box<dyn Storage>, shared: Arc<Shared>, limits: Limits) -> Self {
        Self { storage, shared, limits }
    }

    /// What a request asks for, in bytes of the storage, with how much data goes along; or its status.
    fn parse(&self, chain: &mut Chain) -> Result<(Operation, usize), Status> {
        let header: RequestHeader = chain.read_value().map_err(|_| Status::IOERR)?;
        let out = chain.readable_left();
        let into = chain.writable_len().saturating_sub(1);
        let durable = !self.shared.writeback();
        let kind = header.kind;
        match RequestType(kind.get()) {
            RequestType::IN => Ok((Operation::Read { offset: self.range(&header, into)? }, into)),
            RequestType::OUT => {
                self.writable()?;
                Ok((Operation::Write { offset: self.range(&header, out)?, durable }, out))
            }
            RequestType::FLUSH => Ok((Operation::Flush, 0)),
            RequestType::DISCARD if self.shared.can_discard => {
                let (offset, len, unmap) = self.segment(chain, out)?;
                // Reserved for write-zeroes (5.2.6.2).
                if unmap { Err(Status::UNSUPP) } else { Ok((Operation::Discard { offset, len }, 0)) }
            }
            RequestType::SECURE_ERASE if self.shared.can_erase => {
                let (offset, len, unmap) = self.segment(chain, out)?;
                if unmap { Err(Status::UNSUPP) } else { Ok((Operation::SecureErase { offset, len }, 0)) }
            }
            RequestType::WRITE_ZEROES => {
                let (offset, len, unmap) = self.segment(chain, out)?;
                Ok((Operation::WriteZeroes { offset, len, unmap, durable }, 0))
            }
            _ => Err(Status::UNSUPP),
        }
    }

    fn writable(&self) -> Result<(), Status> {
        if self.shared.read_only { Err(Status::IOERR) } else { Ok(()) }
    }

    /// First byte of the sectors that `len` bytes cover, all of which must be there.
    fn range(&self, header: &RequestHeader, len: usize) -> Result<u64, Status> {
        if !len.is_multiple_of(SECTOR) {
            return Err(Status::IOERR);
        }
        self.inside(header.sector.get(), len as u64)
    }

    fn inside(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let offset = sector.checked_mul(SECTOR as u64).ok_or(Status::IOERR)?;
        let end = offset.checked_add(len).ok_or(Status::IOERR)?;
        if end > self.shared.len() { Err(Status::IOERR) } else { Ok(offset) }
    }

    /// The one range of a discard, write-zeroes or erase request: first byte, length, and the unmap flag.
    fn segment(&self, chain: &mut Chain, len: usize) -> Result<(u64, u64, bool), Status> {
        self.writable()?;
        if len != size_of::<DiscardWriteZeroes>() {
            return Err(Status::UNSUPP);
        }
        let segment: DiscardWriteZeroes = chain.read_value().map_err(|_| Status::IOERR)?;
        let flags = DiscardFlags::from_bits_retain(segment.flags.get());
        if !(flags - DiscardFlags::UNMAP).is_empty() {
            return Err(Status::UNSUPP);
        }
        let sectors = segment.num_sectors.get();
        if sectors > self.limits.range_max {
            return Err(Status::IOERR);
        }
        let len = u64::from(sectors) * SECTOR as u64;
        Ok((self.inside(segment.sector.get(), len)?, len, flags.contains(DiscardFlags::UNMAP)))
    }

    /// Answers what needs no storage.
    fn identify(&self, chain: &mut Chain) -> Status {
        // Padded with zeros; all 20 bytes may be used, without a terminator (5.2.6).
        let mut id = [0; ID_LEN];
        let len = self.shared.id.len().min(ID_LEN);
        id[..len].copy_from_slice(&self.shared.id.as_bytes()[..len]);
        let room = chain.writable_len().saturating_sub(1).min(ID_LEN);
        chain.write(&id[..room]).map_or(Status::IOERR, |()| Status::OK)
    }
}

/// Writes the status, the last writable byte. A chain without one cannot be answered any better.
fn answer(mut chain: Chain, status: Status) -> Chain {
    let _ = chain.write_last(status.0);
    chain
}

fn finish(finished: Finished) -> Chain {
    let status = match finished.result {
        Ok(()) => Status::OK,
        Err(StorageError::Unsupported) => Status::UNSUPP,
        Err(_) => Status::IOERR,
    };
    answer(finished.chain, status)
}

impl Service for BlkService {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let mut kind = [0; 4];
        if chain.read_at(0, &mut kind).is_ok() && u32::from_le_bytes(kind) == RequestType::GET_ID.0 {
            let status = self.identify(&mut chain);
            return Submitted::Done(answer(chain, status));
        }
        match self.parse(&mut chain) {
            Ok((operation, data_len)) => match self.storage.submit(Request { chain, operation, data_len }) {
                Some(finished) => Submitted::Done(finish(finished)),
                None => Submitted::Pending,
            },
            Err(status) => Submitted::Done(answer(chain, status)),
        }
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.storage.commit()
    }

    fn poll(&mut self) -> Option<Chain> {
        self.storage.poll().map(finish)
    }

    fn pending(&self) -> usize {
        self.storage.pending()
    }

    fn waiting(&self) -> usize {
        self.storage.waiting()
    }

    fn capacity(&self) -> usize {
        self.storage.capacity()
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.storage.wait()
    }
}

const _: () = assert!(HEADER == 16);
