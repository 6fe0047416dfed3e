//! The front-end's requests.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::input::{Input, check_config, check_end};
use super::output::{self, Output};
use super::payload::*;
use super::{Error, MessageId, ProtocolFeatures, RequestCode};

/// A front-end's request. `F` holds descriptors: owned in what was received, owned or borrowed in
/// what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<F = OwnedFd> {
    /// `GET_FEATURES`: asks for the feature bits.
    GetFeatures,
    /// `SET_FEATURES`: accepts feature bits.
    SetFeatures(u64),
    /// `SET_OWNER`: starts the session.
    SetOwner,
    /// `RESET_OWNER`: no longer used.
    ResetOwner,
    /// `SET_MEM_TABLE`: all of the memory, at most [`MAX_REGIONS`]. In postcopy the table is
    /// followed by an empty one, once the addresses in the reply are known.
    SetMemTable(Vec<SharedRegion<F>>),
    /// `SET_LOG_BASE`: the dirty log.
    SetLogBase(LogBase<F>),
    /// `SET_LOG_FD`: an event when the log was written.
    SetLogFd(F),
    /// `SET_VRING_NUM`: a queue's size.
    SetVringNum(VringState),
    /// `SET_VRING_ADDR`: where a queue's rings are.
    SetVringAddr(VringAddr),
    /// `SET_VRING_BASE`: where a queue goes on.
    SetVringBase(VringState),
    /// `GET_VRING_BASE`: stops a queue and asks where it would go on.
    GetVringBase {
        /// The queue.
        index: u32,
    },
    /// `SET_VRING_KICK`: the event that starts a queue.
    SetVringKick(VringFd<F>),
    /// `SET_VRING_CALL`: the event that says buffers were used.
    SetVringCall(VringFd<F>),
    /// `SET_VRING_ERR`: the event that says a queue failed.
    SetVringErr(VringFd<F>),
    /// `GET_PROTOCOL_FEATURES`: asks for the protocol features.
    GetProtocolFeatures,
    /// `SET_PROTOCOL_FEATURES`: accepts protocol features.
    SetProtocolFeatures(ProtocolFeatures),
    /// `GET_QUEUE_NUM`: asks for the number of queues.
    GetQueueNum,
    /// `SET_VRING_ENABLE`: enables or disables a queue.
    SetVringEnable {
        /// The queue.
        index: u32,
        /// Which.
        enable: bool,
    },
    /// `SEND_RARP`: announce this MAC address.
    SendRarp([u8; 6]),
    /// `NET_SET_MTU`: the MTU that the guest sees.
    NetSetMtu(u64),
    /// `SET_BACKEND_REQ_FD`: the socket for the back-end's requests.
    SetBackendReqFd(F),
    /// `IOTLB_MSG`: an entry given or taken back. Always sent with need_reply.
    IotlbMsg(Iotlb),
    /// `SET_VRING_ENDIAN`: a legacy queue's byte order.
    SetVringEndian {
        /// The queue.
        index: u32,
        /// Big-endian, else little-endian.
        big: bool,
    },
    /// `GET_CONFIG`: asks for a piece of configuration space.
    GetConfig {
        /// Where it starts, in bytes.
        offset: u32,
        /// Its size in bytes, at most [`MAX_CONFIG_SIZE`].
        size: u32,
        /// See [`ConfigSpace::flags`].
        flags: u32,
    },
    /// `SET_CONFIG`: writes a piece of configuration space.
    SetConfig(ConfigSpace),
    /// `CREATE_CRYPTO_SESSION`: a crypto session description, whose layout the protocol leaves open.
    CreateCryptoSession(Vec<u8>),
    /// `CLOSE_CRYPTO_SESSION`: the session with this id.
    CloseCryptoSession(u64),
    /// `POSTCOPY_ADVISE`: asks for a userfault descriptor.
    PostcopyAdvise,
    /// `POSTCOPY_LISTEN`: memory may be absent from now on.
    PostcopyListen,
    /// `POSTCOPY_END`: all memory is there.
    PostcopyEnd,
    /// `GET_INFLIGHT_FD`: asks for an in-flight buffer.
    GetInflightFd(Inflight),
    /// `SET_INFLIGHT_FD`: gives the in-flight buffer back.
    SetInflightFd(Inflight, F),
    /// `GPU_SET_SOCKET`: the socket of the GPU protocol.
    GpuSetSocket(F),
    /// `RESET_DEVICE`: back to the initial state.
    ResetDevice,
    /// `VRING_KICK`: a kick as a message.
    VringKick {
        /// The queue.
        index: u32,
    },
    /// `GET_MAX_MEM_SLOTS`: asks how many regions there may be.
    GetMaxMemSlots,
    /// `ADD_MEM_REG`: one more region.
    AddMemReg(SharedRegion<F>),
    /// `REM_MEM_REG`: one region less; its mmap offset does not matter.
    RemMemReg(MemoryRegion),
    /// `SET_STATUS`: the device status.
    SetStatus(u8),
    /// `GET_STATUS`: asks for the device status.
    GetStatus,
    /// `GET_SHARED_OBJECT`: asks for a dma-buf.
    GetSharedObject(Uuid),
    /// `SET_DEVICE_STATE_FD`: the channel on which the device's state goes.
    SetDeviceStateFd {
        /// Which way.
        direction: Direction,
        /// When.
        phase: Phase,
        /// The front-end's channel.
        fd: F,
    },
    /// `CHECK_DEVICE_STATE`: asks whether the transfer was whole.
    CheckDeviceState,
    /// `GET_SHMEM_CONFIG`: asks for the shared memory regions.
    GetShmemConfig,
    /// Another request, which only an acknowledgement can answer. Its descriptors were closed.
    Unknown {
        /// Its id.
        id: u32,
        /// Its payload.
        payload: Vec<u8>,
    },
}

