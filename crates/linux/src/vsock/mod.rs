//! A guest's socket connections as Unix sockets of the host.
//!
//! The scheme is the one that Firecracker began and others took over, with a path for each guest:
//!
//! - A program of the host connects to the path, sends `CONNECT port` and a line feed, and reads `OK port` and a line
//!   feed when the guest has accepted; from there on the socket is the connection. If the guest refuses, it is closed.
//! - A guest that connects to a port of the host reaches whoever listens at the path with `_port` after it.
//!
//! Sequenced packets, which the scheme does not know, go by Unix sockets of that kind: programs connect to the path
//! with `_seqpacket` after it, where the two lines are a packet each; and a guest reaches whoever listens at `_port`
//! if their socket is of that kind.
//!
//! [`UnixHost`] is the device's router; a [`Proxy`] moves the bytes, whenever its descriptor is readable and its owner
//! has it [turn](Proxy::turn), or by a thread of its own ([`Proxy::spawn`]).

mod line;
mod proxy;
mod unix;
mod wakeups;

pub use proxy::{Proxy, Running};
pub use unix::UnixHost;
