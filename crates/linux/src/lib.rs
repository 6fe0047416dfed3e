//! virtio-kit linux.

pub mod clock;
pub mod entropy;
pub mod event;
pub mod process;
pub mod mapping;
pub mod qtest;
pub mod shared_memory;
pub mod storage;
pub mod vhost_user;
