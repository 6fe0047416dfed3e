//! Devices that are saved in the middle of work, and go on in another's place without their drivers' noticing.

mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_kit::F;
use virtio_kit::device::Memory;
use virtio_kit::mmio::MmioTransport;
use virtio_kit::pci::PciTransport;
use virtio_kit_devices::blk::{Blk as BlkModel, MemoryBackend};
use wire::{Inline, Irq, MmioHost, PciHostOf, Shape, blk, memory, mmio_device, pci_device};

const BASE: u64 = 0x8000_0000;

/// Adds requests, of which the device has seen some and done fewer when `swap` puts another in its place.
fn go_on(
    mut blk: virtio_kit_drivers::blk::Blk<blk::Data, u64>,
    backend: &MemoryBackend,
    swap: &mut dyn FnMut(bool),
) {
    let arena = blk.queues[0].arena().clone();
    let mut done = std::collections::HashMap::new();
    for round in 0..20u64 {
        for (q, queue) in blk.queues.iter_mut().enumerate() {
            for i in 0..5 {
                let mut data = arena.alloc(512).unwrap();
                data.fill(round as u8 ^ q as u8);
                let sector = round * 16 + q as u64 * 8 + i;
                queue.write(sector, vec![data], round).unwrap();
                done.insert(sector, round as u8 ^ q as u8);
            }
            queue.kick().unwrap();
        }
        swap(round % 2 == 0);
        for queue in &mut blk.queues {
            blk::complete(queue, |_| {});
        }
    }
    for (sector, value) in done {
        let mut stored = [0; 512];
        backend.read(sector * 512, &mut stored);
        assert_eq!(stored, [value; 512], "sector {sector}");
    }
}

fn another(backend: &MemoryBackend) -> Box<BlkModel<MemoryBackend>> {
    Box::new(BlkModel::new(backend.clone(), 2))
}

/// Some of what was notified is done before, all of it after, or nothing.
fn work(monitor: &Arc<Inline>, some: bool) {
    if some {
        monitor.pump();
    }
    monitor.hold.store(true, Ordering::SeqCst);
}

fn mmio(shape: Shape, legacy: bool, irq: Irq) {
    let (arena, memory) = memory(BASE, 2 << 20);
    let (disk, backend) = blk::disk();
    let make = |disk, memory: &Memory| {
        mmio_device(disk, memory.clone(), |o| {
            o.ring_features = shape.features() | F::RING_RESET;
            o.legacy = legacy;
        })
    };
    let host = Arc::new(MmioHost::new(make(disk, &memory), arena, irq));
    let (blk, _device) = blk::open(MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap());
    go_on(blk, &backend, &mut |some| {
        work(&host.side.monitor(), some);
        let state = host.side.device().save().unwrap();
        let next = make(another(&backend), &memory);
        next.0.restore(&state).unwrap();
        assert_eq!(next.0.save().unwrap(), state, "nothing was lost on the way");
        host.side.replace(next);
        host.side.device().resume().unwrap();
    });
}

#[test]
fn mmio_devices_move_in_the_middle_of_work_in_every_shape() {
    for irq in [Irq::Line, Irq::Polled] {
        Shape::all().for_each(|shape| mmio(shape, false, irq));
        Shape::legacy().for_each(|shape| mmio(shape, true, irq));
    }
}

#[test]
fn pci_functions_move_in_the_middle_of_work_in_every_shape() {
    for irq in [Irq::Messages(8), Irq::Messages(1), Irq::Line, Irq::Polled] {
        for shape in Shape::all() {
            let (arena, memory) = memory(BASE, 2 << 20);
            let (disk, backend) = blk::disk();
            let make = |disk, memory: &Memory| {
                pci_device(disk, memory.clone(), |o| o.ring_features = shape.features() | F::RING_RESET)
            };
            let host = Arc::new(PciHostOf::new(make(disk, &memory), arena, irq));
            let (blk, _device) = blk::open(PciTransport::open(host.clone(), PciHostOf::AT).unwrap());
            go_on(blk, &backend, &mut |some| {
                let old = host.side.monitor();
                work(&old, some);
                let state = host.side.device().save().unwrap();
                let next = make(another(&backend), &memory);
                next.0.restore(&state).unwrap();
                assert_eq!(next.0.save().unwrap(), state, "nothing was lost on the way");
                // Messages that were sent are the machine's to deliver.
                let sent = std::mem::take(&mut *old.messages.lock().unwrap());
                next.1.messages.lock().unwrap().extend(sent);
                host.side.replace(next);
                host.side.device().resume().unwrap();
            });
        }
    }
}

#[test]
fn a_device_that_was_saved_goes_on_where_it_is() {
    for shape in Shape::all() {
        let (arena, memory) = memory(BASE, 2 << 20);
        let (disk, backend) = blk::disk();
        let device = mmio_device(disk, memory, |o| o.ring_features = shape.features());
        let host = Arc::new(MmioHost::new(device, arena, Irq::Line));
        let (blk, _device) = blk::open(MmioTransport::open(host.clone(), MmioHost::PLACE).unwrap().unwrap());
        go_on(blk, &backend, &mut |some| {
            work(&host.side.monitor(), some);
            host.side.device().save().unwrap();
            host.side.monitor().hold.store(false, Ordering::SeqCst);
            host.side.device().resume().unwrap();
        });
    }
}
