//! The command line of virtio-kit.
fn main() {}
