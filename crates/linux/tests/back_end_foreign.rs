//! The vhost-user back-end under front-ends that others wrote: the crates `virtio-driver` (requests over split and
//! packed rings) and `vhost` (the messages alone, one by one).

mod common;

use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;

use common::served::{Image, back_end};
use common::{LONG, TempDir};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostUserMemoryRegionInfo, VringConfigData};
use virtio_driver::{
    VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
};
use virtio_kit_linux::vhost_user::back_end::{Listener, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures as P;
use vmm_sys_util::eventfd::EventFd;

const SECTORS: u64 = 16 << 10;

/// Shared memory, mapped for good.
fn shared(len: usize) -> (OwnedFd, &'static mut [u8]) {
    let fd = memfd_create(c"data", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len as u64).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, never undone.
    let base = unsafe { mmap(ptr::null_mut::<c_void>(), len, access, MapFlags::SHARED, &fd, 0) }.unwrap();
    // SAFETY: as above. The back-end writes to it only while a request is in flight, when nobody looks here.
    (fd, unsafe { std::slice::from_raw_parts_mut(base.cast(), len) })
}

fn serve(image: &Image, queues: u16) -> (Runner, TempDir, String) {
    let dir = TempDir::new();
    let path = dir.join("s");
    let source = Source::Listener(Listener::bind(&path).unwrap());
    let back = back_end(image.device(queues, false), Options::default());
    let runner = Runner::start(back, source, "test", Threads::PerQueue, Polling::default()).unwrap();
    (runner, dir, path.to_str().unwrap().into())
}

/// Writes and reads over all queues with the crate's driver.
fn drive(path: &str, image: &Image, queues: usize, rings: VirtioFeatureFlags) {
    const BLOCK: usize = 4096;
    const DEPTH: usize = 16;
    let features = VirtioFeatureFlags::VERSION_1 | rings;
    eprintln!("{rings:?}");
    let blk = VirtioBlkFeatureFlags::MQ | VirtioBlkFeatureFlags::FLUSH;
    let mut vhost: Box<VirtioBlkTransport> =
        Box::new(VhostUser::new(path, features.bits() | blk.bits()).unwrap());
    assert_eq!(vhost.get_features() & features.bits(), features.bits());
    assert_eq!(u64::from(vhost.get_config().unwrap().capacity), SECTORS);
    let mut disks = VirtioBlkQueue::<usize>::setup_queues(&mut *vhost, queues, 128).unwrap();
    let (fd, data) = shared(queues * DEPTH * BLOCK);
    vhost.map_mem_region(data.as_ptr() as usize, data.len(), fd.as_raw_fd(), 0).unwrap();
    for (index, disk) in disks.iter_mut().enumerate() {
        // Off at first, with an event index.
        disk.set_used_notif_enabled(true);
        let notifier = vhost.get_submission_notifier(index);
        let completion = vhost.get_completion_fd(index);
        let part = &mut data[index * DEPTH * BLOCK..(index + 1) * DEPTH * BLOCK];
        let offset = |i: usize| ((index * 64 + i) * BLOCK) as u64;
        let finish = |disk: &mut VirtioBlkQueue<usize>, count: usize| {
            notifier.notify().unwrap();
            let mut done = 0;
            while done < count {
                for completion in disk.completions() {
                    assert_eq!(completion.ret, 0, "request {}", completion.context);
                    done += 1;
                }
                if done < count {
                    let limit = Timespec { tv_sec: LONG.as_secs() as i64, tv_nsec: 0 };
                    let ready = poll(&mut [PollFd::new(&*completion, PollFlags::IN)], Some(&limit));
                    assert_eq!(ready, Ok(1), "a call was lost after {done} of {count}");
                    completion.read().unwrap();
                }
            }
        };
        for round in 0..40u8 {
            for (i, block) in part.chunks_mut(BLOCK).enumerate() {
                block.fill(round ^ i as u8);
                disk.write(offset(i), block, i).unwrap();
            }
            finish(disk, DEPTH);
            part.fill(0xee);
            for (i, block) in part.chunks_mut(BLOCK).enumerate() {
                disk.read(offset(i), block, i).unwrap();
            }
            finish(disk, DEPTH);
            for (i, block) in part.chunks(BLOCK).enumerate() {
                assert!(block.iter().all(|&byte| byte == round ^ i as u8), "queue {index} block {i}");
                assert!(image.read(offset(i) / 512, BLOCK) == block);
            }
        }
        disk.flush(0).unwrap();
        finish(disk, 1);
    }
    vhost.unmap_mem_region(data.as_ptr() as usize, data.len()).unwrap();
}

#[test]
fn the_virtio_driver_crate_writes_and_reads_over_every_layout_that_it_knows() {
    let image = Image::new(SECTORS);
    let (runner, _dir, path) = serve(&image, 4);
    let none = VirtioFeatureFlags::empty();
    for packed in [none, VirtioFeatureFlags::RING_PACKED] {
        for event_idx in [none, VirtioFeatureFlags::RING_EVENT_IDX] {
            for indirect in [none, VirtioFeatureFlags::RING_INDIRECT_DESC] {
                drive(&path, &image, 4, packed | event_idx | indirect);
            }
        }
    }
    drive(&path, &image, 1, none);
    runner.stop();
}

#[test]
fn the_vhost_crate_agrees_on_every_message_that_it_sends() {
    let image = Image::new(SECTORS);
    let (runner, _dir, path) = serve(&image, 2);
    let mut front = Frontend::from_stream(UnixStream::connect(&path).unwrap(), 2);
    front.set_owner().unwrap();
    let features = front.get_features().unwrap();
    assert_ne!(features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), 0);
    front.set_features(features & (1 << 30 | 1 << 32 | 1 << 29)).unwrap();
    let offered = front.get_protocol_features().unwrap();
    let wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::STATUS;
    assert!(offered.contains(wanted));
    assert!(P::from_bits_retain(offered.bits()).missing().is_empty());
    front.set_protocol_features(wanted).unwrap();
    front.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(front.get_queue_num().unwrap(), 2);
    assert_eq!(front.get_max_mem_slots().unwrap(), 509);
    let (_, config) = front.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).unwrap();
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[32], 1, "write-back to begin with");
    front.set_config(32, VhostUserConfigFlags::WRITABLE, &[0]).unwrap();
    let (_, config) = front.get_config(32, 1, VhostUserConfigFlags::WRITABLE, &[0]).unwrap();
    assert_eq!(config, [0]);
    assert!(front.set_config(0, VhostUserConfigFlags::WRITABLE, &[1]).is_err(), "capacity is read-only");

    let (fd, memory) = shared(1 << 20);
    let base = memory.as_ptr() as u64;
    let region = |guest_phys_addr, at: u64, memory_size| VhostUserMemoryRegionInfo {
        guest_phys_addr,
        memory_size,
        userspace_addr: base + at,
        mmap_offset: at,
        mmap_handle: fd.as_raw_fd(),
    };
    front.add_mem_region(&region(0, 0, 1 << 19)).unwrap();
    front.add_mem_region(&region(1 << 30, 1 << 19, 1 << 19)).unwrap();
    assert!(front.add_mem_region(&region(4096, 1 << 19, 4096)).is_err(), "it overlaps");
    assert!(front.add_mem_region(&region(1 << 40, 0, 1 << 40)).is_err(), "the file is shorter");
    let (kick, call, err) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    let rings = VringConfigData {
        queue_max_size: 128,
        queue_size: 16,
        flags: 0,
        desc_table_addr: base,
        avail_ring_addr: base + 0x1000,
        used_ring_addr: base + 0x2000,
        log_addr: None,
    };
    front.set_vring_num(0, 16).unwrap();
    assert!(front.set_vring_num(2, 16).is_err(), "there are two queues");
    front.set_vring_base(0, 0).unwrap();
    front.set_vring_addr(0, &rings).unwrap();
    front.set_vring_err(0, &err).unwrap();
    front.set_vring_kick(0, &kick).unwrap();
    // A flush, which waits before the ring is enabled: descriptors 0 and 1, header at 64K, status after it.
    let descriptor = |addr: u64, len: u32, flags: u16, next: u16| {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bytes
    };
    memory[0x10000..0x10004].copy_from_slice(&4u32.to_le_bytes());
    memory[0x10010] = 0xff;
    memory[..16].copy_from_slice(&descriptor(0x10000, 16, 1, 1));
    memory[16..32].copy_from_slice(&descriptor(0x10010, 1, 2, 0));
    memory[0x1002..0x1004].copy_from_slice(&1u16.to_le_bytes());
    front.set_vring_enable(0, true).unwrap();
    // The call comes last, and must not be lost all the same.
    front.set_vring_call(0, &call).unwrap();
    let called = |call: &EventFd| {
        // SAFETY: open while the event is.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(call.as_raw_fd()) };
        let limit = Timespec { tv_sec: LONG.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)), Ok(1));
        call.read().unwrap();
    };
    // SAFETY: two bytes of the mapping.
    let used = || unsafe { ptr::read_volatile(memory.as_ptr().add(0x2002).cast::<u16>()) };
    while used() == 0 {
        called(&call);
    }
    assert_eq!(memory[0x10010], 0, "the flush went well");
    // Memory comes and goes meanwhile.
    front.remove_mem_region(&region(1 << 30, 1 << 19, 1 << 19)).unwrap();
    assert!(front.remove_mem_region(&region(1 << 30, 1 << 19, 1 << 19)).is_err(), "it is gone");
    front.set_vring_enable(0, false).unwrap();
    front.set_vring_enable(0, true).unwrap();
    assert_eq!(front.get_vring_base(0).unwrap(), 1);
    front.reset_device().unwrap();
    drop(front);
    runner.stop();
}
