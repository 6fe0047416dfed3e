//! virtio-kit linux.

pub mod vhost_user;
