//! A console driver (5.3).
//!
//! [`ConsoleDriver`] registers on a bus and hands each device that it takes to its owner as a [`Console`], which has
//! [`Port`]s: values that read and write without blocking, as futures, or for a bounded time by [`Blocking`], and
//! that may go to threads of their own, one for each direction. A device with MULTIPORT tells by control messages
//! which ports there are, how they are called and whether somebody is at their other end: [`Console::poll`] takes
//! these messages and says what has changed. A device without it has port 0.
//!
//! With the feature `embedded-io` ports implement the traits of `embedded-io` and `embedded-io-async`, and with `std`
//! those of `std::io`.

mod blocking;
mod control;
mod driver;
mod error;
mod io;
mod message;
mod port;
mod receive;
mod state;
mod transmit;

pub use blocking::Blocking;
pub use control::{Console, Event, PortInfo};
pub use driver::{ConsoleDevice, ConsoleDriver, Options, emergency_write, open};
pub use error::{Error, PortError, TakeError};
pub use message::BadMessage;
pub use port::{Port, PortReader, PortWriter};
pub use state::Size;

/// Most bytes of a port's name.
pub const NAME_MAX: usize = 255;
