//! Socket device (5.10).

use zerocopy::little_endian::{U16, U32, U64};

/// Packets to the driver (5.10.2).
pub const RX_QUEUE: u16 = 0;
/// Packets to the device.
pub const TX_QUEUE: u16 = 1;
/// Events to the driver.
pub const EVENT_QUEUE: u16 = 2;

/// Context id of the host (5.10.4). 0, 1, 0xffffffff and all ones are reserved.
#[doc(alias = "VMADDR_CID_HOST")]
pub const HOST_CID: u64 = 2;

feature_bits! {
/// Feature bits (5.10.3).
pub enum F {
    /// Stream sockets.
    STREAM = 0 "VIRTIO_VSOCK_F_STREAM",
    /// Sequenced packet sockets.
    SEQPACKET = 1 "VIRTIO_VSOCK_F_SEQPACKET",
    /// Stream sockets only if [`STREAM`](Self::STREAM) says so.
    NO_IMPLIED_STREAM = 2 "VIRTIO_VSOCK_F_NO_IMPLIED_STREAM",
}
}

wire! {
/// Configuration (5.10.4).
#[doc(alias = "virtio_vsock_config")]
pub struct Config: 8 {
    /// The driver's context id; the upper 32 bits are zero.
    pub guest_cid: U64,
}

/// Packet header (5.10.6).
#[doc(alias = "virtio_vsock_hdr")]
pub struct Header: 44 {
    /// Context id of the sender; the upper 32 bits are zero.
    pub src_cid: U64,
    /// Context id of the receiver; the upper 32 bits are zero.
    pub dst_cid: U64,
    /// Port of the sender.
    pub src_port: U32,
    /// Port of the receiver.
    pub dst_port: U32,
    /// Payload in bytes.
    pub len: U32,
    /// [`Type`].
    #[doc(alias = "type")]
    pub kind: U16,
    /// [`Op`].
    pub op: U16,
    /// [`Shutdown`] or [`Seq`], depending on `op`.
    pub flags: U32,
    /// Receive buffer space of the sender in bytes (5.10.6.3).
    pub buf_alloc: U32,
    /// Bytes that the sender has consumed, modulo 2^32 (5.10.6.3).
    pub fwd_cnt: U32,
}

/// Event (5.10.6.7).
#[doc(alias = "virtio_vsock_event")]
pub struct Event: 4 {
    /// [`EventId`].
    pub id: U32,
}
}

codes! {
/// Socket type (5.10.6.2).
pub struct Type: u16 {
    /// Byte stream.
    STREAM = 1 "VIRTIO_VSOCK_TYPE_STREAM",
    /// Messages with boundaries.
    SEQPACKET = 2 "VIRTIO_VSOCK_TYPE_SEQPACKET",
}

/// Operation (5.10.6).
pub struct Op: u16 {
    /// Not valid.
    INVALID = 0 "VIRTIO_VSOCK_OP_INVALID",
    /// Connect.
    REQUEST = 1 "VIRTIO_VSOCK_OP_REQUEST",
    /// Connection accepted.
    RESPONSE = 2 "VIRTIO_VSOCK_OP_RESPONSE",
    /// Refused, aborted, or closed.
    RST = 3 "VIRTIO_VSOCK_OP_RST",
    /// No more data in the directions of the flags.
    SHUTDOWN = 4 "VIRTIO_VSOCK_OP_SHUTDOWN",
    /// Payload.
    RW = 5 "VIRTIO_VSOCK_OP_RW",
    /// The sender's credit: `buf_alloc` and `fwd_cnt`.
    CREDIT_UPDATE = 6 "VIRTIO_VSOCK_OP_CREDIT_UPDATE",
    /// Asks for [`CREDIT_UPDATE`](Self::CREDIT_UPDATE).
    CREDIT_REQUEST = 7 "VIRTIO_VSOCK_OP_CREDIT_REQUEST",
}

/// What happened (5.10.6.7).
pub struct EventId: u32 {
    /// Connections are gone and the context id may have changed.
    TRANSPORT_RESET = 0 "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET",
}
}

bitflags::bitflags! {
    /// Flags of [`Op::SHUTDOWN`] (5.10.6.5). The document gives bit numbers 0 and 1.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Shutdown: u32 {
        /// The sender will receive no more.
        #[doc(alias = "VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE")]
        const RECEIVE = 1;
        /// The sender will send no more.
        #[doc(alias = "VIRTIO_VSOCK_SHUTDOWN_F_SEND")]
        const SEND = 2;

        /// Unknown bits are kept.
        const _ = !0;
    }

    /// Flags of [`Op::RW`] on sequenced packet sockets (5.10.6.6.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Seq: u32 {
        /// Last packet of a message.
        #[doc(alias = "VIRTIO_VSOCK_SEQ_EOM")]
        const EOM = 1;
        /// Last packet of a record.
        #[doc(alias = "VIRTIO_VSOCK_SEQ_EOR")]
        const EOR = 2;

        /// Unknown bits are kept.
        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::mem::offset_of;
    use std::format;

    #[test]
    fn header_offsets() {
        assert_eq!([offset_of!(Header, dst_cid), offset_of!(Header, src_port)], [8, 16]);
        assert_eq!([offset_of!(Header, dst_port), offset_of!(Header, len)], [20, 24]);
        assert_eq!([offset_of!(Header, kind), offset_of!(Header, op)], [28, 30]);
        assert_eq!([offset_of!(Header, flags), offset_of!(Header, buf_alloc)], [32, 36]);
        assert_eq!(offset_of!(Header, fwd_cnt), 40);
    }

    #[test]
    fn codes_can_be_matched_and_printed() {
        assert!(matches!(Op(5), Op::RW));
        assert_eq!(format!("{:?} {:?}", Op::RST, Op(77)), "RST Op(77)");
    }
}
