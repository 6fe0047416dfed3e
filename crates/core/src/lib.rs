//! virtio-kit core.
