//! A socket driver (5.10).
//!
//! [`VsockDriver`] registers on a bus and hands each device that it takes to its owner as a [`Vsock`]: it connects and
//! listens, and it moves packets: by [`Vsock::poll`] as often as its owner likes, or by [`Vsock::run`] as a task that
//! sleeps until the device interrupts. [`Socket`]s, for streams and for messages, read and write without blocking or as
//! futures while it does, or for a bounded time by [`Blocking`], which moves packets itself; they may go to threads of
//! their own, one for each direction.
//!
//! All sockets share the device's queues and none holds up another: what comes has room in a buffer of its own
//! connection, as the credit that the other end has promises, and what goes out waits there for credit.
//!
//! With the feature `embedded-io` sockets implement the traits of `embedded-io` and `embedded-io-async`, and with `std`
//! those of `std::io`.

mod blocking;
mod device;
mod driver;
mod error;
mod io;
mod receive;
mod shared;
mod socket;
mod transmit;

pub use blocking::Blocking;
pub use device::{Listener, Run, Vsock};
pub use driver::{Options, VsockDevice, VsockDriver, open};
pub use error::{Error, SocketError};
pub use socket::{Socket, SocketReader, SocketWriter};
pub use virtio_kit::vsock::{
    Address, Counters, Error as ConnectionError, Kind, Kinds, Limits, ListenError, Message,
};
