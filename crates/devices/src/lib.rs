//! virtio-kit devices.
