//! rust-vmm's `virtio-queue` with `vm-memory`: a device's end of a split ring.

use super::Bench;
use std::hint::black_box;
use std::io::{Read, Write};
use virtio_kit_peers::minimal::{Driver, Ring, WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

#[derive(Clone, Copy, PartialEq)]
pub(super) enum How {
    /// Pop, iterate over the descriptors, add to the used ring.
    Walk,
    /// The same, and turn each buffer's address into a slice of this process's memory.
    Slices,
    /// A block request through Reader and Writer: 16 bytes of header in, one of status out.
    Blk,
}

pub(super) struct Device {
    memory: GuestMemoryMmap<()>,
    queue: Queue,
    driver: Driver,
    how: How,
}

impl Device {
    pub(super) fn new(how: How) -> Self {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 16 << 20)]).expect("memory");
        let host = |at: u64| memory.get_host_address(GuestAddress(at)).expect("inside") as u64;
        let guest = Ring { desc: 0x1000, driver: 0x3000, device: 0x5000 };
        let ring = Ring { desc: host(guest.desc), driver: host(guest.driver), device: host(guest.device) };
        let place = |c: u16, i: u16| 0x20000 + u64::from(c) * 8192 + u64::from(i) * 64;
        // SAFETY: the mapping lives as long as the driver does, and the parts have two pages each.
        let driver = unsafe { Driver::new(false, ring, 256, &[(16, 0), (4096, WRITE), (1, WRITE)], place) };
        let mut queue = Queue::new(256).expect("a queue");
        let halves = |at: u64| (Some(at as u32), Some((at >> 32) as u32));
        let (low, high) = halves(guest.desc);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(guest.driver);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(guest.device);
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        Self { memory, queue, driver, how }
    }
}

impl Bench for Device {
    #[inline(always)]
    fn submit(&mut self, n: usize) {
        // SAFETY: the ring has room for a batch.
        unsafe { self.driver.publish(n) };
    }

    #[inline(always)]
    fn device(&mut self, n: usize) {
        let Self { memory, queue, how, .. } = self;
        let mut got = 0;
        while let Some(chain) = queue.pop_descriptor_chain(&*memory) {
            let head = chain.head_index();
            let mut len = 0;
            match how {
                How::Walk => {
                    for desc in chain {
                        black_box((desc.addr(), desc.len()));
                        if desc.is_write_only() {
                            len += desc.len();
                        }
                    }
                }
                How::Slices => {
                    for desc in chain {
                        let slice = memory.get_slice(desc.addr(), desc.len() as usize).expect("inside");
                        black_box(slice.ptr_guard().as_ptr());
                        if desc.is_write_only() {
                            len += desc.len();
                        }
                    }
                }
                How::Blk => {
                    let mut reader = chain.clone().reader(memory).expect("a chain");
                    let mut header = [0u8; 16];
                    reader.read_exact(&mut header).expect("a header");
                    black_box(header);
                    let mut writer = chain.writer(memory).expect("a chain");
                    let all = writer.available_bytes();
                    let mut status = writer.split_at(all - 1).expect("a status");
                    black_box(&mut writer);
                    status.write_all(&[0]).expect("a status");
                    len = all as u32;
                }
            }
            queue.add_used(&*memory, head, len).expect("inside");
            got += 1;
        }
        assert_eq!(got, n);
    }

    #[inline(always)]
    fn reap(&mut self, n: usize) {
        // SAFETY: the mapping is live.
        unsafe { self.driver.reap(n) };
    }
}
