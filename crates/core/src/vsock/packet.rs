//! Packets as a link sees them.

use super::{Address, Kind};
use virtio_kit_spec::vsock::{Header, Op};

/// What comes after a packet's header.
pub trait Payload {
    /// Bytes that there are, whatever the header says.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the next bytes, filling `to`; whether there were as many.
    fn read(&mut self, to: &mut [u8]) -> bool;
}

impl Payload for &[u8] {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn read(&mut self, to: &mut [u8]) -> bool {
        let Some((now, later)) = self.split_at_checked(to.len()) else { return false };
        to.copy_from_slice(now);
        *self = later;
        true
    }
}

/// A header without payload.
pub(super) fn header(kind: Kind, from: Address, to: Address, op: Op) -> Header {
    Header {
        src_cid: from.cid.into(),
        dst_cid: to.cid.into(),
        src_port: from.port.into(),
        dst_port: to.port.into(),
        kind: kind.code().0.into(),
        op: op.0.into(),
        ..Header::default()
    }
}

/// The answer to a packet that belongs to no connection.
pub(super) fn refusal(to: &Header) -> Header {
    Header {
        src_cid: to.dst_cid,
        dst_cid: to.src_cid,
        src_port: to.dst_port,
        dst_port: to.src_port,
        kind: to.kind,
        op: Op::RST.0.into(),
        ..Header::default()
    }
}
