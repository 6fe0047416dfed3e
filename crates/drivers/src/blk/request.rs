//! What a request is made of: header, perhaps a range or an answer, data, status (5.2.6).

use virtio_kit::spec::blk::{DiscardWriteZeroes, RequestHeader, RequestType, Status};
use virtio_kit::{Chain, DmaBuf, Either, Parts};

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

/// What stands between a request's header and its status.
pub(super) enum Content<D> {
    /// Data for the device to store.
    Out(D),
    /// Space for the device's data.
    In(D),
    /// A range, and no data.
    Range(DmaBuf),
    /// Space for the device's identification.
    Id(DmaBuf),
    /// Nothing.
    Nothing,
}

impl<D> Content<D> {
    /// The data, and what else there is.
    #[inline(always)]
    pub(super) fn into_parts(self) -> (Option<D>, Option<DmaBuf>) {
        match self {
            Self::Out(data) | Self::In(data) => (Some(data), None),
            Self::Range(extra) | Self::Id(extra) => (None, Some(extra)),
            Self::Nothing => (None, None),
        }
    }
}

/// The chain of one request: of a write, of a read, or of one without data.
pub(super) type RequestChain<D> = Either<
    Chain<(DmaBuf, D), DmaBuf>,
    Either<Chain<DmaBuf, (D, DmaBuf)>, Chain<(DmaBuf, Option<DmaBuf>), (Option<DmaBuf>, DmaBuf)>>,
>;

/// Puts a request's buffers into a chain.
#[inline(always)]
pub(super) fn chain<D: Parts>(Frame { header, status }: Frame, content: Content<D>) -> RequestChain<D> {
    let (range, id) = match content {
        Content::Out(data) => return Either::One(Chain::new((header, data), status)),
        Content::In(data) => return Either::Other(Either::One(Chain::new(header, (data, status)))),
        Content::Range(range) => (Some(range), None),
        Content::Id(id) => (None, Some(id)),
        Content::Nothing => (None, None),
    };
    Either::Other(Either::Other(Chain::new((header, range), (id, status))))
}

/// Takes the chain of a request apart: header and status, data, what else there was.
#[inline(always)]
pub(super) fn apart<D: Parts>(chain: RequestChain<D>) -> (Frame, Option<D>, Option<DmaBuf>) {
    match chain {
        Either::One(chain) => {
            let ((header, data), status) = chain.into_parts();
            (Frame { header, status }, Some(data), None)
        }
        Either::Other(Either::One(chain)) => {
            let (header, (data, status)) = chain.into_parts();
            (Frame { header, status }, Some(data), None)
        }
        Either::Other(Either::Other(chain)) => {
            let ((header, range), (id, status)) = chain.into_parts();
            (Frame { header, status }, None, range.or(id))
        }
    }
}

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
    #[inline(always)]
    pub(super) fn prepare(&mut self, kind: Kind, sector: u64) {
        let header = RequestHeader { kind: kind.wire().0.into(), reserved: 0.into(), sector: sector.into() };
        // Both buffers were allocated with these lengths.
        let _ = self.header.write_value(0, &header);
        let _ = self.status.write_value(0, &NO_STATUS);
    }
}

/// What a status byte means.
#[inline(always)]
pub(super) fn result(status: u8) -> Result<(), super::RequestError> {
    match Status(status) {
        Status::OK => Ok(()),
        Status::IOERR => Err(super::RequestError::Io),
        Status::UNSUPP => Err(super::RequestError::Unsupported),
        Status(other) => Err(super::RequestError::BadStatus(other)),
    }
}
