//! PCI, MMIO and in-process devices in one program: which there are is decided by the back-ends that are installed.

mod common;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use virtio_kit::bus::{Backend, Bus, DeviceState, Event};
use virtio_kit::device::{Device, DeviceError, Queue, Run, Stopped, Worker};
use virtio_kit::driver::{Found, GetError};
use virtio_kit::in_process::{InProcess, Options};
use virtio_kit::mmio::{MmioBus, MmioTransport};
use virtio_kit::pci::PciHost;
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::blk::{Blk as BlkModel, MemoryBackend};
use virtio_kit_drivers::blk::{Blk, BlkDriver, Error, Options as BlkOptions, RequestError};
use wire::{Irq, MmioHost, PciHostOf, StdClock, blk, memory, mmio_device, pci_device};

const BASE: u64 = 0x8000_0000;

type Taken = Arc<Mutex<Vec<Blk<blk::Data, u64>>>>;

fn driver() -> (Arc<dyn virtio_kit::bus::Driver>, Taken) {
    let taken = Taken::default();
    let attach = taken.clone();
    let options = BlkOptions { queues: 2, queue_size: 64, ..BlkOptions::default() };
    (Arc::new(BlkDriver::new(options, move |blk| attach.lock().unwrap().push(blk))), taken)
}

fn in_process() -> (Box<dyn Backend>, MemoryBackend) {
    let (disk, backend) = blk::disk();
    let (arena, _) = memory(BASE, 1 << 20);
    let options = Options::inline(arena, Arc::new(StdClock(Instant::now())));
    let (transport, _end) = InProcess::new(disk, options).unwrap();
    let list = common::List::default();
    list.tell(Event::Added(0, Found::new(Box::new(transport))));
    (Box::new(list), backend)
}

fn mmio() -> (Box<dyn Backend>, MemoryBackend) {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let host = Arc::new(MmioHost::new(mmio_device(disk, memory, |_| ()), arena, Irq::Line));
    (Box::new(MmioBus::new(host, [MmioHost::PLACE])), backend)
}

fn pci() -> (Box<dyn Backend>, MemoryBackend) {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, backend) = blk::disk();
    let host = Arc::new(PciHostOf::new(pci_device(disk, memory, |_| ()), arena, Irq::Messages(8)));
    (Box::new(PciHost::new(host)), backend)
}

#[test]
fn one_driver_runs_over_pci_mmio_and_in_process_at_the_same_time() {
    let (driver, taken) = driver();
    let mut bus = Bus::new();
    bus.register_driver_early(driver);
    let backends = [pci(), mmio(), in_process()];
    let mut stored = vec![];
    for (backend, storage) in backends {
        bus.install_backend(backend);
        stored.push(storage);
    }
    let mut disks = taken.lock().unwrap();
    assert_eq!(disks.len(), 3);
    for round in 0..3 {
        for (disk, storage) in disks.iter_mut().zip(&stored) {
            for queue in &mut disk.queues {
                blk::exercise(queue, storage, round);
            }
        }
    }
    drop(bus);
    for disk in disks.iter_mut() {
        assert!(matches!(disk.queues[0].complete(), Err(Error::Queue(GetError::Stopped))));
    }
}

#[test]
fn a_back_end_takes_another_ones_place_while_the_system_runs() {
    let (driver, taken) = driver();
    let mut bus = Bus::new();
    bus.register_driver_early(driver);
    let (backend, stored) = mmio();
    let mut installed = bus.install_backend(backend);
    blk::exercise(&mut taken.lock().unwrap()[0].queues[0], &stored, 0);
    for (n, (backend, stored)) in [pci(), in_process(), mmio()].into_iter().enumerate() {
        (installed, _) = bus.replace_backend(installed, backend).unwrap();
        let mut disks = taken.lock().unwrap();
        assert_eq!(disks.len(), n + 2);
        assert!(matches!(disks[n].queues[0].complete(), Err(Error::Queue(GetError::Stopped))));
        blk::exercise(&mut disks[n + 1].queues[0], &stored, n as u8);
    }
}

/// A disk whose queues fail when they are told to.
struct Failing {
    disk: Box<BlkModel<MemoryBackend>>,
    fail: Arc<AtomicBool>,
}

struct FailingWorker {
    worker: Box<dyn Worker>,
    fail: Arc<AtomicBool>,
}

