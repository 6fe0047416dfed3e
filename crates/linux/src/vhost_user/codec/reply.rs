//! Replies: which request has one, and what is in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::input::{Input, NO_FD};
use super::output::{self, Output};
use super::payload::*;
use super::{BackendRequest, Error, MessageId, ProtocolFeatures, Request};

/// Which socket a reply travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The main socket: replies to the front-end's requests.
    Main,
    /// The back-end channel: replies to the back-end's requests.
    Backend,
}

/// What decides, besides the request, whether there is a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyRules {
    /// What was negotiated.
    pub features: ProtocolFeatures,
    /// `POSTCOPY_LISTEN` was sent: memory tables are answered with addresses.
    pub postcopy: bool,
}

/// The shape of a reply, and what in it has to repeat the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// Zero, or an error.
    Ack,
    /// A number that was asked for.
    Value,
    /// An acknowledgement, in one of the shapes that back-ends give it.
    LogBase,
    /// A vring state of this queue.
    VringBase {
        /// The queue.
        index: u32,
    },
    /// As many regions, with the back-end's addresses.
    MemTable {
        /// How many.
        count: usize,
    },
    /// One region, with the back-end's address.
    MemReg,
    /// The piece of configuration space, or nothing for an error.
    Config {
        /// Where it starts.
        offset: u32,
        /// Its size.
        size: u32,
    },
    /// A crypto session description.
    CryptoSession,
    /// A descriptor and no payload.
    Userfault,
    /// An in-flight description, and a descriptor unless its size is zero.
    Inflight,
    /// A descriptor or none.
    SharedObject,
    /// A result, and a descriptor if its flag says so.
    DeviceState,
    /// Shared memory sizes.
    ShmemConfig,
    /// Zero and a descriptor, or an error.
    SharedObjectLookup,
}

/// A reply that is awaited: to which request, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedReply {
    /// The request's id.
    pub request: u32,
    /// What has to come.
    pub kind: ReplyKind,
}

/// A reply. `F` holds descriptors, as in [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<F = OwnedFd> {
    /// Done if zero, else an error.
    Ack(u64),
    /// The number asked for: features, protocol features, queues, slots or status.
    Value(u64),
    /// Where a queue goes on.
    VringBase(VringState),
    /// The regions with the back-end's addresses.
    MemTable(Vec<MemoryRegion>),
    /// The region with the back-end's address.
    MemReg(MemoryRegion),
    /// A piece of configuration space; none if the back-end cannot give it.
    Config(Option<ConfigSpace>),
    /// A crypto session description.
    CryptoSession(Vec<u8>),
    /// A userfault descriptor.
    Userfault(F),
    /// The in-flight buffer; no descriptor, and size zero, if there is none.
    Inflight(Inflight, Option<F>),
    /// A dma-buf, or none if it was not found.
    SharedObject(Option<F>),
    /// Zero for success, and the back-end's own channel if that is to be used.
    DeviceState {
        /// Bits 0 to 7: zero for success.
        result: u8,
        /// Never with an error.
        fd: Option<F>,
    },
    /// Sizes of the shared memory regions.
    ShmemConfig(Box<ShmemConfig>),
    /// A dma-buf, or the error.
    SharedObjectLookup(Result<F, u64>),
}

