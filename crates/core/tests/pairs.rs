//! Driver's ends and device's ends of MMIO and PCI against each other, register by register, over all ring shapes.

mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_kit::driver::RING_FEATURES;
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::PciTransport;
use virtio_kit::transport::{Notifier, NotifyPosition, QueueSetup, Transport};
use virtio_kit::{F, Status};
use wire::{CHOICES, Irq, MmioHost, PciHostOf, Shape, blk, memory, mmio_device, pci_device};

const BASE: u64 = 0x8000_0000;
const LEN: usize = 2 << 20;

// devicenormative:Virtio Transport Options / Virtio Over MMIO / MMIO Device Register Layout
// drivernormative:Virtio Transport Options / Virtio Over MMIO / MMIO-specific Initialization And Device Operation / Device Initialization
#[test]
fn blk_over_mmio_version_2_in_every_shape_with_a_line_and_without() {
    for shape in Shape::all() {
        for irq in [Irq::Line, Irq::Polled] {
            for data in [F::NOTIFICATION_DATA, F::RING_RESET] {
                let (arena, memory) = memory(BASE, LEN);
                let (disk, backend) = blk::disk();
                let device = mmio_device(disk, memory, |o| o.ring_features = shape.features() | data);
                let host = Arc::new(MmioHost::new(device, arena, irq));
                // Twice: what the first driver leaves behind is not in the way of the second.
                for salt in [shape.0, !shape.0] {
                    let transport = MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap();
                    let features = blk::drive(transport, &backend, salt);
                    assert_eq!(features & CHOICES, shape.features(), "{shape:?} {irq:?}");
                    assert!(features.contains(F::VERSION_1 | data));
                    assert_eq!(host.side.device().status(), Status::RESET);
                    assert!(host.side.monitor().raised.load(Ordering::SeqCst) > 0, "there was an interrupt");
                }
            }
        }
    }
}

#[test]
fn blk_over_legacy_mmio_in_every_shape_that_it_has() {
    for shape in Shape::legacy() {
        for irq in [Irq::Line, Irq::Polled] {
            let (arena, memory) = memory(BASE, LEN);
            let (disk, backend) = blk::disk();
            let device = mmio_device(disk, memory, |o| {
                o.ring_features = shape.features() | F::RING_PACKED | F::IN_ORDER | F::RING_RESET;
                o.legacy = true;
            });
            let features_of_ring = shape.features();
            let host = Arc::new(MmioHost::new(device, arena, irq));
            for salt in [shape.0, !shape.0] {
                let transport = MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap();
                let features = blk::drive(transport, &backend, salt);
                assert_eq!(features & RING_FEATURES, features_of_ring, "{shape:?} {irq:?}");
            }
        }
    }
}

// devicenormative:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Used Buffer Notifications
// devicenormative:Virtio Transport Options / Virtio Over PCI Bus / PCI-specific Initialization And Device Operation / Device Initialization / MSI-X Vector Configuration
#[test]
fn blk_over_pci_in_every_shape_with_every_way_to_interrupt() {
    let ways = [Irq::Messages(8), Irq::Messages(2), Irq::Messages(1), Irq::Line, Irq::Polled];
    for shape in Shape::all() {
        for irq in ways {
            let (arena, memory) = memory(BASE, LEN);
            let (disk, backend) = blk::disk();
            let more = F::NOTIFICATION_DATA | F::RING_RESET;
            let device = pci_device(disk, memory, |o| o.ring_features = shape.features() | more);
            let host = Arc::new(PciHostOf::new(device, arena, irq));
            for salt in [shape.0, !shape.0] {
                let transport = PciTransport::open(host.clone(), PciHostOf::AT).unwrap();
                let features = blk::drive(transport, &backend, salt);
                assert_eq!(features & CHOICES, shape.features(), "{shape:?} {irq:?}");
                assert!(features.contains(F::VERSION_1 | more));
                let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst) > 0;
                let came = (count(&host.side.monitor().sent), count(&host.side.monitor().raised));
                assert_eq!(came, (matches!(irq, Irq::Messages(_)), irq == Irq::Line), "{irq:?}");
                assert_eq!(host.side.device().status(), Status::RESET);
            }
        }
    }
}

// devicenormative:Virtio Transport Options / Virtio Over PCI Bus / PCI Device Layout / PCI configuration access capability
#[test]
fn blk_over_pci_through_the_window_in_configuration_space() {
    for shape in Shape::all() {
        let (arena, memory) = memory(BASE, LEN);
        let (disk, backend) = blk::disk();
        let device = pci_device(disk, memory, |o| o.ring_features = shape.features());
        let mut host = PciHostOf::new(device, arena, Irq::Polled);
        host.unmapped = true;
        let host = Arc::new(host);
        let transport = PciTransport::open(host.clone(), PciHostOf::AT).unwrap();
        let features = blk::drive(transport, &backend, shape.0);
        assert_eq!(features & CHOICES, shape.features(), "{shape:?}");
        assert_eq!(host.accesses.load(Ordering::SeqCst), 0, "no BAR was touched");
    }
}

