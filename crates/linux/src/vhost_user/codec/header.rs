//! The 12-byte header in front of every message.

use super::{Error, MessageId};

/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 12;

/// The protocol version, in the low two bits of the flags.
pub const VERSION: u32 = 1;

const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A message header of protocol version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked, or what was asked when this is a reply.
    pub request: u32,
    /// The reply flag.
    pub reply: bool,
    /// The need_reply flag; says something only with `REPLY_ACK`.
    pub need_reply: bool,
    /// Bytes of payload that follow.
    pub size: u32,
}

impl Header {
    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut flags = VERSION;
        if self.reply {
            flags |= REPLY;
        }
        if self.need_reply {
            flags |= NEED_REPLY;
        }
        let mut bytes = [0; HEADER_SIZE];
        bytes[0..4].copy_from_slice(&self.request.to_ne_bytes());
        bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }

    /// Reads a header; refuses another version and unknown flags. `name` makes the id for errors.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE], name: impl FnOnce(u32) -> MessageId) -> Result<Self, Error> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = *bytes;
        let request = u32::from_ne_bytes([r0, r1, r2, r3]);
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        if flags & VERSION_MASK != VERSION {
            return Err(Error::Version { message: name(request), version: flags & VERSION_MASK });
        }
        if flags & !(VERSION_MASK | REPLY | NEED_REPLY) != 0 {
            return Err(Error::Flags { message: name(request), flags });
        }
        Ok(Self {
            request,
            reply: flags & REPLY != 0,
            need_reply: flags & NEED_REPLY != 0,
            size: u32::from_ne_bytes([s0, s1, s2, s3]),
        })
    }
}
