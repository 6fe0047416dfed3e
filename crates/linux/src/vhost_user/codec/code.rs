//! Message ids, their names, and the largest payload of each.

use core::fmt;

/// Largest payload of a message whose id is unknown; it is read only to be skipped or refused.
const UNKNOWN_MAX: u32 = 4096;
/// Largest crypto session description: its layout is not in the protocol text.
const CRYPTO_MAX: u32 = 4096;
/// Eight regions with Xen fields.
const TABLE_MAX: u32 = 8 + 8 * 40;
const CONFIG_MAX: u32 = 12 + super::MAX_CONFIG_SIZE;
const SHMEM_MAX: u32 = 8 + 8 * super::MAX_SHMEM_REGIONS as u32;

macro_rules! codes {
    ($(#[$meta:meta])* $type:ident: $($variant:ident = $id:literal $name:literal, $max:expr, $reply_max:expr;)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $type {
            $(#[doc = concat!("`", $name, "`")] $variant = $id,)*
        }

        impl $type {
            /// Every id, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The message with this id.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// The protocol's name, without `VHOST_USER_`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(super) const fn max_payload(self) -> u32 {
                match self { $(Self::$variant => $max,)* }
            }

            pub(super) const fn max_reply(self) -> u32 {
                match self { $(Self::$variant => $reply_max,)* }
            }
        }
    };
}

codes! {
    /// Ids of the front-end's requests.
    RequestCode:
    GetFeatures = 1 "GET_FEATURES", 0, 8;
    SetFeatures = 2 "SET_FEATURES", 8, 8;
    SetOwner = 3 "SET_OWNER", 0, 8;
    ResetOwner = 4 "RESET_OWNER", 0, 8;
    SetMemTable = 5 "SET_MEM_TABLE", TABLE_MAX, TABLE_MAX;
    SetLogBase = 6 "SET_LOG_BASE", 16, 16;
    SetLogFd = 7 "SET_LOG_FD", 0, 8;
    SetVringNum = 8 "SET_VRING_NUM", 8, 8;
    SetVringAddr = 9 "SET_VRING_ADDR", 40, 8;
    SetVringBase = 10 "SET_VRING_BASE", 8, 8;
    GetVringBase = 11 "GET_VRING_BASE", 8, 8;
    SetVringKick = 12 "SET_VRING_KICK", 8, 8;
    SetVringCall = 13 "SET_VRING_CALL", 8, 8;
    SetVringErr = 14 "SET_VRING_ERR", 8, 8;
    GetProtocolFeatures = 15 "GET_PROTOCOL_FEATURES", 0, 8;
    SetProtocolFeatures = 16 "SET_PROTOCOL_FEATURES", 8, 8;
    GetQueueNum = 17 "GET_QUEUE_NUM", 0, 8;
    SetVringEnable = 18 "SET_VRING_ENABLE", 8, 8;
    SendRarp = 19 "SEND_RARP", 8, 8;
    NetSetMtu = 20 "NET_SET_MTU", 8, 8;
    SetBackendReqFd = 21 "SET_BACKEND_REQ_FD", 0, 8;
    IotlbMsg = 22 "IOTLB_MSG", 32, 8;
    SetVringEndian = 23 "SET_VRING_ENDIAN", 8, 8;
    GetConfig = 24 "GET_CONFIG", CONFIG_MAX, CONFIG_MAX;
    SetConfig = 25 "SET_CONFIG", CONFIG_MAX, 8;
    CreateCryptoSession = 26 "CREATE_CRYPTO_SESSION", CRYPTO_MAX, CRYPTO_MAX;
    CloseCryptoSession = 27 "CLOSE_CRYPTO_SESSION", 8, 8;
    PostcopyAdvise = 28 "POSTCOPY_ADVISE", 0, 8;
    PostcopyListen = 29 "POSTCOPY_LISTEN", 0, 8;
    PostcopyEnd = 30 "POSTCOPY_END", 0, 8;
    GetInflightFd = 31 "GET_INFLIGHT_FD", 24, 24;
    SetInflightFd = 32 "SET_INFLIGHT_FD", 24, 8;
    GpuSetSocket = 33 "GPU_SET_SOCKET", 0, 8;
    ResetDevice = 34 "RESET_DEVICE", 0, 8;
    VringKick = 35 "VRING_KICK", 8, 8;
    GetMaxMemSlots = 36 "GET_MAX_MEM_SLOTS", 0, 8;
    AddMemReg = 37 "ADD_MEM_REG", 48, 48;
    RemMemReg = 38 "REM_MEM_REG", 48, 8;
    SetStatus = 39 "SET_STATUS", 8, 8;
    GetStatus = 40 "GET_STATUS", 0, 8;
    GetSharedObject = 41 "GET_SHARED_OBJECT", 16, 16;
    SetDeviceStateFd = 42 "SET_DEVICE_STATE_FD", 8, 8;
    CheckDeviceState = 43 "CHECK_DEVICE_STATE", 0, 8;
    GetShmemConfig = 44 "GET_SHMEM_CONFIG", 0, SHMEM_MAX;
}

