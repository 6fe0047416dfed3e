//! The `virtio-driver` crate (libblkio's): its queue, and its block queue.

use super::Bench;
use std::hint::black_box;
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{
    VhostUser, VirtioBlkConfig, VirtioBlkQueue, VirtioBlkReqBuf, VirtioBlkTransport, VirtioFeatureFlags,
    VirtioTransport, iovec,
};
use virtio_kit_peers::minimal::{Device, Ring};
use virtio_kit_peers::stub::Stub;

fn features(packed: bool) -> VirtioFeatureFlags {
    let mut features = VirtioFeatureFlags::VERSION_1;
    features.set(VirtioFeatureFlags::RING_PACKED, packed);
    features
}

/// The bare queue. The crate offers no way to write an address translator outside of it, so the vhost-user transport's
/// own (the identity) is borrowed from a connection to a stub.
pub(super) struct Queue {
    queue: Virtqueue<'static, ()>,
    device: Device,
    shape: Vec<(iovec, bool)>,
    used_len: u32,
}

impl Queue {
    pub(super) fn new(shape: &[(usize, bool)], packed: bool) -> Self {
        let features = features(packed);
        let stub = Stub::start(features.bits());
        let path = stub.path.to_str().expect("a path of text");
        let transport: VhostUser<VirtioBlkConfig, ()> =
            VhostUser::new(path, features.bits()).expect("a stub");
        let layout = VirtqueueLayout::new::<()>(1, 256, features).expect("a layout");
        let memory = std::alloc::Layout::from_size_align(layout.end_offset, 4096).expect("a size that fits");
        // SAFETY: the size is not 0; the memory is never freed.
        let memory: &'static mut [u8] =
            unsafe { std::slice::from_raw_parts_mut(std::alloc::alloc_zeroed(memory), layout.end_offset) };
        let mut queue = Virtqueue::new(transport.iova_translator(), memory, 256, features).expect("a queue");
        queue.set_used_notif_enabled(false);
        let ring = Ring {
            desc: queue.desc_table_ptr() as u64,
            driver: queue.driver_area_ptr() as u64,
            device: queue.device_area_ptr() as u64,
        };
        let device = Device::new(packed, ring, 256, shape.len() as u16, false);
        let used_len = shape.iter().filter(|(_, written)| *written).map(|(len, _)| *len as u32).sum();
        let buffer = |&(len, written): &(usize, bool)| {
            let buffer = Box::leak(vec![0u8; len].into_boxed_slice());
            (iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len }, written)
        };
        Self { queue, device, used_len, shape: shape.iter().map(buffer).collect() }
    }
}

impl Bench for Queue {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        for _ in 0..n {
            let shape = &self.shape;
            let id = self.queue.add_request(|_, add| {
                for &(buffer, written) in shape {
                    add(buffer, written)?;
                }
                Ok(())
            });
            black_box(id.expect("room"));
        }
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the queue is live.
        assert_eq!(unsafe { self.device.complete_all(self.used_len) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        let mut got = 0;
        for done in self.queue.completions() {
            black_box(done.id);
            got += 1;
        }
        assert_eq!(got, n);
    }
}

/// The block queue, reads of 4 KiB, with the checks for notifications of a user that polls.
pub(super) struct Blk {
    queue: VirtioBlkQueue<'static, usize>,
    _transport: Box<VirtioBlkTransport>,
    device: Device,
    buffers: *mut u8,
    next: usize,
}

impl Blk {
    pub(super) fn new(packed: bool) -> Self {
        let features = features(packed);
        let stub = Stub::start(features.bits());
        let path = stub.path.to_str().expect("a path of text");
        let mut transport: Box<VirtioBlkTransport> = Box::new(
            VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(path, features.bits()).expect("a stub"),
        );
        let mut queue = VirtioBlkQueue::setup_queues(transport.as_mut(), 1, 256).expect("a queue").remove(0);
        queue.set_used_notif_enabled(false);
        let ring = stub.ring();
        // Data and status: the driver insists on the exact used length.
        let device = Device::new(packed, ring, 256, 3, true);
        let buffers = Box::leak(vec![0u8; 64 * 4096].into_boxed_slice()).as_mut_ptr();
        Self { queue, _transport: transport, device, buffers, next: 0 }
    }
}

impl Bench for Blk {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        for _ in 0..n {
            let i = self.next & 63;
            self.next += 1;
            // SAFETY: the buffers are never freed, and nobody looks into them.
            unsafe { self.queue.read_raw(4096, self.buffers.add(i * 4096), 4096, i) }.expect("room");
        }
        black_box(self.queue.avail_notif_needed());
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the queue is live.
        assert_eq!(unsafe { self.device.complete_all(4097) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        let mut got = 0;
        for done in self.queue.completions() {
            assert_eq!(done.ret, 0);
            black_box(done.context);
            got += 1;
        }
        assert_eq!(got, n);
    }
}
