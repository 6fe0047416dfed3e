//! The protocol of socket devices (5.10.6), without queues: what the driver and the device do alike.
//!
//! A *connection* is two bounded pipes, one for each direction, between two *sides*. A side is an [`End`], which a
//! program reads and writes, or a [`Link`], which turns pipes into packets and back for whoever is at the other end
//! of a device's queues. A driver has one link and joins ends to it. A device has one link to each guest, and joins
//! guests to ends of the host, or to each other: then one connection has a link at both sides, and each pays attention
//! to its own guest's credit.
//!
//! So a link never has to wait: what comes in has room in its pipe, or its sender broke the rules and is reset; what
//! goes out waits in its pipe for credit while other connections go on. Memory is bounded by [`Limits`].
//!
//! Nothing here knows a queue, a clock or a thread.

mod address;
mod connection;
mod credit;
mod end;
mod error;
mod link;
mod listen;
mod outbox;
mod packet;
mod pipe;
mod route;
mod slot;
mod wakes;

pub use address::{Address, Kind, Kinds, PORT_ANY};
pub use end::{End, Message, ReadEnd, WriteEnd};
pub use error::{Error, ListenError};
pub use link::{Batch, Counters, Limits, Link};
pub use listen::{Listener, Listeners};
pub use packet::Payload;
pub use route::{Request, Router};
pub use wakes::Scratch;
