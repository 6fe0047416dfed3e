//! What a request is made of: header, perhaps a range or an answer, data, status (5.2.6).

use virtio_kit::DmaBuf;
use virtio_kit::spec::blk::{DiscardWriteZeroes, RequestHeader, RequestType, Status};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fill the buffers from the device.
    Read,
    /// Store the buffers on the device.
    Write,
    /// Make completed writes durable.
    Flush,
    /// Read the device's identification.
    GetId,
    /// Give a range up.
    Discard,
    /// Make a range read as zeros.
    WriteZeroes,
    /// Give a range up so that nothing of it can be read again.
    SecureErase,
}

impl Kind {
    pub(super) fn wire(self) -> RequestType {
        match self {
            Self::Read => RequestType::IN,
            Self::Write => RequestType::OUT,
            Self::Flush => RequestType::FLUSH,
            Self::GetId => RequestType::GET_ID,
            Self::Discard => RequestType::DISCARD,
            Self::WriteZeroes => RequestType::WRITE_ZEROES,
            Self::SecureErase => RequestType::SECURE_ERASE,
        }
    }
}

/// The buffers of one request, as a chain's parts: header, range or id, data, status.
pub(super) type RequestParts<D> = (DmaBuf, Option<DmaBuf>, Option<D>, DmaBuf);

/// What the queue keeps of a request beside its buffers.
pub(super) struct Tag<T> {
    pub(super) kind: Kind,
    pub(super) token: T,
}

/// Header and status of a request, kept for the next one.
pub(super) struct Frame {
    pub(super) header: DmaBuf,
    pub(super) status: DmaBuf,
}

/// A status that no device writes, put there before each request.
pub(super) const NO_STATUS: u8 = 0xff;

impl Frame {
    pub(super) const HEADER: usize = size_of::<RequestHeader>();
    pub(super) const RANGE: usize = size_of::<DiscardWriteZeroes>();

    /// Fills the header in, and a status that was not written.
    #[inline]
    pub(super) fn prepare(&mut self, kind: Kind, sector: u64) {
        let header = RequestHeader { kind: kind.wire().0.into(), reserved: 0.into(), sector: sector.into() };
        // Both buffers were allocated with these lengths.
        let _ = self.header.write_value(0, &header);
        let _ = self.status.write_value(0, &NO_STATUS);
    }
}

/// What a status byte means.
#[inline]
pub(super) fn result(status: u8) -> Result<(), super::RequestError> {
    match Status(status) {
        Status::OK => Ok(()),
        Status::IOERR => Err(super::RequestError::Io),
        Status::UNSUPP => Err(super::RequestError::Unsupported),
        Status(other) => Err(super::RequestError::BadStatus(other)),
    }
}