impl Device for Failing {
    fn id(&self) -> DeviceId {
        self.disk.id()
    }
    fn features(&self) -> Features {
        self.disk.features()
    }
    fn queue_count(&self) -> u16 {
        self.disk.queue_count()
    }
    fn max_segments(&self, index: u16) -> u16 {
        self.disk.max_segments(index)
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        self.disk.read_config(offset, to);
    }
    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        self.disk.activate(features)
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let worker = self.disk.start_queue(index, queue)?;
        Ok(Box::new(FailingWorker { worker, fail: self.fail.clone() }))
    }
    fn reset(&mut self) {
        self.disk.reset();
    }
}

impl Worker for FailingWorker {
    fn run(&mut self) -> Result<Run, DeviceError> {
        if self.fail.swap(false, Ordering::SeqCst) {
            return Err(DeviceError::Backend("a test"));
        }
        self.worker.run()
    }
    fn restart(&mut self) -> bool {
        self.worker.restart()
    }
    fn disable(&mut self) {
        self.worker.disable();
    }
    fn wait(&mut self) -> Result<(), DeviceError> {
        self.worker.wait()
    }
    fn stop(self: Box<Self>) -> Stopped {
        self.worker.stop()
    }
}

// drivernormative:Basic Facilities of a Virtio Device / Device Status Field
#[test]
fn a_device_that_needs_a_reset_in_the_middle_of_work_is_started_over() {
    for pci in [false, true] {
        let fail = Arc::new(AtomicBool::new(false));
        let (disk, stored) = blk::disk();
        let device = Box::new(Failing { disk, fail: fail.clone() });
        // The disks of earlier rounds are kept.
        let (arena, memory) = memory(BASE, 8 << 20);
        let backend: Box<dyn Backend> = if pci {
            let host = PciHostOf::new(pci_device(device, memory, |_| ()), arena.clone(), Irq::Messages(8));
            Box::new(PciHost::new(Arc::new(host)))
        } else {
            let host = MmioHost::new(mmio_device(device, memory, |_| ()), arena.clone(), Irq::Line);
            Box::new(MmioBus::new(Arc::new(host), [MmioHost::PLACE]))
        };
        let (driver, taken) = driver();
        let mut bus = Bus::new();
        bus.register_driver_early(driver);
        bus.install_backend(backend);
        for round in 0..5 {
            let mut disks = taken.lock().unwrap();
            assert_eq!(disks.len(), round + 1);
            let disk = &mut disks[round];
            blk::exercise(&mut disk.queues[0], &stored, round as u8);
            let queue = &mut disk.queues[1];
            for token in 0..10 {
                queue.read(0, vec![arena.alloc(512).unwrap()], token).unwrap();
            }
            queue.kick().unwrap();
            fail.store(true, Ordering::SeqCst);
            // Nothing comes: the device has stopped, and announced it. A wait may end early for what was before.
            for _ in 0..3 {
                let _ = queue.wait(std::time::Duration::from_millis(20));
            }
            assert!(!fail.load(Ordering::SeqCst));
            drop(disks);
            bus.poll();
            let mut disks = taken.lock().unwrap();
            let mut back = 0;
            while let Ok(Some(done)) = disks[round].queues[1].complete() {
                assert_eq!(done.result, Err(RequestError::Removed));
                back += 1;
            }
            assert_eq!(back, 10, "every request came back");
            let states: Vec<_> = bus.devices().map(|(.., state)| state).collect();
            assert!(matches!(states[..], [DeviceState::Bound(_)]), "pci {pci}, round {round}: {states:?}");
        }
        assert!(!arena.is_retired());
    }
}

#[test]
fn interrupts_of_a_line_that_several_share_find_their_device() {
    let (arena, memory) = memory(BASE, 1 << 20);
    let (disk, stored) = blk::disk();
    let host = Arc::new(MmioHost::new(mmio_device(disk, memory, |_| ()), arena, Irq::Line));
    let (mut blk, _device) = blk::open(MmioTransport::open(host, MmioHost::PLACE).unwrap().unwrap());
    let (first, second) = blk.queues.split_at_mut(1);
    // Both have requests in flight; either's wait may take note of the interrupt of both.
    for round in 0..50 {
        for queue in [&mut first[0], &mut second[0]] {
            queue.read(round, vec![queue.arena().alloc(512).unwrap()], round).unwrap();
            queue.kick().unwrap();
        }
        blk::complete(&mut first[0], |_| {});
        blk::complete(&mut second[0], |_| {});
    }
    blk::exercise(&mut first[0], &stored, 1);
}