impl<F> Request<F> {
    /// The kind of reply that this request has under these rules, if it has one.
    pub fn reply_kind(&self, rules: ReplyRules, need_reply: bool) -> Option<ReplyKind> {
        let acknowledged = need_reply && rules.features.contains(ProtocolFeatures::REPLY_ACK);
        Some(match self {
            Self::GetFeatures
            | Self::GetProtocolFeatures
            | Self::GetQueueNum
            | Self::GetMaxMemSlots
            | Self::GetStatus => ReplyKind::Value,
            Self::IotlbMsg(_) | Self::PostcopyEnd | Self::CheckDeviceState => ReplyKind::Ack,
            Self::SetMemTable(table) if rules.postcopy && !table.is_empty() => {
                ReplyKind::MemTable { count: table.len() }
            }
            // The empty table of postcopy ends the exchange that the full one began.
            Self::SetMemTable(_) if rules.postcopy => return None,
            Self::AddMemReg(_) if rules.postcopy => ReplyKind::MemReg,
            Self::SetLogBase(_) if rules.features.contains(ProtocolFeatures::LOG_SHMFD) => ReplyKind::LogBase,
            Self::GetVringBase { index } => ReplyKind::VringBase { index: *index },
            Self::GetConfig { offset, size, .. } => ReplyKind::Config { offset: *offset, size: *size },
            Self::CreateCryptoSession(_) => ReplyKind::CryptoSession,
            Self::PostcopyAdvise => ReplyKind::Userfault,
            Self::GetInflightFd(_) => ReplyKind::Inflight,
            Self::GetSharedObject(_) => ReplyKind::SharedObject,
            Self::SetDeviceStateFd { .. } => ReplyKind::DeviceState,
            Self::GetShmemConfig => ReplyKind::ShmemConfig,
            _ if acknowledged => ReplyKind::Ack,
            _ => return None,
        })
    }

    /// What to hand to [`ReplyDecoder::expect`](super::ReplyDecoder::expect), if there will be a reply.
    pub fn expected_reply(&self, rules: ReplyRules, need_reply: bool) -> Option<ExpectedReply> {
        self.reply_kind(rules, need_reply).map(|kind| ExpectedReply { request: self.id(), kind })
    }
}

impl<F> BackendRequest<F> {
    /// The kind of reply that this request has under these rules, if it has one.
    pub fn reply_kind(&self, rules: ReplyRules, need_reply: bool) -> Option<ReplyKind> {
        match self {
            Self::SharedObjectLookup(_) => Some(ReplyKind::SharedObjectLookup),
            _ if need_reply && rules.features.contains(ProtocolFeatures::REPLY_ACK) => Some(ReplyKind::Ack),
            _ => None,
        }
    }

    /// What to hand to [`ReplyDecoder::expect`](super::ReplyDecoder::expect), if there will be a reply.
    pub fn expected_reply(&self, rules: ReplyRules, need_reply: bool) -> Option<ExpectedReply> {
        self.reply_kind(rules, need_reply).map(|kind| ExpectedReply { request: self.id(), kind })
    }
}

impl Channel {
    /// A reply's name for errors.
    pub(super) fn reply(self, request: u32) -> MessageId {
        match self {
            Self::Main => MessageId::Reply(request),
            Self::Backend => MessageId::BackendReply(request),
        }
    }
}

impl<F: AsFd> Reply<F> {
    /// Appends the reply to the request with this id to `bytes`, and the descriptors to pass to `fds`.
    pub fn encode<'f>(
        &'f self,
        channel: Channel,
        request: u32,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<BorrowedFd<'f>>,
    ) -> Result<(), Error> {
        output::encode(channel.reply(request), false, bytes, fds, |out| self.write(out))
    }

    fn write<'f>(&'f self, out: &mut Output<'_, 'f>) -> Result<(), Error> {
        match self {
            Self::Ack(value) | Self::Value(value) => out.u64(*value),
            Self::VringBase(state) => out.vring_state(state.index, state.num),
            Self::MemTable(regions) => out.regions(regions.iter())?,
            Self::MemReg(region) => out.single_region(region)?,
            Self::Config(None) => {}
            Self::Config(Some(config)) => out.config(config.offset, config.flags, &config.data)?,
            Self::CryptoSession(session) => out.raw(session),
            Self::Userfault(fd) => out.fd(fd),
            Self::Inflight(inflight, fd) => {
                out.inflight(inflight)?;
                check_inflight_fd(out.message, inflight, fd.is_some())?;
                fd.iter().for_each(|fd| out.fd(fd));
            }
            Self::SharedObject(fd) => fd.iter().for_each(|fd| out.fd(fd)),
            Self::DeviceState { result, fd } => {
                check_device_state(out.message, *result, fd.is_some())?;
                out.queue_fd(*result, fd.as_ref());
            }
            Self::ShmemConfig(config) => out.shmem_config(config),
            Self::SharedObjectLookup(Ok(fd)) => {
                out.u64(0);
                out.fd(fd);
            }
            Self::SharedObjectLookup(Err(0)) => {
                return Err(Error::Value { message: out.message, field: "error", value: 0 });
            }
            Self::SharedObjectLookup(Err(error)) => out.u64(*error),
        }
        Ok(())
    }
}

