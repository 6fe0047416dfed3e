//! Devices that reach only what the platform lets them (6.1): by an IOMMU, in a piece of physical memory with a hole, or
//! nothing but a pool that a confidential guest shares.

mod wire;

use std::sync::Arc;
use virtio_kit::bus::ProbeError;
use virtio_kit::device::{DeviceMemory, Memory, Queue, QueueConfig, Region, RingAddrs};
use virtio_kit::driver::{Found, NegotiateError};
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::PciTransport;
use virtio_kit::ring::device::Storage;
use virtio_kit::transport::Transport;
use virtio_kit::{Arena, DmaBuf, F, Features};
use virtio_kit_drivers::blk::{Options, open};
use virtio_kit_testkit::memory::SharedMemory;
use wire::{CHOICES, Irq, MmioHost, PciHostOf, Shape, blk, mmio_device, pci_device};

const MIB: usize = 1 << 20;
/// What memory is filled with that no device may touch.
const UNTOUCHED: u8 = 0xdd;

fn regions(all: &[&SharedMemory]) -> Memory {
    Memory::new(all.iter().map(|memory| Region::new(memory.start(), (*memory).clone()).unwrap())).unwrap()
}

fn untouched(memory: &SharedMemory) -> bool {
    let pattern = u64::from_ne_bytes([UNTOUCHED; 8]);
    (memory.start()..memory.end()).step_by(8).all(|at| memory.read64(at) == pattern)
}

fn decoy(start: u64, len: usize) -> SharedMemory {
    let memory = SharedMemory::new(start, len);
    memory.fill(start, len, UNTOUCHED);
    memory
}

/// A disk over MMIO or PCI, of which the driver demands ACCESS_PLATFORM.
fn transport(
    pci: bool,
    memory: DeviceMemory,
    arena: Arena,
    shape: Shape,
) -> (Box<dyn Transport>, virtio_kit_devices::blk::MemoryBackend) {
    let (disk, backend) = blk::disk();
    let features = shape.features() | F::ACCESS_PLATFORM;
    let transport: Box<dyn Transport> = if pci {
        let device = pci_device(disk, memory, |o| o.ring_features = features);
        let mut host = PciHostOf::new(device, arena, Irq::Messages(8));
        host.required = F::ACCESS_PLATFORM;
        Box::new(PciTransport::open(Arc::new(host), PciHostOf::AT).unwrap())
    } else {
        let device = mmio_device(disk, memory, |o| o.ring_features = features);
        let mut host = MmioHost::new(device, arena, Irq::Line);
        host.required = F::ACCESS_PLATFORM;
        Box::new(MmioTransport::open(Arc::new(host), MmioHost::PLACE).unwrap().unwrap())
    };
    (transport, backend)
}

fn blk_on(transport: Box<dyn Transport>) -> Result<virtio_kit_drivers::blk::Blk<blk::Data, u64>, ProbeError> {
    let (blk, device) =
        open(Found::new(transport), &Options { queues: 2, queue_size: 64, ..Options::default() })?;
    // Not what is tested here.
    std::mem::forget(device);
    Ok(blk)
}

// drivernormative:Reserved Feature Bits
#[test]
fn addresses_of_an_iommu_are_used_and_physical_ones_left_alone() {
    for pci in [false, true] {
        for shape in Shape::all() {
            // The IOMMU's addresses are other memory's physical ones.
            let base = 0xfff0_0000_0000;
            let (mapped, physical) = (SharedMemory::new(base, 2 * MIB), decoy(base, 2 * MIB));
            let memory =
                DeviceMemory { physical: regions(&[&physical]), platform: Some(regions(&[&mapped])) };
            let arena = Arena::new(mapped).unwrap();
            let (transport, backend) = transport(pci, memory, arena, shape);
            let mut blk = blk_on(transport).unwrap();
            assert_eq!(blk.features & CHOICES, shape.features());
            assert!(blk.features.contains(F::ACCESS_PLATFORM));
            for queue in &mut blk.queues {
                blk::exercise(queue, &backend, shape.0);
            }
            assert!(untouched(&physical), "{shape:?}");
        }
    }
}

#[test]
fn memory_that_is_mapped_as_it_is_but_for_a_hole_works_on_both_sides_of_it() {
    for pci in [false, true] {
        for shape in Shape::all() {
            let low = SharedMemory::new(MIB as u64, 2 * MIB);
            let high = low.beside(0x1_0000_0000, 2 * MIB);
            // What has these addresses and was not mapped: the hole, with the two around it.
            let around = decoy(0, 8 * MIB);
            let memory =
                DeviceMemory { physical: regions(&[&around]), platform: Some(regions(&[&low, &high])) };
            let arena = Arena::new(low).unwrap();
            let beyond = Arena::new(high).unwrap();
            let (transport, backend) = transport(pci, memory, arena, shape);
            let mut blk = blk_on(transport).unwrap();
            let queue = &mut blk.queues[0];
            for i in 0..200u64 {
                // Rings and headers are below the hole; of the data one buffer is below, and one beyond.
                let mut data = vec![queue.arena().alloc(512).unwrap(), beyond.alloc(512).unwrap()];
                data.iter_mut().for_each(|buffer| buffer.fill(i as u8));
                queue.write(i * 2, data, i).unwrap();
                queue.kick().unwrap();
                blk::complete(queue, |_| {});
                let mut stored = [0; 1024];
                backend.read(i * 1024, &mut stored);
                assert_eq!(stored, [i as u8; 1024]);
            }
            assert!(untouched(&around), "{shape:?}");
        }
    }
}

