//! A driver that accesses the device's ends of MMIO and PCI in ways that no document allows: the answers are defined,
//! nothing panics, and the device works for the next driver.

mod wire;

use std::sync::Arc;
use virtio_kit::device::RestoreError;
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::PciTransport;
use virtio_kit::registers::Width;
use virtio_kit::spec::mmio as mmio_at;
use virtio_kit::spec::pci::common as pci_at;
use virtio_kit::{F, Features, Status};
use wire::{Irq, MmioHost, PciHostOf, blk, memory, mmio_device, pci_device};

const BASE: u64 = 0x8000_0000;
const WIDTHS: [Width; 4] = [Width::U8, Width::U16, Width::U32, Width::U64];

/// Numbers from a seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33 ^ self.0 << 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// A value that means something to some register.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => 1 << self.below(64),
            3 => u64::MAX,
            4 => BASE + (self.below(256) << 12),
            5 => [1, 3, 0xb, 0xf, 0x4f, 0x8f][self.below(6) as usize],
            6 => self.below(300),
            _ => self.next(),
        }
    }
    fn width(&mut self) -> Width {
        // Mostly those that are allowed.
        if self.below(4) == 0 { WIDTHS[self.below(4) as usize] } else { Width::U32 }
    }
}

#[test]
fn any_access_to_an_mmio_block_is_answered_and_a_good_driver_finds_it_whole() {
    for legacy in [false, true] {
        for seed in 0..20 {
            let (arena, memory) = memory(BASE, 1 << 20);
            let (disk, backend) = blk::disk();
            let (device, monitor) = mmio_device(disk, memory, |o| o.legacy = legacy);
            let (mut rng, mut started) = (Rng(seed), 0);
            for _ in 0..20_000 {
                let offset = match rng.below(10) {
                    0 => rng.next(),
                    1 => mmio_at::CONFIG as u64 + rng.below(0x100),
                    _ => rng.below(0x110) & !3,
                };
                let width = rng.width();
                match rng.below(300) {
                    0 => start(&device, &mut rng, legacy),
                    1..100 => _ = device.read(offset, width),
                    100..200 => device.write(offset, width, rng.value()),
                    _ => monitor.pump(),
                }
                started += u64::from(device.status().contains(Status::DRIVER_OK));
                let magic = device.read(mmio_at::MAGIC_VALUE as u64, Width::U32);
                assert_eq!(magic, mmio_at::MAGIC.into(), "legacy {legacy}, seed {seed}");
            }
            assert!(started > 0, "it ran at times");
            let host = Arc::new(MmioHost::new((device, monitor), arena, Irq::Line));
            let transport = MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap();
            blk::drive(transport, &backend, seed as u8);
        }
    }
}

/// Starts the device with rings anywhere in memory, so that it finds what nobody has put there.
fn start(device: &virtio_kit::mmio::device::MmioDevice, rng: &mut Rng, legacy: bool) {
    let write = |at: usize, value: u64| device.write(at as u64, Width::U32, value);
    [0, 1, 3].into_iter().for_each(|status| write(mmio_at::STATUS, status));
    write(mmio_at::DRIVER_FEATURES_SEL, u64::from(!legacy));
    write(mmio_at::DRIVER_FEATURES, if legacy { 0 } else { 1 | [0, 4, 8, 12][rng.below(4) as usize] });
    write(mmio_at::STATUS, if legacy { 3 } else { 0xb });
    write(mmio_at::legacy::GUEST_PAGE_SIZE, 4096);
    for queue in 0..2 {
        write(mmio_at::QUEUE_SEL, queue);
        write(mmio_at::QUEUE_SIZE, 1 << rng.below(6));
        if legacy {
            write(mmio_at::legacy::QUEUE_ALIGN, 4096);
            write(mmio_at::legacy::QUEUE_PFN, (BASE >> 12) + rng.below(64));
            continue;
        }
        for at in [mmio_at::QUEUE_DESC_LOW, mmio_at::QUEUE_DRIVER_LOW, mmio_at::QUEUE_DEVICE_LOW] {
            write(at, BASE + (rng.below(64) << 12));
            write(at + 4, 0);
        }
        write(mmio_at::QUEUE_READY, 1);
    }
    write(mmio_at::STATUS, if legacy { 7 } else { 0xf });
    write(mmio_at::QUEUE_NOTIFY, 0);
}