codes! {
    /// Ids of the back-end's requests.
    BackendCode:
    IotlbMsg = 1 "BACKEND_IOTLB_MSG", 32, 8;
    ConfigChangeMsg = 2 "BACKEND_CONFIG_CHANGE_MSG", 0, 8;
    VringHostNotifierMsg = 3 "BACKEND_VRING_HOST_NOTIFIER_MSG", 24, 8;
    VringCall = 4 "BACKEND_VRING_CALL", 8, 8;
    VringErr = 5 "BACKEND_VRING_ERR", 8, 8;
    SharedObjectAdd = 6 "BACKEND_SHARED_OBJECT_ADD", 16, 8;
    SharedObjectRemove = 7 "BACKEND_SHARED_OBJECT_REMOVE", 16, 8;
    SharedObjectLookup = 8 "BACKEND_SHARED_OBJECT_LOOKUP", 16, 8;
    ShmemMap = 9 "BACKEND_SHMEM_MAP", 40, 8;
    ShmemUnmap = 10 "BACKEND_SHMEM_UNMAP", 40, 8;
}

/// Which message an error is about: its kind and the id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// A front-end's request.
    Request(u32),
    /// The reply to a front-end's request.
    Reply(u32),
    /// A back-end's request.
    BackendRequest(u32),
    /// The reply to a back-end's request.
    BackendReply(u32),
}

impl MessageId {
    /// The id on the wire.
    pub const fn id(self) -> u32 {
        match self {
            Self::Request(id) | Self::Reply(id) | Self::BackendRequest(id) | Self::BackendReply(id) => id,
        }
    }

    /// The largest payload that this message can have.
    pub(super) fn max_payload(self) -> u32 {
        match self {
            Self::Request(id) => RequestCode::from_id(id).map_or(UNKNOWN_MAX, RequestCode::max_payload),
            Self::Reply(id) => RequestCode::from_id(id).map_or(8, RequestCode::max_reply),
            Self::BackendRequest(id) => {
                BackendCode::from_id(id).map_or(UNKNOWN_MAX, BackendCode::max_payload)
            }
            Self::BackendReply(id) => BackendCode::from_id(id).map_or(8, BackendCode::max_reply),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::Request(id) | Self::Reply(id) => RequestCode::from_id(id).map(RequestCode::name),
            Self::BackendRequest(id) | Self::BackendReply(id) => {
                BackendCode::from_id(id).map(BackendCode::name)
            }
        };
        match (name, *self) {
            (Some(name), _) => f.write_str(name)?,
            (None, Self::Request(id) | Self::Reply(id)) => write!(f, "request {id}")?,
            (None, Self::BackendRequest(id) | Self::BackendReply(id)) => write!(f, "back-end request {id}")?,
        }
        match self {
            Self::Reply(_) | Self::BackendReply(_) => f.write_str(" reply"),
            Self::Request(_) | Self::BackendRequest(_) => Ok(()),
        }
    }
}
