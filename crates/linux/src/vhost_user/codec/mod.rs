//! The vhost-user message codec: bytes and file descriptors in, typed messages out, and the reverse.
//!
//! Four kinds of messages travel on two sockets:
//!
//! | socket | from | message | type |
//! |---|---|---|---|
//! | main | front-end | request | [`Request`] |
//! | main | back-end | its reply | [`Reply`] |
//! | back-end channel (`SET_BACKEND_REQ_FD`) | back-end | request | [`BackendRequest`] |
//! | back-end channel | front-end | its reply | [`Reply`] |
//!
//! To send, call `encode` on the message: it appends the bytes and the descriptors to pass along.
//! To receive, feed what `recvmsg` returned to a [`RequestDecoder`], [`BackendRequestDecoder`] or
//! [`ReplyDecoder`], in pieces of any size, and take messages out.
//!
//! A front-end's exchange is: [`Request::expected_reply`], [`ReplyDecoder::expect`],
//! [`Request::encode`], send; then receive, [`ReplyDecoder::feed`], [`ReplyDecoder::next`].
//!
//! Numbers are in native byte order, as the protocol says. What a message means, and whether it may
//! be sent yet, is the session's concern and not checked here.

mod backend_request;
mod code;
mod decode;
mod error;
mod features;
mod frame;
mod header;
pub mod inflight;
mod input;
mod output;
mod payload;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use backend_request::BackendRequest;
pub use code::{BackendCode, MessageId, RequestCode};
pub use decode::{BackendRequestDecoder, Decoder, Incoming, Received, ReplyDecoder, RequestDecoder};
pub use error::Error;
pub use features::{F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeatures};
pub use header::{HEADER_SIZE, Header, VERSION};
pub use payload::{
    Access, ConfigSpace, Direction, HostNotifier, Inflight, Iotlb, IotlbKind, LogBase, MAX_CONFIG_SIZE,
    MAX_REGIONS, MAX_SHMEM_REGIONS, MemoryRegion, PackedBase, Phase, SharedRegion, ShmemConfig, ShmemRange,
    Uuid, VRING_F_LOG, VringAddr, VringFd, VringState, XenMapping,
};
pub use reply::{Channel, ExpectedReply, Reply, ReplyKind, ReplyRules};
pub use request::Request;

/// The most file descriptors that one message carries.
pub const MAX_FDS: usize = 8;
