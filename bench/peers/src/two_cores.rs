//! Driver and device on a core each, both polling.

use crate::linux::Programs;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use virtio_driver::virtqueue::Virtqueue;
use virtio_driver::{VhostUser, VirtioBlkConfig, VirtioFeatureFlags, VirtioTransport, iovec};
use virtio_kit_bench::two_cores::{Apart, pair};
use virtio_kit_peers::memory::Flat;
use virtio_kit_peers::stub::Stub;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Bytes that both ends of a pair share.
const LEN: usize = 1 << 20;

/// `virtio-driver`'s end.
struct Driver {
    queue: Virtqueue<'static, ()>,
    shape: Vec<(iovec, bool)>,
}

// SAFETY: the buffers are memory that is never given back.
unsafe impl Send for Driver {}

/// rust-vmm's end.
struct Device {
    memory: GuestMemoryMmap<()>,
    queue: Queue,
}

fn ends() -> (Driver, Device) {
    let shared = Flat::new(LEN);
    let start = shared.start();
    let features = VirtioFeatureFlags::VERSION_1;
    let stub = Stub::start(features.bits());
    let path = stub.path.to_str().expect("a path of text");
    let transport: VhostUser<VirtioBlkConfig, ()> = VhostUser::new(path, features.bits()).expect("a stub");
    // SAFETY: the first half of the memory is the ring's alone, and never given back.
    let ring = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, LEN / 2) };
    let mut queue = Virtqueue::new(transport.iova_translator(), ring, 256, features).expect("a queue");
    queue.set_used_notif_enabled(false);
    // SAFETY: the memory lives for ever.
    let region = unsafe {
        MmapRegion::<()>::build_raw(
            start as *mut u8,
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        )
    };
    let region = GuestRegionMmap::new(region.expect("a region"), GuestAddress(start)).expect("a region");
    let memory = GuestMemoryMmap::from_regions(vec![region]).expect("memory");
    let mut device = Queue::new(256).expect("a queue");
    let halves = |at: u64| (Some(at as u32), Some((at >> 32) as u32));
    let (low, high) = halves(queue.desc_table_ptr() as u64);
    device.set_desc_table_address(low, high);
    let (low, high) = halves(queue.driver_area_ptr() as u64);
    device.set_avail_ring_address(low, high);
    let (low, high) = halves(queue.device_area_ptr() as u64);
    device.set_used_ring_address(low, high);
    device.set_ready(true);
    assert!(device.is_valid(&memory));
    device.disable_notification(&memory).expect("a queue");
    let shape = [(16, false), (4096, true), (1, true)].into_iter().enumerate().map(|(i, (len, written))| {
        let at = start as usize + LEN / 2 + i * 8192;
        (iovec { iov_base: at as *mut libc::c_void, iov_len: len }, written)
    });
    (Driver { queue, shape: shape.collect() }, Device { memory, queue: device })
}

/// Nanoseconds of a chain of 3 there and back, `depth` at a time, between `virtio-driver` and `virtio-queue`.
pub(crate) fn peers(cores: [usize; 2], depth: usize, ops: usize) -> f64 {
    let (driver, device) = ends();
    let (mut driver, mut device) = (Apart(driver), Apart(device));
    let stop = Apart(AtomicBool::new(false));
    let ns = pair(
        cores,
        || {
            let driver = &mut driver;
            let (mut sent, mut got) = (0, 0);
            while got < ops {
                let more = (ops - sent).min(depth - (sent - got));
                for _ in 0..more {
                    let Driver { queue, shape } = &mut driver.0;
                    let added = queue.add_request(|_, add| {
                        for &(buffer, written) in &*shape {
                            add(buffer, written)?;
                        }
                        Ok(())
                    });
                    added.expect("room");
                }
                if more > 0 {
                    assert!(!driver.0.queue.avail_notif_needed());
                    sent += more;
                }
                for done in driver.0.queue.completions() {
                    black_box(done.id);
                    got += 1;
                }
            }
            stop.0.store(true, Ordering::Relaxed);
        },
        || {
            let Device { memory, queue } = &mut device.0;
            while !stop.0.load(Ordering::Relaxed) {
                while let Some(chain) = queue.pop_descriptor_chain(&*memory) {
                    let head = chain.head_index();
                    let mut len = 0;
                    for desc in chain {
                        let slice = memory.get_slice(desc.addr(), desc.len() as usize).expect("inside");
                        black_box(slice.ptr_guard().as_ptr());
                        if desc.is_write_only() {
                            len += desc.len();
                        }
                    }
                    queue.add_used(&*memory, head, len).expect("inside");
                }
            }
        },
    );
    ns / ops as f64
}

/// Nanoseconds of one buffer there and back in one of Linux's ring benchmarks: the time of a run less that of a short
/// one, which is what starting takes.
pub(crate) fn ringtest(
    programs: &Programs,
    name: &str,
    cores: [usize; 2],
    ops: usize,
) -> Result<f64, String> {
    const SHORT: usize = 1000;
    let time = |cycles| {
        let began = Instant::now();
        programs.ringtest(name, cores, cycles).map(|()| began.elapsed().as_nanos() as f64)
    };
    let starting = time(SHORT)?;
    Ok((time(ops)? - starting) / (ops - SHORT) as f64)
}