impl<F> Request<F> {
    /// The id on the wire.
    pub fn id(&self) -> u32 {
        self.code().map_or_else(|id| id, |code| code as u32)
    }

    /// The message's name for errors and logs.
    pub fn message(&self) -> MessageId {
        MessageId::Request(self.id())
    }

    fn code(&self) -> Result<RequestCode, u32> {
        use RequestCode as C;
        Ok(match self {
            Self::GetFeatures => C::GetFeatures,
            Self::SetFeatures(_) => C::SetFeatures,
            Self::SetOwner => C::SetOwner,
            Self::ResetOwner => C::ResetOwner,
            Self::SetMemTable(_) => C::SetMemTable,
            Self::SetLogBase(_) => C::SetLogBase,
            Self::SetLogFd(_) => C::SetLogFd,
            Self::SetVringNum(_) => C::SetVringNum,
            Self::SetVringAddr(_) => C::SetVringAddr,
            Self::SetVringBase(_) => C::SetVringBase,
            Self::GetVringBase { .. } => C::GetVringBase,
            Self::SetVringKick(_) => C::SetVringKick,
            Self::SetVringCall(_) => C::SetVringCall,
            Self::SetVringErr(_) => C::SetVringErr,
            Self::GetProtocolFeatures => C::GetProtocolFeatures,
            Self::SetProtocolFeatures(_) => C::SetProtocolFeatures,
            Self::GetQueueNum => C::GetQueueNum,
            Self::SetVringEnable { .. } => C::SetVringEnable,
            Self::SendRarp(_) => C::SendRarp,
            Self::NetSetMtu(_) => C::NetSetMtu,
            Self::SetBackendReqFd(_) => C::SetBackendReqFd,
            Self::IotlbMsg(_) => C::IotlbMsg,
            Self::SetVringEndian { .. } => C::SetVringEndian,
            Self::GetConfig { .. } => C::GetConfig,
            Self::SetConfig(_) => C::SetConfig,
            Self::CreateCryptoSession(_) => C::CreateCryptoSession,
            Self::CloseCryptoSession(_) => C::CloseCryptoSession,
            Self::PostcopyAdvise => C::PostcopyAdvise,
            Self::PostcopyListen => C::PostcopyListen,
            Self::PostcopyEnd => C::PostcopyEnd,
            Self::GetInflightFd(_) => C::GetInflightFd,
            Self::SetInflightFd(..) => C::SetInflightFd,
            Self::GpuSetSocket(_) => C::GpuSetSocket,
            Self::ResetDevice => C::ResetDevice,
            Self::VringKick { .. } => C::VringKick,
            Self::GetMaxMemSlots => C::GetMaxMemSlots,
            Self::AddMemReg(_) => C::AddMemReg,
            Self::RemMemReg(_) => C::RemMemReg,
            Self::SetStatus(_) => C::SetStatus,
            Self::GetStatus => C::GetStatus,
            Self::GetSharedObject(_) => C::GetSharedObject,
            Self::SetDeviceStateFd { .. } => C::SetDeviceStateFd,
            Self::CheckDeviceState => C::CheckDeviceState,
            Self::GetShmemConfig => C::GetShmemConfig,
            Self::Unknown { id, .. } => return Err(*id),
        })
    }
}

