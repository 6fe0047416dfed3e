//! vhost-user: virtqueues shared with another process over a Unix socket.
//!
//! The *front-end* owns the memory and the driver side, the *back-end* serves the device.
//! [`codec`] holds the messages that both exchange; it does no I/O. [`front_end`] is the driver's end, [`back_end`]
//! the device's.

#[forbid(unsafe_code)]
pub mod back_end;
#[forbid(unsafe_code)]
pub mod codec;
#[forbid(unsafe_code)]
pub mod front_end;
#[forbid(unsafe_code)]
mod wire;
