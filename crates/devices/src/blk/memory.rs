//! A storage in memory.

use super::storage::{Backend, Finished, Operation, Request, Storage, StorageError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use spin::Mutex;
use virtio_kit::device::{Chain, DeviceError};

/// Bytes that share a lock, and are allocated when first written.
const PIECE: usize = 1 << 16;

/// A piece of the storage; `None` reads as zeros.
type Piece = Mutex<Option<Box<[u8]>>>;

/// A backend in memory, sparse. Clones share the data: one can be kept to look at it from the outside.
#[derive(Clone)]
pub struct MemoryBackend {
    len: u64,
    pieces: Arc<[Piece]>,
}

impl MemoryBackend {
    /// A backend of `len` bytes, all zero.
    pub fn new(len: u64) -> Self {
        let pieces = (0..len.div_ceil(PIECE as u64)).map(|_| Mutex::new(None)).collect();
        Self { len, pieces }
    }

    /// Copies bytes out, past the device.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        let mut done = 0;
        for (piece, start, len) in runs(offset, to.len()) {
            let part = &mut to[done..done + len];
            match self
                .pieces
                .get(piece)
                .and_then(|p| p.lock().as_ref().map(|p| part.copy_from_slice(&p[start..start + len])))
            {
                Some(()) => {}
                None => part.fill(0),
            }
            done += len;
        }
    }

    /// Copies bytes in, past the device.
    pub fn write(&self, offset: u64, from: &[u8]) {
        let mut done = 0;
        for (piece, start, len) in runs(offset, from.len()) {
            if let Some(piece) = self.pieces.get(piece) {
                let mut piece = piece.lock();
                let piece = piece.get_or_insert_with(empty);
                piece[start..start + len].copy_from_slice(&from[done..done + len]);
            }
            done += len;
        }
    }

    fn zero(&self, offset: u64, len: u64) {
        for (piece, start, len) in runs(offset, len as usize) {
            let Some(piece) = self.pieces.get(piece) else { continue };
            let mut piece = piece.lock();
            if len == PIECE {
                *piece = None;
            } else if let Some(piece) = &mut *piece {
                piece[start..start + len].fill(0);
            }
        }
    }

    fn fill_chain(&self, chain: &mut Chain, offset: u64, len: usize) -> Result<(), StorageError> {
        for (piece, start, run) in runs(offset, len) {
            let piece = self.pieces.get(piece).ok_or(StorageError::Io(0))?.lock();
            let written = match &*piece {
                Some(piece) => chain.write(&piece[start..start + run]),
                None => chain.write_fill(run, 0),
            };
            written.map_err(|_| StorageError::Io(0))?;
        }
        Ok(())
    }

    fn store_chain(&self, chain: &mut Chain, offset: u64, len: usize) -> Result<(), StorageError> {
        for (piece, start, run) in runs(offset, len) {
            let mut piece = self.pieces.get(piece).ok_or(StorageError::Io(0))?.lock();
            let piece = piece.get_or_insert_with(empty);
            chain.read(&mut piece[start..start + run]).map_err(|_| StorageError::Io(0))?;
        }
        Ok(())
    }
}

fn empty() -> Box<[u8]> {
    vec![0; PIECE].into()
}

/// Cuts a range at the pieces' borders: piece, start in it, length.
fn runs(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = offset;
    let mut left = len;
    core::iter::from_fn(move || {
        let start = (at % PIECE as u64) as usize;
        let run = left.min(PIECE - start);
        let piece = (at / PIECE as u64) as usize;
        at += run as u64;
        left -= run;
        (run > 0).then_some((piece, start, run))
    })
}

impl Backend for MemoryBackend {
    fn len(&self) -> u64 {
        self.len
    }

    fn can_discard(&self) -> bool {
        true
    }

    // There is one copy, and it is overwritten.
    fn can_erase(&self) -> bool {
        true
    }

    fn id(&self) -> &str {
        "virtio-kit-memory"
    }

    fn open_queue(&mut self) -> Result<Box<dyn Storage>, DeviceError> {
        Ok(Box::new(self.clone()))
    }
}

impl Storage for MemoryBackend {
    fn submit(&mut self, request: Request) -> Option<Finished> {
        let Request { mut chain, operation, data_len } = request;
        let result = match operation {
            Operation::Read { offset } => self.fill_chain(&mut chain, offset, data_len),
            Operation::Write { offset, .. } => self.store_chain(&mut chain, offset, data_len),
            Operation::Flush => Ok(()),
            Operation::Discard { offset, len }
            | Operation::SecureErase { offset, len }
            | Operation::WriteZeroes { offset, len, .. } => {
                self.zero(offset, len);
                Ok(())
            }
        };
        Some(Finished { chain, result })
    }
}
