//! Buffers are handed back on proof that the device let go.
use virtio_kit_ring::DmaBuf;
use virtio_kit_ring::driver::Queue;

fn end(queue: &mut Queue<DmaBuf, ()>) {
    let _ = queue.shutdown(());
}

fn main() {
    let _ = end;
}
