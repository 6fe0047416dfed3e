//! The block driver on the block device, in one program.

use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_kit::clock::Clock;
use virtio_kit::driver::Found;
use virtio_kit::in_process::{InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::{Arena, DmaBuf, F, Features};
use virtio_kit_devices::blk::{Blk as Device, MemoryBackend};
use virtio_kit_drivers::blk::{self, Blk, BlkDevice, Kind, RequestError, SubmitErrorKind};

struct StdClock(Instant);

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

const LIMIT: Duration = Duration::from_secs(10);

/// The four layouts, as the ring features that the device offers.
fn layouts() -> [Features; 4] {
    let plain = F::INDIRECT_DESC | F::EVENT_IDX | F::RING_RESET;
    [plain, plain | F::IN_ORDER, plain | F::RING_PACKED, plain | F::RING_PACKED | F::IN_ORDER]
}

fn pair(backend: MemoryBackend, ring_features: Features) -> (Blk<Vec<DmaBuf>, u64>, BlkDevice) {
    let arena = Arena::new(HeapMemory::new(8 << 20).unwrap()).unwrap();
    let clock = Arc::new(StdClock(Instant::now()));
    let options = Options { ring_features, ..Options::inline(arena, clock) };
    let (transport, _end) = InProcess::new(Box::new(Device::new(backend, 1)), options).unwrap();
    let (blk, device) = blk::open(Found::new(Box::new(transport)), &blk::Options::default()).unwrap();
    assert_eq!(blk.features & (F::RING_PACKED | F::IN_ORDER), ring_features & (F::RING_PACKED | F::IN_ORDER));
    (blk, device)
}

#[test]
fn what_is_written_is_stored_and_reads_back_in_every_layout() {
    for layout in layouts() {
        let backend = MemoryBackend::new(16 << 20);
        let (mut blk, _device) = pair(backend.clone(), layout);
        let queue = &mut blk.queues[0];
        let arena = queue.arena().clone();
        let sector_of = |i: u64| (i * 7919) % 4000 * 8;
        for i in 0..4000u64 {
            let mut data = vec![arena.alloc(1024).unwrap(), arena.alloc(3072).unwrap()];
            data[0].fill(i as u8);
            data[1].fill(!i as u8);
            queue.write(sector_of(i), data, i).unwrap();
            if i % 32 == 31 {
                queue.kick().unwrap();
                let mut left = 32;
                while left > 0 {
                    match queue.complete().unwrap() {
                        Some(done) => {
                            assert_eq!((done.kind, done.result), (Kind::Write, Ok(())));
                            left -= 1;
                        }
                        None => assert!(queue.wait(LIMIT).unwrap()),
                    }
                }
            }
        }
        for i in 0..4000u64 {
            let mut stored = [0; 4096];
            backend.read(sector_of(i) * 512, &mut stored);
            assert!(stored[..1024].iter().all(|&b| b == i as u8));
            assert!(stored[1024..].iter().all(|&b| b == !i as u8));
        }
        backend.write(8 * 512, &[0xab; 512]);
        queue.read(8, vec![arena.alloc(512).unwrap()], 0).unwrap();
        queue.kick().unwrap();
        while !queue.wait(LIMIT).unwrap() {}
        let done = queue.complete().unwrap().unwrap();
        assert_eq!(done.data.unwrap()[0].read_value::<[u8; 512]>(0).unwrap(), [0xab; 512]);
        queue.get_id(1).unwrap();
        queue.flush(2).unwrap();
        queue.discard(0, 8, 3).unwrap();
        queue.write_zeroes(8, 8, true, 4).unwrap();
        backend.write(16 * 512, &[0xcd; 1024]);
        queue.secure_erase(16, 2, 5).unwrap();
        queue.kick().unwrap();
        let mut tokens = vec![];
        while tokens.len() < 5 {
            match queue.complete().unwrap() {
                Some(done) => {
                    assert_eq!(done.result, Ok(()), "{:?}", done.kind);
                    if let Some(id) = done.id {
                        assert!(id.starts_with(b"virtio-kit-memory"));
                    }
                    tokens.push(done.token);
                }
                None => assert!(queue.wait(LIMIT).unwrap()),
            }
        }
        let mut stored = [1; 18 * 512];
        backend.read(0, &mut stored);
        assert_eq!(stored, [0; 18 * 512]);
    }
}

#[test]
fn requests_beyond_the_end_and_of_odd_lengths_come_back_with_their_buffers() {
    let (mut blk, _device) = pair(MemoryBackend::new(1 << 20), layouts()[0]);
    let queue = &mut blk.queues[0];
    let arena = queue.arena().clone();
    let error = queue.read(2048, vec![arena.alloc(512).unwrap()], 7).unwrap_err();
    assert_eq!(error.kind, SubmitErrorKind::OutOfRange { sector: 2048, count: 1, sectors: 2048 });
    assert_eq!((error.data.unwrap().len(), error.token), (1, 7));
    let error = queue.write(0, vec![arena.alloc(511).unwrap()], 8).unwrap_err();
    assert_eq!(error.kind, SubmitErrorKind::BadLength(511));
}

#[test]
fn removing_a_device_hands_every_buffer_in_flight_back() {
    for layout in layouts() {
        let (mut blk, device) = pair(MemoryBackend::new(1 << 20), layout);
        let queue = &mut blk.queues[0];
        let arena = queue.arena().clone();
        let free = arena.free_bytes();
        for i in 0..50 {
            queue.write(0, vec![arena.alloc(512).unwrap()], i).unwrap();
        }
        drop(device);
        let mut tokens: Vec<u64> = vec![];
        while let Ok(Some(done)) = queue.complete() {
            assert_eq!(done.result, Err(RequestError::Removed));
            tokens.push(done.token);
        }
        tokens.sort_unstable();
        assert_eq!(tokens, (0..50).collect::<Vec<_>>());
        assert_eq!(arena.free_bytes(), free);
    }
}

#[test]
fn hundreds_of_requests_are_in_flight_on_one_queue_of_256() {
    for layout in layouts() {
        let (mut blk, _device) = pair(MemoryBackend::new(1 << 20), layout);
        let queue = &mut blk.queues[0];
        let arena = queue.arena().clone();
        let mut submitted = 0;
        while queue.read(submitted % 2048, vec![arena.alloc(512).unwrap()], submitted).is_ok() {
            submitted += 1;
        }
        assert!(submitted >= 200, "{submitted}");
        queue.kick().unwrap();
        let mut left = submitted;
        while left > 0 {
            match queue.complete().unwrap() {
                Some(done) => {
                    assert_eq!(done.result, Ok(()));
                    left -= 1;
                }
                None => assert!(queue.wait(LIMIT).unwrap()),
            }
        }
        // One publish for all of them, and at most one notification.
        assert_eq!(queue.stats().kicks, 1);
        assert!(queue.stats().notifications <= 1);
    }
}

#[test]
fn a_layout_that_the_user_leaves_alone_is_not_taken() {
    let arena = Arena::new(HeapMemory::new(8 << 20).unwrap()).unwrap();
    let clock = Arc::new(StdClock(Instant::now()));
    let options = Options { ring_features: layouts()[3], ..Options::inline(arena, clock) };
    let device = Device::new(MemoryBackend::new(1 << 20), 1);
    let (transport, _end) = InProcess::new(Box::new(device), options).unwrap();
    let without = F::RING_PACKED | F::IN_ORDER;
    let wanted = blk::Options { without, ..blk::Options::default() };
    let (blk, _device) = blk::open::<Vec<DmaBuf>, ()>(Found::new(Box::new(transport)), &wanted).unwrap();
    assert!((blk.features & without).is_empty());
}

#[test]
fn batches_take_what_there_is_room_for_and_a_wrong_request_comes_back_out_of_their_middle() {
    for layout in layouts() {
        let (mut blk, _device) = pair(MemoryBackend::new(1 << 20), layout);
        let queue = &mut blk.queues[0];
        let arena = queue.arena().clone();
        let buffer = || vec![arena.alloc(512).unwrap()];
        let free = arena.free_bytes();
        // Beyond the end, after three good ones.
        let mut sectors = [1, 2, 3, 2048, 4].into_iter();
        let error = queue.read_batch(|| sectors.next().map(|sector| (sector, buffer(), sector))).unwrap_err();
        assert_eq!(error.kind, SubmitErrorKind::OutOfRange { sector: 2048, count: 1, sectors: 2048 });
        assert_eq!((error.data.map(|data| data.len()), error.token), (Some(1), 2048));
        assert_eq!((queue.in_flight(), sectors.next()), (3, Some(4)));
        // An endless supply: as many as fit, and what was asked for and did not fit comes back.
        let mut asked = 0u64;
        let rest = queue.write_batch(|| {
            asked += 1;
            Some((asked % 2048, buffer(), asked))
        });
        let added = queue.in_flight() - 3;
        match rest {
            Ok(taken) => assert_eq!((taken, asked), (added, added as u64)),
            Err(error) => {
                assert_eq!((error.kind, error.token), (SubmitErrorKind::Full, asked));
                assert_eq!(asked, added as u64 + 1);
            }
        }
        assert!(added >= 200, "{added}");
        queue.kick().unwrap();
        let mut tokens = Vec::new();
        while queue.in_flight() > 0 {
            let got = queue.complete_batch(50, |done| {
                assert_eq!(done.result, Ok(()));
                assert_eq!(done.data.unwrap().len(), 1);
                tokens.push(done.token);
            });
            if got.unwrap() == 0 {
                queue.wait(LIMIT).unwrap();
            }
        }
        assert_eq!(tokens.len(), added + 3);
        assert_eq!(arena.free_bytes(), free);
    }
}