#[test]
fn any_access_to_a_pci_function_is_answered_and_a_good_driver_finds_it_whole() {
    for seed in 0..20 {
        let (arena, memory) = memory(BASE, 1 << 20);
        let (disk, backend) = blk::disk();
        let (device, monitor) = pci_device(disk, memory, |_| ());
        let mut rng = Rng(seed);
        for _ in 0..40_000 {
            let (bar, offset, width, value) = (rng.below(7) as u8, rng.next(), rng.width(), rng.value());
            let near = match rng.below(6) {
                0 => offset,
                1 => rng.below(0x100),
                2 => 0x2000 + rng.below(0x1100),
                3 => 0x1000,
                _ => rng.below(0x42),
            };
            match rng.below(8) {
                0 => _ = device.read_bar(bar & 2, near, width),
                1 | 2 => device.write_bar(bar & 2, near, width, value),
                3 => _ = device.read_bar(bar, offset, width),
                4 => _ = device.read_space(offset as u16 & 0x1ff, width),
                // Sometimes by the window, which is at 0x84.
                5 => device.write_space(0x84 + (offset as u16 & 0x1c), Width::U32, value as u32),
                6 => device.write_space(offset as u16 & 0x1ff, width, value as u32),
                _ => monitor.pump(),
            }
            assert_eq!(device.read_space(0, Width::U32), 0x1042_1af4, "seed {seed}");
        }
        device.write_space(0x98, Width::U32, 0);
        let host = Arc::new(PciHostOf::new((device, monitor), arena, Irq::Messages(8)));
        blk::drive(PciTransport::open(host, PciHostOf::AT).unwrap(), &backend, seed as u8);
    }
}

// devicenormative:Virtio Transport Options / Virtio Over MMIO / MMIO Device Register Layout
#[test]
fn accesses_of_a_wrong_width_or_between_registers_read_0_and_write_nothing() {
    let (_, memory) = memory(BASE, 1 << 20);
    let (device, _) = mmio_device(blk::disk().0, memory.clone(), |_| ());
    for width in [Width::U8, Width::U16, Width::U64] {
        assert_eq!(device.read(0, width), 0);
        device.write(mmio_at::STATUS as u64, width, 1);
        assert_eq!(device.status(), Status::RESET);
    }
    for offset in [1, 2, 3, 0x74, 0xc4, u64::MAX, u64::MAX - 3] {
        assert_eq!(device.read(offset, Width::U32), 0, "{offset:#x}");
        device.write(offset, Width::U32, u64::MAX);
    }
    assert_eq!(device.read(mmio_at::CONFIG as u64 + 4096, Width::U32), 0, "beyond the configuration");
    // A value whose low byte only is 0 is no reset.
    device.write(mmio_at::STATUS as u64, Width::U32, 1);
    device.write(mmio_at::STATUS as u64, Width::U32, 0x100);
    assert_eq!(device.status(), Status::ACKNOWLEDGE);
    let (device, _) = pci_device(blk::disk().0, memory, |_| ());
    assert_eq!(device.read_bar(0, pci_at::NUM_QUEUES as u64, Width::U32), 0);
    assert_eq!(device.read_bar(0, pci_at::NUM_QUEUES as u64, Width::U16), 2);
    device.write_bar(0, pci_at::DEVICE_STATUS as u64, Width::U32, 1);
    assert_eq!(device.status(), Status::RESET);
    for (bar, offset) in [(1, 0), (3, 0), (4, 0), (255, 0), (0, u64::MAX - 7), (2, u64::MAX - 7)] {
        for width in WIDTHS {
            assert_eq!(device.read_bar(bar, offset, width), 0);
            device.write_bar(bar, offset, width, u64::MAX);
        }
    }
    assert_eq!((device.decode(0, Width::U32), device.bar_address(0)), (None, None), "nothing is decoded");
}

