//! The `virtio-drivers` crate: its queue, and its block driver's calls that do not block.

use super::Bench;
use std::collections::VecDeque;
use std::hint::black_box;
use std::ptr::NonNull;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};
use virtio_kit_peers::minimal::{Ring, SplitDevice};

/// Memory whose addresses are this process's own.
struct PlainHal;

// SAFETY: memory is page-aligned and zeroed, and "physical" addresses are virtual ones.
unsafe impl Hal for PlainHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = std::alloc::Layout::from_size_align(pages * 4096, 4096).expect("a size that fits");
        // SAFETY: the size is not 0.
        let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        (memory.as_ptr() as u64, memory)
    }
    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        let layout = std::alloc::Layout::from_size_align(pages * 4096, 4096).expect("a size that fits");
        // SAFETY: allocated above with this layout.
        unsafe { std::alloc::dealloc(memory.as_ptr(), layout) };
        0
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("not 0")
    }
    #[inline]
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr() as *mut u8 as u64
    }
    #[inline]
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// A device behind function calls. The minimal one lives in a leaked box, since a driver owns its transport.
struct Fake {
    device: *mut SplitDevice,
    features: u64,
    status: DeviceStatus,
}

impl Fake {
    fn new(features: u64, blk: bool) -> Self {
        let device = Box::into_raw(Box::new(SplitDevice::new(Ring::default(), 1, blk)));
        Self { device, features, status: DeviceStatus::empty() }
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        self.features
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        1024
    }
    #[inline]
    fn notify(&mut self, _: u16) {}
    fn get_status(&self) -> DeviceStatus {
        self.status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.status = status;
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        // SAFETY: the box is leaked, and nobody else holds a reference now.
        unsafe {
            let status = (*self.device).status;
            *self.device = SplitDevice::new(Ring { desc, driver, device }, size as u16, status);
        }
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        _: usize,
    ) -> virtio_drivers::Result<T> {
        Ok(T::new_zeroed())
    }
    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> virtio_drivers::Result<()> {
        Ok(())
    }
}

/// The bare queue, chains of 3.
pub(super) struct Queue {
    queue: VirtQueue<PlainHal, 256>,
    transport: Fake,
    header: Vec<u8>,
    data: Vec<u8>,
    status: Vec<u8>,
}

impl Queue {
    pub(super) fn new() -> Self {
        let mut transport = Fake::new(0, false);
        let queue = VirtQueue::new(&mut transport, 0, false, false).expect("a queue");
        Self { queue, transport, header: vec![1; 16], data: vec![2; 4096], status: vec![2; 1] }
    }
}

impl Bench for Queue {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        let Self { queue, header, data, status, .. } = self;
        for _ in 0..n {
            // SAFETY: the buffers live as long as the queue, and nobody looks into them.
            black_box(unsafe {
                queue.add(&[header.as_slice()], &mut [data.as_mut_slice(), status.as_mut_slice()])
            })
            .expect("room");
        }
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the queue is live.
        assert_eq!(unsafe { (*self.transport.device).complete_all(1) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        let Self { queue, header, data, status, .. } = self;
        for _ in 0..n {
            let token = queue.peek_used().expect("it is used");
            let written = &mut [data.as_mut_slice(), status.as_mut_slice()];
            // SAFETY: every chain has these same buffers.
            black_box(unsafe { queue.pop_used(token, &[header.as_slice()], written) }.expect("it is used"));
        }
    }
}

/// The block driver's calls that do not block, reads of 4 KiB.
pub(super) struct Blk {
    blk: VirtIOBlk<PlainHal, Fake>,
    device: *mut SplitDevice,
    slots: Vec<(BlkReq, Vec<u8>, BlkResp)>,
    free: Vec<usize>,
    busy: VecDeque<usize>,
}

const INDIRECT_DESC: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;

impl Blk {
    pub(super) fn new(indirect: bool) -> Self {
        let transport = Fake::new(VERSION_1 | if indirect { INDIRECT_DESC } else { 0 }, true);
        let device = transport.device;
        let slot = |_| (BlkReq::default(), vec![0; 4096], BlkResp::default());
        Self {
            blk: VirtIOBlk::new(transport).expect("a driver"),
            device,
            slots: (0..16).map(slot).collect(),
            free: (0..16).collect(),
            busy: VecDeque::with_capacity(32),
        }
    }
}

impl Bench for Blk {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        for _ in 0..n {
            let i = self.free.pop().expect("not empty");
            let (request, buffer, response) = &mut self.slots[i];
            // SAFETY: the slot is left alone until it is done.
            black_box(unsafe { self.blk.read_blocks_nb(8, request, buffer, response) }.expect("room"));
            self.busy.push_back(i);
        }
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        // SAFETY: the queue is live.
        assert_eq!(unsafe { (*self.device).complete_all(4097) }, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        for _ in 0..n {
            let token = self.blk.peek_used().expect("it is used");
            let i = self.busy.pop_front().expect("in flight");
            let (request, buffer, response) = &mut self.slots[i];
            // SAFETY: the device completes in order, so these are that token's buffers.
            unsafe { self.blk.complete_read_blocks(token, request, buffer, response) }.expect("it went well");
            self.free.push(i);
        }
    }
}