impl Reply {
    /// Takes a whole reply of this kind apart.
    pub(super) fn read(mut input: Input<'_>, kind: ReplyKind) -> Result<Self, Error> {
        let from = &mut input;
        let reply = match kind {
            ReplyKind::Ack => Self::Ack(from.only_u64()?),
            ReplyKind::Value => Self::Value(from.only_u64()?),
            ReplyKind::LogBase => Self::Ack(read_log_base(from)?),
            ReplyKind::VringBase { index } => {
                let state = from.vring_state()?;
                check_same(from.message, "vring index", state.index, index)?;
                Self::VringBase(state)
            }
            ReplyKind::MemTable { count } => {
                let regions = from.regions()?;
                check_same(from.message, "num regions", regions.len() as u32, count as u32)?;
                Self::MemTable(regions)
            }
            ReplyKind::MemReg => Self::MemReg(from.single_region()?),
            ReplyKind::Config { offset, size } => Self::Config(read_config(from, offset, size)?),
            ReplyKind::CryptoSession => Self::CryptoSession(from.rest()),
            ReplyKind::Userfault => Self::Userfault(from.nothing().and_then(|()| from.fd())?),
            ReplyKind::Inflight => {
                let inflight = from.inflight()?;
                let fd = from.fd_if(inflight.mmap_size != 0)?;
                Self::Inflight(inflight, fd)
            }
            ReplyKind::SharedObject => {
                // Some back-ends send the request's UUID back.
                if from.len() != 0 {
                    from.uuid()?;
                }
                Self::SharedObject(from.optional_fd()?)
            }
            ReplyKind::DeviceState => {
                let value = from.only_u64()?;
                let result = u8::try_from(value & !NO_FD).map_err(|_| from.value("result", value))?;
                let there = value & NO_FD == 0;
                check_device_state(from.message, result, there)?;
                Self::DeviceState { result, fd: from.fd_if(there)? }
            }
            ReplyKind::ShmemConfig => Self::ShmemConfig(Box::new(from.shmem_config()?)),
            ReplyKind::SharedObjectLookup => Self::SharedObjectLookup(match from.only_u64()? {
                0 => Ok(from.fd()?),
                error => Err(error),
            }),
        };
        input.finish(reply)
    }
}

/// Nothing, a number, or the request's own payload.
fn read_log_base(from: &mut Input<'_>) -> Result<u64, Error> {
    match from.len() {
        0 => Ok(0),
        16 => {
            from.rest();
            Ok(0)
        }
        _ => from.only_u64(),
    }
}

/// A back-end that cannot give it sends nothing, or a piece of zero bytes.
fn read_config(from: &mut Input<'_>, offset: u32, size: u32) -> Result<Option<ConfigSpace>, Error> {
    if from.len() == 0 {
        return Ok(None);
    }
    let config = from.config()?;
    if config.data.is_empty() {
        return Ok(None);
    }
    check_same(from.message, "offset", config.offset, offset)?;
    check_same(from.message, "size", config.data.len() as u32, size)?;
    Ok(Some(config))
}

fn check_same(message: MessageId, field: &'static str, value: u32, expected: u32) -> Result<(), Error> {
    if value == expected {
        return Ok(());
    }
    Err(Error::Mismatch { message, field, value: value.into(), expected: expected.into() })
}

fn check_inflight_fd(message: MessageId, inflight: &Inflight, there: bool) -> Result<(), Error> {
    let expected = inflight.mmap_size != 0;
    if there == expected {
        return Ok(());
    }
    Err(Error::Fds { message, count: there.into(), expected: expected.into() })
}

/// An error and a channel exclude each other.
fn check_device_state(message: MessageId, result: u8, fd: bool) -> Result<(), Error> {
    if result != 0 && fd {
        return Err(Error::Fds { message, count: 1, expected: 0 });
    }
    Ok(())
}