/// A queue's registers do not move once the queue is enabled, whatever is written (CVE-2026-5747 was such a device).
#[test]
fn what_an_enabled_queue_is_cannot_be_changed() {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let host = Arc::new(PciHostOf::new(pci_device(disk, memory.clone(), |_| ()), arena.clone(), Irq::Polled));
    let (mut blk, device) = blk::open(PciTransport::open(host.clone(), PciHostOf::AT).unwrap());
    let function = host.side.device();
    let all = |at: usize, width| function.read_bar(0, at as u64, width);
    function.write_bar(0, pci_at::QUEUE_SELECT as u64, Width::U16, 0);
    let before = (all(pci_at::QUEUE_SIZE, Width::U16), all(pci_at::QUEUE_DESC, Width::U64));
    for (at, width) in [
        (pci_at::QUEUE_SIZE, Width::U16),
        (pci_at::QUEUE_DESC, Width::U64),
        (pci_at::QUEUE_DEVICE + 4, Width::U32),
        (pci_at::QUEUE_ENABLE, Width::U16),
    ] {
        for value in [0, 0xffff_ffff_ffff_ffff] {
            function.write_bar(0, at as u64, width, value);
        }
    }
    assert_eq!((all(pci_at::QUEUE_SIZE, Width::U16), all(pci_at::QUEUE_DESC, Width::U64)), before);
    blk::exercise(&mut blk.queues[0], &backend, 1);
    drop((device, blk));
    let (disk, backend) = blk::disk();
    let host = Arc::new(MmioHost::new(mmio_device(disk, memory, |_| ()), arena, Irq::Polled));
    let (mut blk, _device) = blk::open(MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap());
    let block = host.side.device();
    block.write(mmio_at::QUEUE_SEL as u64, Width::U32, 0);
    for at in [mmio_at::QUEUE_SIZE, mmio_at::QUEUE_DESC_LOW, mmio_at::QUEUE_DEVICE_HIGH, mmio_at::QUEUE_READY]
    {
        block.write(at as u64, Width::U32, 5);
    }
    let registers = block.save().unwrap();
    assert_eq!(registers.queues[0].size, registers.machine.queues[0].size.into());
    assert_eq!(registers.queues[0].addrs, registers.machine.queues[0].addrs);
    block.resume().unwrap();
    blk::exercise(&mut blk.queues[0], &backend, 1);
}

#[test]
fn a_ring_outside_memory_needs_a_reset_and_says_so() {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let host = Arc::new(MmioHost::new(mmio_device(disk, memory, |_| ()), arena, Irq::Line));
    let block = host.side.device();
    let write = |at: usize, value: u64| block.write(at as u64, Width::U32, value);
    for status in [1, 3] {
        write(mmio_at::STATUS, status);
    }
    write(mmio_at::DRIVER_FEATURES_SEL, 1);
    write(mmio_at::DRIVER_FEATURES, 1);
    write(mmio_at::STATUS, 0xb);
    write(mmio_at::QUEUE_SIZE, 8);
    write(mmio_at::QUEUE_READY, 1);
    write(mmio_at::STATUS, 0xf);
    assert!(block.status().contains(Status::DEVICE_NEEDS_RESET | Status::DRIVER_OK));
    assert_eq!(block.read(mmio_at::INTERRUPT_STATUS as u64, Width::U32), 2, "announced");
    let transport = MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap();
    blk::drive(transport, &backend, 3);
}