/// A queue of its own, to be notified by hand.
fn enable(transport: &mut dyn Transport) -> Box<dyn Notifier> {
    let addr = transport.arena().alloc(4096).unwrap().device_addr();
    let addrs = virtio_kit::ring::driver::RingAddrs { desc: addr, driver: addr, device: addr };
    let interrupt = Arc::new(virtio_kit::driver::QueueInterrupt::new(None));
    transport.enable_queue(1, QueueSetup { size: 8, addrs }, interrupt).unwrap()
}

#[test]
fn a_kick_is_one_access_on_both_and_reaches_the_monitor_once() {
    let (arena, memory) = memory(BASE, LEN);
    let mmio = mmio_device(blk::disk().0, memory.clone(), |_| ());
    let mmio = Arc::new(MmioHost::new(mmio, arena.clone(), Irq::Polled));
    let pci = pci_device(blk::disk().0, memory, |_| ());
    let pci = Arc::new(PciHostOf::new(pci, arena, Irq::Polled));
    let mut over_mmio = MmioTransport::open(mmio.clone(), MmioHost::PLACE).unwrap().unwrap();
    let mut over_pci = PciTransport::open(pci.clone(), PciHostOf::AT).unwrap();
    let all: [(&mut dyn Transport, _, _); 2] = [
        (&mut over_mmio, &mmio.accesses, mmio.side.monitor()),
        (&mut over_pci, &pci.accesses, pci.side.monitor()),
    ];
    for (transport, accesses, monitor) in all {
        for features in [F::VERSION_1, F::VERSION_1 | F::NOTIFICATION_DATA] {
            transport.reset().unwrap();
            transport.set_driver_features(features).unwrap();
            let line = enable(transport);
            let before = (accesses.load(Ordering::SeqCst), monitor.doorbells.load(Ordering::SeqCst));
            line.notify(NotifyPosition { next: 3, wrap: true, packed: true }).unwrap();
            let after = (accesses.load(Ordering::SeqCst), monitor.doorbells.load(Ordering::SeqCst));
            assert_eq!(after, (before.0 + 1, before.1 + 1));
        }
    }
}

#[test]
fn queues_are_reset_one_by_one_and_start_again() {
    for shape in Shape::all() {
        for pci in [false, true] {
            let (arena, memory) = memory(BASE, LEN);
            let (disk, backend) = blk::disk();
            let features = shape.features() | F::RING_RESET;
            let (mut blk, mut device) = if pci {
                let device = pci_device(disk, memory, |o| o.ring_features = features);
                let host = Arc::new(PciHostOf::new(device, arena, Irq::Messages(3)));
                blk::open(PciTransport::open(host, PciHostOf::AT).unwrap())
            } else {
                let device = mmio_device(disk, memory, |o| o.ring_features = features);
                let host = Arc::new(MmioHost::new(device, arena, Irq::Line));
                blk::open(MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap())
            };
            let (first, second) = blk.queues.split_at_mut(1);
            for round in 0..3 {
                blk::exercise(&mut first[0], &backend, round);
                device.reset_queue(&first[0]).unwrap();
                assert!(first[0].complete().is_err(), "nothing was in flight");
                blk::exercise(&mut second[0], &backend, !round);
                device.restart_queue(&mut first[0]).unwrap();
            }
        }
    }
}

// devicenormative:Virtio Transport Options / Virtio Over PCI Bus / Virtio Structure PCI Capabilities / Shared memory capability
#[test]
fn shared_memory_regions_are_found_by_their_id_above_4_gib_too() {
    use virtio_kit::device::SharedMemory;
    let (arena, memory) = memory(BASE, LEN);
    let region = |id, start, len| SharedMemory { id, start, len };
    let regions = vec![region(0, 0, 0x1000), region(9, 1 << 33, 3 << 32)];
    let pci = pci_device(blk::disk().0, memory.clone(), |o| o.shared_memory = regions.clone());
    let host = Arc::new(PciHostOf::new(pci, arena.clone(), Irq::Polled));
    let mut pci = PciTransport::open(host, PciHostOf::AT).unwrap();
    let mmio = mmio_device(blk::disk().0, memory, |o| o.shared_memory = regions.clone());
    let host = Arc::new(MmioHost::new(mmio, arena, Irq::Polled));
    let mut mmio = MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap();
    for transport in [&mut pci as &mut dyn Transport, &mut mmio] {
        let len = |id, transport: &mut dyn Transport| transport.shared_memory(id).unwrap().map(|w| w.len());
        assert_eq!(len(0, transport), Some(0x1000));
        assert_eq!(len(9, transport), Some(3 << 32));
        assert_eq!(len(1, transport), None);
    }
}
