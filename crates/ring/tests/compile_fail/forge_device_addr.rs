//! A device address is made by its domain alone.
use virtio_kit_ring::DeviceAddr;

fn main() {
    let _ = DeviceAddr(0x1000);
}