#[test]
fn states_that_nobody_saved_are_refused_and_leave_the_device_reset() {
    let (arena, memory) = memory(BASE, 1 << 20);
    let host =
        Arc::new(MmioHost::new(mmio_device(blk::disk().0, memory.clone(), |_| ()), arena.clone(), Irq::Line));
    let (_blk, _device) = blk::open(MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap());
    let good = host.side.device().save().unwrap();
    let fresh = || mmio_device(blk::disk().0, memory.clone(), |_| ()).0;
    assert_eq!(host.side.device().restore(&good), Err(RestoreError::InUse));
    type Change = fn(&mut virtio_kit::mmio::device::MmioState);
    let changes: [Change; 12] = [
        |state| state.machine.status = Status::DRIVER_OK,
        |state| state.machine.status |= Status::SUSPEND,
        |state| state.machine.accepted |= Features::bit(60),
        |state| state.machine.accepted -= F::VERSION_1,
        |state| _ = state.machine.queues.pop(),
        |state| _ = state.queues.pop(),
        |state| state.machine.queues[0].addrs.desc ^= 16,
        |state| state.queues[0].size = 3,
        |state| state.queues[1].stuck = true,
        |state| {
            state.machine.queues[0].addrs.desc = 0x1000;
            state.queues[0].addrs.desc = 0x1000;
        },
        |state| {
            state.machine.queues[0].size = 0x4000;
            state.queues[0].size = 0x4000;
        },
        |state| {
            let position = state.machine.queues[0].position.as_mut().unwrap();
            position.next = 0x7fff;
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        let device = fresh();
        let error = device.restore(&bad).unwrap_err();
        assert!(!matches!(error, RestoreError::InUse), "{n}: {error}");
        assert_eq!(device.status(), Status::RESET, "{n}");
        device.restore(&good).unwrap();
    }
    let host =
        Arc::new(PciHostOf::new(pci_device(blk::disk().0, memory.clone(), |_| ()), arena, Irq::Messages(8)));
    let (_blk, _device) = blk::open(PciTransport::open(host.clone(), PciHostOf::AT).unwrap());
    let good = host.side.device().save().unwrap();
    type PciChange = fn(&mut virtio_kit::pci::device::PciState);
    let changes: [PciChange; 8] = [
        |state| state.space[0] ^= 1,
        |state| state.space[0x40] ^= 1,
        |state| state.interrupts.isr = 4,
        |state| state.interrupts.config_vector = 3,
        |state| state.interrupts.queue_vectors[0] = 0x100,
        |state| _ = state.interrupts.table.pop(),
        |state| state.queues[0].size = 2,
        |state| state.machine.accepted |= F::SUSPEND,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        let device = pci_device(blk::disk().0, memory.clone(), |_| ()).0;
        assert!(device.restore(&bad).is_err(), "{n}");
        assert_eq!(device.status(), Status::RESET, "{n}");
        device.restore(&good).unwrap();
    }
}

#[test]
fn a_device_whose_type_has_no_legacy_interface_is_not_put_behind_one() {
    struct Modern;
    impl virtio_kit::device::Device for Modern {
        fn id(&self) -> virtio_kit::DeviceId {
            virtio_kit::DeviceId::SOCKET
        }
        fn features(&self) -> Features {
            Features::EMPTY
        }
        fn queue_count(&self) -> u16 {
            1
        }
        fn read_config(&self, _: usize, _: &mut [u8]) {}
        fn activate(&mut self, _: Features) -> Result<(), virtio_kit::device::DeviceError> {
            Ok(())
        }
        fn start_queue(
            &mut self,
            _: u16,
            _: virtio_kit::device::Queue,
        ) -> Result<Box<dyn virtio_kit::device::Worker>, virtio_kit::device::DeviceError> {
            Err(virtio_kit::device::DeviceError::Setup("never"))
        }
        fn reset(&mut self) {}
    }
    let (_, memory) = memory(BASE, 1 << 20);
    let mut options = virtio_kit::mmio::device::Options::new(memory);
    options.legacy = true;
    let monitor = Arc::new(wire::Inline::default());
    assert!(virtio_kit::mmio::device::MmioDevice::new(Box::new(Modern), monitor, options).is_err());
}
