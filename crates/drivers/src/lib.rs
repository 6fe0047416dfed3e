//! virtio-kit drivers.
