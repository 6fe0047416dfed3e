//! What console ports end at: the program's own terminal, a pseudo-terminal, a Unix socket.
//!
//! Each port has a thread that sleeps until its descriptors can be read or written and then wakes the port; data are
//! moved by whoever runs the port's queues, without blocking.

mod line;
mod pty;
mod raw;
mod socket;

pub use line::FdPort;
pub use pty::PtyPort;
pub use raw::RawMode;
pub use socket::SocketPort;
