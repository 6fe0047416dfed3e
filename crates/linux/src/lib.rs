//! virtio-kit linux.

pub mod clock;
pub mod console;
pub mod entropy;
pub mod event;
pub mod event_waker;
pub mod mapping;
pub mod net;
pub mod process;
pub mod qtest;
pub mod shared_memory;
pub mod storage;
pub mod vhost_user;
pub mod vsock;
mod watch;