/// Whether a device with this memory can reach a byte: a ring can be there.
fn reaches(memory: &Memory, at: u64) -> bool {
    // The descriptor of a ring of one is 16 bytes; the other areas are where there surely is memory.
    let known = memory.regions()[0].start().get();
    let at = at & !15;
    let addrs = RingAddrs { desc: at, driver: known + 64, device: known + 128 };
    Queue::new(QueueConfig::fresh(false, 1), addrs, memory.clone(), None, Storage::boxed(1, 4)).is_ok()
}

#[test]
fn a_confidential_guests_device_reaches_the_shared_pool_and_not_one_byte_more() {
    const SECRET: [u8; 16] = *b"keys of a guest!";
    for pci in [false, true] {
        for shape in Shape::all() {
            // A guest of 4 MiB, of which it has shared 1 MiB in the middle; all else is its own.
            let start = 0x4000_0000u64;
            let pool = SharedMemory::new(start + 2 * MIB as u64, MIB);
            let (below, above) = (decoy(start, 2 * MIB), decoy(pool.end(), MIB));
            below.write_bytes(start + 0x1000, &SECRET);
            let shared = regions(&[&pool]);
            let everything = regions(&[&below, &pool, &above]);
            let inside = |at: u64| (pool.start()..pool.end()).contains(&at);
            let all = || (start - 0x1000..above.end() + 0x1000).step_by(64);
            assert!(all().all(|at| reaches(&shared, at) == inside(at)), "the pool, and nothing else");
            assert!(all().any(|at| reaches(&everything, at) && !inside(at)), "the probe would see it");

            let memory = DeviceMemory { physical: shared.clone(), platform: Some(shared) };
            let arena = Arena::new(pool.clone()).unwrap();
            let (transport, backend) = transport(pci, memory, arena, shape);
            let mut blk = blk_on(transport).unwrap();
            assert!(blk.features.contains(F::ACCESS_PLATFORM));
            // The guest's data is its own; what goes through the pool is a copy, enciphered.
            let key = SECRET;
            let private: Vec<u8> = (0..4096u32).map(|i| SECRET[i as usize % 16] ^ (i / 256) as u8).collect();
            let cipher = |bytes: &[u8]| -> Vec<u8> {
                bytes
                    .iter()
                    .enumerate()
                    .map(|(i, b)| b ^ key[(i * 7 + 3) % 16].wrapping_add(i as u8))
                    .collect()
            };
            let queue = &mut blk.queues[0];
            let mut bounce = queue.arena().alloc(4096).unwrap();
            bounce.write(0, &cipher(&private)).unwrap();
            queue.write(0, vec![bounce], 0).unwrap();
            queue.kick().unwrap();
            blk::complete(queue, |_| {});
            let bounce: DmaBuf = queue.arena().alloc(4096).unwrap();
            queue.read(0, vec![bounce], 1).unwrap();
            queue.kick().unwrap();
            blk::complete(queue, |done| {
                let mut back = vec![0; 4096];
                done.data.unwrap()[0].read(0, &mut back).unwrap();
                assert_eq!(back, cipher(&private), "what was stored came back");
            });
            // All that the device was ever shown is in the pool: neither the secret, nor what the guest's memory holds.
            let shown: Vec<u8> = (pool.start()..pool.end()).map(|at| pool.read8(at)).collect();
            assert!(!shown.windows(16).any(|window| window == SECRET || window == [UNTOUCHED; 16]));
            blk::exercise(queue, &backend, shape.0);
            below.write_bytes(start + 0x1000, &[UNTOUCHED; 16]);
            assert!(untouched(&below) && untouched(&above), "{shape:?}");
        }
    }
}

#[test]
fn a_device_that_would_go_past_the_platform_is_not_driven() {
    for pci in [false, true] {
        let memory = SharedMemory::new(0x8000_0000, MIB);
        let physical = regions(&[&memory]);
        let arena = Arena::new(memory).unwrap();
        let (transport, _) = transport(pci, physical.into(), arena, Shape(0));
        let error = blk_on(transport).map(|_| ()).unwrap_err();
        assert_eq!(error, ProbeError::Negotiate(NegotiateError::Missing(F::ACCESS_PLATFORM)));
        assert!(error.to_string().contains("reach"), "{error}");
    }
}

#[test]
fn what_the_memory_demands_is_accepted_even_if_the_user_would_leave_it_alone() {
    let memory = SharedMemory::new(0x8000_0000, MIB);
    let all = DeviceMemory { physical: regions(&[&memory]), platform: Some(regions(&[&memory])) };
    let (transport, _) = transport(true, all, Arena::new(memory).unwrap(), Shape(0));
    let setup = Found::new(transport).without(F::ACCESS_PLATFORM).negotiate(Features::EMPTY).unwrap();
    assert!(setup.features().contains(F::ACCESS_PLATFORM));
}

#[test]
fn a_driver_that_does_not_accept_the_platform_means_physical_addresses() {
    let base = 0x8000_0000;
    let (physical, mapped) = (SharedMemory::new(base, 2 * MIB), decoy(base, 2 * MIB));
    let memory = DeviceMemory { physical: regions(&[&physical]), platform: Some(regions(&[&mapped])) };
    let (disk, backend) = blk::disk();
    let device = mmio_device(disk, memory, |_| ());
    let host = Arc::new(MmioHost::new(device, Arena::new(physical).unwrap(), Irq::Line));
    let transport = MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap();
    let options = Options { without: F::ACCESS_PLATFORM, ..Options::default() };
    let (mut blk, _device) = open::<blk::Data, u64>(Found::new(Box::new(transport)), &options).unwrap();
    assert!(!blk.features.contains(F::ACCESS_PLATFORM));
    blk::exercise(&mut blk.queues[0], &backend, 1);
    assert!(untouched(&mapped));
}