impl<F: AsFd> Request<F> {
    /// Appends the message to `bytes`, and the descriptors to pass with its first byte to `fds`.
    ///
    /// Fails, and appends nothing, if the message breaks a rule that [`RequestDecoder`](super::RequestDecoder)
    /// holds the other end to.
    pub fn encode<'f>(
        &'f self,
        need_reply: bool,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<BorrowedFd<'f>>,
    ) -> Result<(), Error> {
        // Back-ends differ in whether they answer IOTLB_MSG unasked; asked, they all do.
        let need_reply = need_reply || matches!(self, Self::IotlbMsg(_));
        output::encode(self.message(), need_reply, bytes, fds, |out| self.write(out))
    }

    fn write<'f>(&'f self, out: &mut Output<'_, 'f>) -> Result<(), Error> {
        match self {
            Self::GetFeatures
            | Self::SetOwner
            | Self::ResetOwner
            | Self::GetProtocolFeatures
            | Self::GetQueueNum
            | Self::PostcopyAdvise
            | Self::PostcopyListen
            | Self::PostcopyEnd
            | Self::ResetDevice
            | Self::GetMaxMemSlots
            | Self::GetStatus
            | Self::CheckDeviceState
            | Self::GetShmemConfig => {}
            Self::SetFeatures(value) | Self::NetSetMtu(value) | Self::CloseCryptoSession(value) => {
                out.u64(*value)
            }
            Self::SetProtocolFeatures(features) => out.u64(features.bits()),
            Self::SetStatus(status) => out.u64((*status).into()),
            Self::SendRarp(mac) => {
                out.raw(mac);
                out.raw(&[0; 2]);
            }
            Self::SetMemTable(table) => {
                out.regions(table.iter().map(|shared| &shared.region))?;
                table.iter().for_each(|shared| out.fd(&shared.fd));
            }
            Self::SetLogBase(LogBase::Address(address)) => out.u64(*address),
            Self::SetLogBase(LogBase::Area { size, offset, fd }) => {
                check_end(out.message, "log offset", *offset, *size)?;
                out.u64(*size);
                out.u64(*offset);
                fd.iter().for_each(|fd| out.fd(fd));
            }
            Self::SetLogFd(fd) | Self::SetBackendReqFd(fd) | Self::GpuSetSocket(fd) => out.fd(fd),
            Self::SetVringNum(state) | Self::SetVringBase(state) => out.vring_state(state.index, state.num),
            Self::SetVringAddr(addr) => out.vring_addr(addr),
            Self::GetVringBase { index } | Self::VringKick { index } => out.vring_state(*index, 0),
            Self::SetVringKick(ring) | Self::SetVringCall(ring) | Self::SetVringErr(ring) => {
                out.queue_fd(ring.index, ring.fd.as_ref());
            }
            Self::SetVringEnable { index, enable: on } | Self::SetVringEndian { index, big: on } => {
                out.vring_state(*index, (*on).into());
            }
            Self::IotlbMsg(iotlb) => out.iotlb(iotlb)?,
            Self::GetConfig { offset, size, flags } => {
                check_config(out.message, *offset, *size)?;
                out.config(*offset, *flags, &[0; MAX_CONFIG_SIZE as usize][..*size as usize])?;
            }
            Self::SetConfig(config) => out.config(config.offset, config.flags, &config.data)?,
            Self::CreateCryptoSession(session) => out.raw(session),
            Self::GetInflightFd(inflight) => out.inflight(inflight)?,
            Self::SetInflightFd(inflight, fd) => {
                check_given(out.message, inflight)?;
                out.inflight(inflight)?;
                out.fd(fd);
            }
            Self::AddMemReg(shared) => {
                out.single_region(&shared.region)?;
                out.fd(&shared.fd);
            }
            Self::RemMemReg(region) => out.single_region(region)?,
            Self::GetSharedObject(uuid) => out.raw(&uuid.0),
            Self::SetDeviceStateFd { direction, phase, fd } => {
                out.vring_state(*direction as u32, *phase as u32);
                out.fd(fd);
            }
            Self::Unknown { payload, .. } => out.raw(payload),
        }
        Ok(())
    }
}

