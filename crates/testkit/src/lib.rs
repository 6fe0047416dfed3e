//! virtio-kit testkit.
