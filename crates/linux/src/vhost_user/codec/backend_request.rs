//! The back-end's requests, on its own channel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::input::Input;
use super::output::{self, Output};
use super::payload::*;
use super::{BackendCode, Error, MessageId};

/// A back-end's request. `F` holds descriptors, as in [`Request`](super::Request).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendRequest<F = OwnedFd> {
    /// `BACKEND_IOTLB_MSG`: an entry is missing or does not permit.
    IotlbMsg(Iotlb),
    /// `BACKEND_CONFIG_CHANGE_MSG`: the configuration space changed.
    ConfigChangeMsg,
    /// `BACKEND_VRING_HOST_NOTIFIER_MSG`: a queue's notification memory.
    VringHostNotifierMsg(HostNotifier<F>),
    /// `BACKEND_VRING_CALL`: a call as a message.
    VringCall {
        /// The queue.
        index: u32,
    },
    /// `BACKEND_VRING_ERR`: an error as a message.
    VringErr {
        /// The queue.
        index: u32,
    },
    /// `BACKEND_SHARED_OBJECT_ADD`: this back-end exports an object.
    SharedObjectAdd(Uuid),
    /// `BACKEND_SHARED_OBJECT_REMOVE`: it no longer does.
    SharedObjectRemove(Uuid),
    /// `BACKEND_SHARED_OBJECT_LOOKUP`: asks for another back-end's object.
    SharedObjectLookup(Uuid),
    /// `BACKEND_SHMEM_MAP`: map this into a shared memory region.
    ShmemMap(ShmemRange, F),
    /// `BACKEND_SHMEM_UNMAP`: unmap it.
    ShmemUnmap(ShmemRange),
    /// Another request, which only an acknowledgement can answer. Its descriptors were closed.
    Unknown {
        /// Its id.
        id: u32,
        /// Its payload.
        payload: Vec<u8>,
    },
}

impl<F> BackendRequest<F> {
    /// The id on the wire.
    pub fn id(&self) -> u32 {
        use BackendCode as C;
        let code = match self {
            Self::IotlbMsg(_) => C::IotlbMsg,
            Self::ConfigChangeMsg => C::ConfigChangeMsg,
            Self::VringHostNotifierMsg(_) => C::VringHostNotifierMsg,
            Self::VringCall { .. } => C::VringCall,
            Self::VringErr { .. } => C::VringErr,
            Self::SharedObjectAdd(_) => C::SharedObjectAdd,
            Self::SharedObjectRemove(_) => C::SharedObjectRemove,
            Self::SharedObjectLookup(_) => C::SharedObjectLookup,
            Self::ShmemMap(..) => C::ShmemMap,
            Self::ShmemUnmap(_) => C::ShmemUnmap,
            Self::Unknown { id, .. } => return *id,
        };
        code as u32
    }

    /// The message's name for errors and logs.
    pub fn message(&self) -> MessageId {
        MessageId::BackendRequest(self.id())
    }
}

impl<F: AsFd> BackendRequest<F> {
    /// Appends the message to `bytes`, and the descriptors to pass with its first byte to `fds`.
    ///
    /// Fails, and appends nothing, if the message breaks a rule of the protocol.
    pub fn encode<'f>(
        &'f self,
        need_reply: bool,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<BorrowedFd<'f>>,
    ) -> Result<(), Error> {
        output::encode(self.message(), need_reply, bytes, fds, |out| self.write(out))
    }

    fn write<'f>(&'f self, out: &mut Output<'_, 'f>) -> Result<(), Error> {
        match self {
            Self::ConfigChangeMsg => {}
            Self::IotlbMsg(iotlb) => out.iotlb(iotlb)?,
            Self::VringHostNotifierMsg(notifier) => out.host_notifier(notifier)?,
            Self::VringCall { index } | Self::VringErr { index } => out.vring_state(*index, 0),
            Self::SharedObjectAdd(uuid) | Self::SharedObjectRemove(uuid) | Self::SharedObjectLookup(uuid) => {
                out.raw(&uuid.0);
            }
            Self::ShmemMap(range, fd) => {
                out.shmem_range(range)?;
                out.fd(fd);
            }
            Self::ShmemUnmap(range) => out.shmem_range(range)?,
            Self::Unknown { payload, .. } => out.raw(payload),
        }
        Ok(())
    }
}

impl BackendRequest {
    /// Takes a whole message apart.
    pub(super) fn read(mut input: Input<'_>) -> Result<Self, Error> {
        use BackendCode as C;
        let from = &mut input;
        let id = from.message.id();
        let Some(code) = C::from_id(id) else {
            return Ok(Self::Unknown { id, payload: from.rest() });
        };
        let request = match code {
            C::IotlbMsg => Self::IotlbMsg(from.iotlb()?),
            C::ConfigChangeMsg => Self::ConfigChangeMsg,
            C::VringHostNotifierMsg => Self::VringHostNotifierMsg(from.host_notifier()?),
            C::VringCall => Self::VringCall { index: from.vring_index()? },
            C::VringErr => Self::VringErr { index: from.vring_index()? },
            C::SharedObjectAdd => Self::SharedObjectAdd(from.uuid()?),
            C::SharedObjectRemove => Self::SharedObjectRemove(from.uuid()?),
            C::SharedObjectLookup => Self::SharedObjectLookup(from.uuid()?),
            C::ShmemMap => Self::ShmemMap(from.shmem_range()?, from.fd()?),
            C::ShmemUnmap => Self::ShmemUnmap(from.shmem_range()?),
        };
        input.finish(request)
    }
}
