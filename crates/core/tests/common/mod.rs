//! A device that echoes, and a back-end that is a list: what the bus tests stand on.
#![allow(unreachable_pub, dead_code, reason = "each test binary uses what it needs")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use virtio_kit::bus::{Backend, Event};
use virtio_kit::clock::Clock;
use virtio_kit::device::{Chain, Device, DeviceError, Queue, Service, Serving, Submitted, Worker};
use virtio_kit::driver::Found;
use virtio_kit::in_process::{DeviceEnd, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, DeviceId, Features};

pub struct StdClock(pub Instant);

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Answers each chain with what it reads, once it is asked to.
pub struct Echo {
    pub id: DeviceId,
    /// Chains are taken and kept, never answered.
    pub silent: bool,
}

impl Device for Echo {
    fn id(&self) -> DeviceId {
        self.id
    }
    fn features(&self) -> Features {
        Features::EMPTY
    }
    fn queue_count(&self) -> u16 {
        2
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        virtio_kit::device::read_bytes(&[1, 2, 3, 4], offset, to);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, _: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        Ok(Box::new(Serving::new(queue, EchoService { silent: self.silent, kept: VecDeque::new() })))
    }
    fn reset(&mut self) {}
}

struct EchoService {
    silent: bool,
    kept: VecDeque<Chain>,
}

impl Service for EchoService {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        if self.silent {
            self.kept.push_back(chain);
            return Submitted::Pending;
        }
        let mut data = vec![0; chain.readable_len().min(chain.writable_len())];
        chain.read(&mut data).unwrap();
        chain.write(&data).unwrap();
        Submitted::Done(chain)
    }

    fn pending(&self) -> usize {
        self.kept.len()
    }

    /// Fewer than the tests submit: a device that is full must not hold up the driver that notifies it.
    fn capacity(&self) -> usize {
        4
    }
}

/// A device of a type, in this program.
pub fn found(id: DeviceId, silent: bool) -> (Found, DeviceEnd) {
    let arena = Arena::new(HeapMemory::new(1 << 18).unwrap()).unwrap();
    let options = Options::inline(arena, Arc::new(StdClock(Instant::now())));
    let (transport, end) = InProcess::new(Box::new(Echo { id, silent }), options).unwrap();
    (Found::new(Box::new(transport)), end)
}

/// A back-end that tells what it is given.
#[derive(Clone, Default)]
pub struct List(pub Arc<Mutex<Vec<Event>>>);

impl List {
    pub fn tell(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
    pub fn of(ids: impl IntoIterator<Item = DeviceId>) -> Self {
        let list = Self::default();
        for (key, id) in (0..).zip(ids) {
            list.tell(Event::Added(key, found(id, false).0));
        }
        list
    }
}

impl Backend for List {
    fn name(&self) -> &str {
        "list"
    }
    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        self.0.lock().unwrap().drain(..).for_each(tell);
    }
}
