//! Whoever says which buffers a chain owns promises something.
use virtio_kit_ring::{DmaBuf, Parts};

struct Liar;

impl Parts for Liar {
    fn count(&self) -> usize {
        1
    }
    fn visit(&self, _: impl FnMut(&DmaBuf)) {}
}

fn main() {}
