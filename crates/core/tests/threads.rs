//! The device's ends with a thread for each queue, while their drivers work, reset and come back.

mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use virtio_kit::clock::Clock;
use virtio_kit::device::Monitor;
use virtio_kit::interrupts::{InterruptLine, LineHandler};
use virtio_kit::mmio::device::{MmioDevice, Options};
use virtio_kit::mmio::{Host, MmioTransport, Place};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::transport::TransportError;
use virtio_kit::{Arena, F};
use wire::{Shape, StdClock, Wire, blk, honest, memory};

/// Doorbells for threads that sleep, and a line for a driver that spins.
#[derive(Default)]
struct Threads {
    rung: Mutex<u32>,
    bell: Condvar,
    line: AtomicBool,
    stop: AtomicBool,
}

impl Monitor for Threads {
    fn doorbell(&self, queue: u16) {
        *self.rung.lock().unwrap() |= 1 << queue;
        self.bell.notify_all();
    }
    fn set_line(&self, raised: bool) {
        self.line.store(raised, Ordering::SeqCst);
    }
}

impl Threads {
    fn serve(&self, device: &MmioDevice, queue: u16) {
        while !self.stop.load(Ordering::SeqCst) {
            let mut rung = self.rung.lock().unwrap();
            while *rung & 1 << queue == 0 && !self.stop.load(Ordering::SeqCst) {
                rung = self.bell.wait(rung).unwrap();
            }
            *rung &= !(1 << queue);
            drop(rung);
            while let Some(Ok(run)) = device.run(queue) {
                if device.arm(queue) || run.taken + run.completed == 0 {
                    break;
                }
            }
        }
    }
}

struct Machine {
    device: Arc<MmioDevice>,
    monitor: Arc<Threads>,
    arena: Arena,
    handler: Mutex<Option<Arc<dyn LineHandler>>>,
}

struct Line(Arc<Machine>);

impl InterruptLine for Line {
    fn connect(&self, handler: Arc<dyn LineHandler>) -> Result<(), TransportError> {
        *self.0.handler.lock().unwrap() = Some(handler);
        Ok(())
    }
    fn disconnect(&self) {
        *self.0.handler.lock().unwrap() = None;
    }
    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let deadline = Instant::now() + limit;
        while !self.0.monitor.line.load(Ordering::SeqCst) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::yield_now();
        }
        let handler = self.0.handler.lock().unwrap().clone();
        Ok(handler.is_some_and(|handler| handler.handle()))
    }
}

struct Shared(Arc<Machine>);

impl Host for Shared {
    fn map(&self, _: u64, len: u64) -> Result<Arc<dyn Registers>, TransportError> {
        let (reader, writer) = (self.0.device.clone(), self.0.device.clone());
        Ok(Arc::new(Wire {
            bar: 0,
            len,
            read: Box::new(move |offset, width: Width| reader.read(offset, width)),
            write: Box::new(move |offset, width: Width, value| writer.write(offset, width, value)),
            fault: honest(),
            accesses: Arc::default(),
        }))
    }
    fn arena(&self, _: &Place) -> Arena {
        self.0.arena.clone()
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(StdClock(Instant::now()))
    }
    fn line(&self, _: &Place) -> Option<Arc<dyn InterruptLine>> {
        Some(Arc::new(Line(self.0.clone())))
    }
}

#[test]
fn queues_run_by_threads_survive_resets_in_the_middle_of_work_in_every_shape() {
    for shape in Shape::all() {
        let (arena, memory) = memory(0x8000_0000, 2 << 20);
        let (disk, backend) = blk::disk();
        let monitor = Arc::new(Threads::default());
        let mut options = Options::new(memory);
        options.ring_features = shape.features() | F::RING_RESET;
        let device = Arc::new(MmioDevice::new(disk, monitor.clone(), options).unwrap());
        let handler = Mutex::new(None);
        let machine = Arc::new(Machine {
            device: device.clone(),
            monitor: monitor.clone(),
            arena: arena.clone(),
            handler,
        });
        std::thread::scope(|scope| {
            for queue in 0..2 {
                let (monitor, device) = (&monitor, &device);
                scope.spawn(move || monitor.serve(device, queue));
            }
            for round in 0..10u8 {
                let place = wire::MmioHost::PLACE;
                let opened = MmioTransport::open(Arc::new(Shared(machine.clone())), place).unwrap();
                let (mut blk, device) = blk::open(opened.unwrap());
                blk::exercise(&mut blk.queues[usize::from(round & 1)], &backend, round);
                for queue in &mut blk.queues {
                    for token in 0..10 {
                        queue.read(token, vec![arena.alloc(512).unwrap()], token).unwrap();
                    }
                    queue.kick().unwrap();
                }
                // The device is at work; what is in flight comes back one way or the other.
                drop(device);
                for queue in &mut blk.queues {
                    let mut back = 0;
                    while let Ok(Some(_)) = queue.complete() {
                        back += 1;
                    }
                    assert_eq!(back, 10, "{shape:?}");
                }
            }
            monitor.stop.store(true, Ordering::SeqCst);
            drop(monitor.rung.lock().unwrap());
            monitor.bell.notify_all();
        });
        assert!(!arena.is_retired());
    }
}
