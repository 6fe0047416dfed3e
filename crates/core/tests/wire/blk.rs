//! Work for a block device, checked against what is stored.

use std::time::Duration;
use virtio_kit::driver::Found;
use virtio_kit::transport::Transport;
use virtio_kit::{DmaBuf, Features};
use virtio_kit_devices::blk::{Blk as BlkModel, MemoryBackend};
use virtio_kit_drivers::blk::{self, Blk, BlkDevice, BlkQueue, Options, RequestError};

pub type Data = Vec<DmaBuf>;
pub type Queue = BlkQueue<Data, u64>;

const LIMIT: Duration = Duration::from_secs(1);
pub const BYTES: u64 = 4 << 20;

/// A disk in memory with two queues.
pub fn disk() -> (Box<BlkModel<MemoryBackend>>, MemoryBackend) {
    let backend = MemoryBackend::new(BYTES);
    (Box::new(BlkModel::new(backend.clone(), 2)), backend)
}

pub fn open(transport: impl Transport + 'static) -> (Blk<Data, u64>, BlkDevice) {
    let options = Options { queues: 2, queue_size: 64, ..Options::default() };
    blk::open(Found::new(Box::new(transport)), &options).unwrap()
}

/// Completes everything that is in flight.
pub fn complete(queue: &mut Queue, mut each: impl FnMut(blk::Completion<Data, u64>)) {
    let mut fruitless = 0;
    while queue.in_flight() > 0 {
        match queue.complete().unwrap() {
            Some(done) => {
                assert_eq!(done.result, Ok(()), "{:?} {}", done.kind, done.token);
                each(done);
            }
            None => {
                queue.wait(LIMIT).unwrap();
                fruitless += 1;
                assert!(
                    fruitless < 1000,
                    "{} requests never completed: {:?}",
                    queue.in_flight(),
                    queue.stats()
                );
            }
        }
    }
}

/// Several laps of the ring, in batches of different sizes, every byte compared.
pub fn exercise(queue: &mut Queue, backend: &MemoryBackend, salt: u8) {
    let arena = queue.arena().clone();
    let buffer = |len: usize, value: u8| {
        let mut buffer = arena.alloc(len).unwrap();
        buffer.fill(value);
        buffer
    };
    let sector_of = |i: u64| (i * 7919) % 1000 * 8;
    let value = |i: u64| (i as u8).wrapping_mul(31) ^ salt;
    let mut next = 0;
    while next < 300 {
        for _ in 0..1 + next % 13 {
            let data = vec![buffer(1024, value(next)), buffer(3072, !value(next))];
            if queue.write(sector_of(next), data, next).is_err() {
                break;
            }
            next += 1;
        }
        queue.kick().unwrap();
        complete(queue, |_| {});
    }
    for i in 0..300 {
        let mut stored = [0; 4096];
        backend.read(sector_of(i) * 512, &mut stored);
        assert!(stored[..1024].iter().all(|&b| b == value(i)), "request {i}");
        assert!(stored[1024..].iter().all(|&b| b == !value(i)), "request {i}");
    }
    backend.write(8 * 512, &[salt ^ 0x5a; 8192]);
    queue.read(8, (0..16).map(|_| buffer(512, 0)).collect(), 1).unwrap();
    queue.flush(2).unwrap();
    queue.get_id(3).unwrap();
    queue.kick().unwrap();
    complete(queue, |done| match done.token {
        1 => {
            for part in done.data.unwrap() {
                assert_eq!(part.read_value::<[u8; 512]>(0).unwrap(), [salt ^ 0x5a; 512]);
            }
        }
        3 => assert!(done.id.unwrap().starts_with(b"virtio-kit-memory")),
        _ => {}
    });
}

/// Drives a disk with all its queues, and lets it go again with requests in flight.
pub fn drive(transport: impl Transport + 'static, backend: &MemoryBackend, salt: u8) -> Features {
    let arena = transport.arena().clone();
    let free = arena.free_bytes();
    let (mut blk, device) = open(transport);
    assert_eq!(blk.queues.len(), 2);
    for (queue, n) in blk.queues.iter_mut().zip(0..) {
        exercise(queue, backend, salt ^ n);
    }
    let features = blk.features;
    for token in 0..10 {
        let data = vec![arena.alloc(512).unwrap()];
        blk.queues[0].write(0, data, token).unwrap();
    }
    drop(device);
    let mut back = 0;
    while let Ok(Some(done)) = blk.queues[0].complete() {
        assert_eq!(done.result, Err(RequestError::Removed));
        back += 1;
    }
    assert_eq!(back, 10);
    assert!(blk.queues[1].complete().is_err());
    drop(blk);
    assert_eq!(arena.free_bytes(), free);
    features
}