impl Request {
    /// Takes a whole message apart.
    pub(super) fn read(mut input: Input<'_>) -> Result<Self, Error> {
        use RequestCode as C;
        let from = &mut input;
        let id = from.message.id();
        let Some(code) = C::from_id(id) else {
            return Ok(Self::Unknown { id, payload: from.rest() });
        };
        let request = match code {
            C::GetFeatures => Self::GetFeatures,
            C::SetFeatures => Self::SetFeatures(from.only_u64()?),
            C::SetOwner => Self::SetOwner,
            C::ResetOwner => Self::ResetOwner,
            C::SetMemTable => {
                let regions = from.regions()?;
                let fds = from.fds(regions.len())?;
                let shared = regions.into_iter().zip(fds).map(|(region, fd)| SharedRegion { region, fd });
                Self::SetMemTable(shared.collect())
            }
            C::SetLogBase => Self::SetLogBase(read_log_base(from)?),
            C::SetLogFd => Self::SetLogFd(from.nothing().and_then(|()| from.fd())?),
            C::SetVringNum => Self::SetVringNum(from.vring_state()?),
            C::SetVringAddr => Self::SetVringAddr(from.vring_addr()?),
            C::SetVringBase => Self::SetVringBase(from.vring_state()?),
            C::GetVringBase => Self::GetVringBase { index: from.vring_index()? },
            C::SetVringKick => Self::SetVringKick(from.vring_fd()?),
            C::SetVringCall => Self::SetVringCall(from.vring_fd()?),
            C::SetVringErr => Self::SetVringErr(from.vring_fd()?),
            C::GetProtocolFeatures => Self::GetProtocolFeatures,
            C::SetProtocolFeatures => {
                Self::SetProtocolFeatures(ProtocolFeatures::from_bits_retain(from.only_u64()?))
            }
            C::GetQueueNum => Self::GetQueueNum,
            C::SetVringEnable => {
                let (index, enable) = from.vring_switch()?;
                Self::SetVringEnable { index, enable }
            }
            C::SendRarp => {
                let [m0, m1, m2, m3, m4, m5, _, _] = from.only_u64()?.to_ne_bytes();
                Self::SendRarp([m0, m1, m2, m3, m4, m5])
            }
            C::NetSetMtu => Self::NetSetMtu(from.only_u64()?),
            C::SetBackendReqFd => Self::SetBackendReqFd(from.nothing().and_then(|()| from.fd())?),
            C::IotlbMsg => Self::IotlbMsg(from.iotlb()?),
            C::SetVringEndian => {
                let (index, big) = from.vring_switch()?;
                Self::SetVringEndian { index, big }
            }
            C::GetConfig => {
                let ConfigSpace { offset, flags, data } = from.config()?;
                Self::GetConfig { offset, size: data.len() as u32, flags }
            }
            C::SetConfig => Self::SetConfig(from.config()?),
            C::CreateCryptoSession => Self::CreateCryptoSession(from.rest()),
            C::CloseCryptoSession => Self::CloseCryptoSession(from.only_u64()?),
            C::PostcopyAdvise => Self::PostcopyAdvise,
            C::PostcopyListen => Self::PostcopyListen,
            C::PostcopyEnd => Self::PostcopyEnd,
            C::GetInflightFd => Self::GetInflightFd(from.inflight()?),
            C::SetInflightFd => {
                let inflight = from.inflight()?;
                check_given(from.message, &inflight)?;
                Self::SetInflightFd(inflight, from.fd()?)
            }
            C::GpuSetSocket => Self::GpuSetSocket(from.nothing().and_then(|()| from.fd())?),
            C::ResetDevice => Self::ResetDevice,
            C::VringKick => Self::VringKick { index: from.vring_index()? },
            C::GetMaxMemSlots => Self::GetMaxMemSlots,
            C::AddMemReg => Self::AddMemReg(SharedRegion { region: from.single_region()?, fd: from.fd()? }),
            C::RemMemReg => {
                let region = from.single_region()?;
                // Some front-ends pass a descriptor; the protocol has it closed unused.
                drop(from.optional_fd()?);
                Self::RemMemReg(region)
            }
            C::SetStatus => Self::SetStatus(from.status()?),
            C::GetStatus => Self::GetStatus,
            C::GetSharedObject => Self::GetSharedObject(from.uuid()?),
            C::SetDeviceStateFd => read_device_state_fd(from)?,
            C::CheckDeviceState => Self::CheckDeviceState,
            C::GetShmemConfig => Self::GetShmemConfig,
        };
        input.finish(request)
    }
}

fn read_log_base(from: &mut Input<'_>) -> Result<LogBase, Error> {
    if from.len() == 8 {
        return Ok(LogBase::Address(from.u64()?));
    }
    from.exact(16)?;
    let (size, offset) = (from.u64()?, from.u64()?);
    check_end(from.message, "log offset", offset, size)?;
    Ok(LogBase::Area { size, offset, fd: from.optional_fd()? })
}

fn read_device_state_fd(from: &mut Input<'_>) -> Result<Request, Error> {
    let VringState { index: direction, num: phase } = from.vring_state()?;
    let direction = match direction {
        0 => Direction::Save,
        1 => Direction::Load,
        other => return Err(from.value("transfer direction", other)),
    };
    let phase = match phase {
        0 => Phase::Stopped,
        other => return Err(from.value("migration phase", other)),
    };
    Ok(Request::SetDeviceStateFd { direction, phase, fd: from.fd()? })
}

/// A buffer that is given back is not empty.
fn check_given(message: MessageId, inflight: &Inflight) -> Result<(), Error> {
    if inflight.mmap_size == 0 { Err(Error::Empty { message }) } else { Ok(()) }
}
