//! A block device served over vhost-user on threads of this process, and the block driver on it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use virtio_kit::driver::Found;
use virtio_kit::{DmaBuf, F, Features};
use virtio_kit_devices::blk::Blk as Device;
use virtio_kit_drivers::blk::{self, Blk, BlkDevice, BlkQueue, Completion, SubmitErrorKind};
use virtio_kit_linux::storage::{self, FileBackend};
use virtio_kit_linux::vhost_user::back_end::{BackEnd, Options, Polling, Runner, Source, Threads};
use virtio_kit_linux::vhost_user::front_end::{self, FrontEnd};
use virtio_kit_spec::DeviceId;

use super::{LONG, TempDir};

pub type Data = Vec<DmaBuf>;
pub type Queue = BlkQueue<Data, u64>;

/// Every set of ring features: layout, order, event index, indirect tables.
pub fn layouts() -> impl Iterator<Item = Features> {
    let all = [F::RING_PACKED, F::IN_ORDER, F::EVENT_IDX, F::INDIRECT_DESC];
    (0..16).map(move |mask| (0..4).filter(|bit| mask >> bit & 1 == 1).map(|bit| all[bit]).collect())
}

/// A file for a disk.
pub struct Image {
    pub dir: TempDir,
    pub file: File,
}

impl Image {
    pub fn new(sectors: u64) -> Self {
        let dir = TempDir::new();
        let path = dir.join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(sectors * 512).unwrap();
        Self { dir, file }
    }

    pub fn device(&self, queues: u16, direct: bool) -> Device<FileBackend> {
        let options = storage::Options { direct, ..storage::Options::default() };
        Device::new(FileBackend::open(self.dir.join("disk"), options).unwrap(), queues)
    }

    pub fn read(&self, sector: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

pub fn back_end(device: impl virtio_kit::device::Device + 'static, options: Options) -> BackEnd {
    BackEnd::new(Box::new(device), options).unwrap()
}

/// Serves one connection; the other end of it.
pub fn serve(back_end: BackEnd, threads: Threads, polling: Polling) -> (Runner, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Runner::start(back_end, Source::Stream(theirs), "test", threads, polling).unwrap(), ours)
}

pub fn options() -> front_end::Options {
    front_end::Options {
        arena_len: 8 << 20,
        timeout: LONG,
        queue_size: 64,
        ..front_end::Options::new(DeviceId::BLOCK)
    }
}

/// Opens the block device behind a front-end, with all its queues.
pub fn open(front: FrontEnd) -> (Blk<Data, u64>, BlkDevice) {
    let queues = front.queue_count();
    let options = blk::Options { queues, ..blk::Options::default() };
    blk::open(Found::new(Box::new(front)), &options).unwrap()
}

pub fn buffer(queue: &Queue, len: usize, value: u8) -> DmaBuf {
    let mut buffer = queue.arena().alloc(len).unwrap();
    buffer.fill(value);
    buffer
}

pub fn bytes(data: &Data) -> Vec<u8> {
    data.iter()
        .flat_map(|buffer| {
            let mut bytes = vec![0; buffer.len()];
            buffer.read(0, &mut bytes).unwrap();
            bytes
        })
        .collect()
}

/// Takes `count` completions off.
pub fn complete(queue: &mut Queue, count: usize, mut each: impl FnMut(Completion<Data, u64>)) {
    let deadline = Instant::now() + LONG;
    let (mut left, mut woken) = (count, true);
    while left > 0 {
        match queue.complete().unwrap() {
            Some(done) => {
                assert!(woken, "a call was lost: {:?}", queue.stats());
                left -= 1;
                each(done);
            }
            None => {
                assert!(woken || Instant::now() < deadline, "{left} of {count} never completed");
                woken = queue.wait(LONG).unwrap() || Instant::now() < deadline;
            }
        }
    }
}

/// Writes over the disk many times, compares it with `stored`, and reads it back.
pub fn exercise(queue: &mut Queue, first: u64, stored: impl Fn(u64, usize) -> Vec<u8>) {
    const COUNT: u64 = 300;
    let sector = |i: u64| first + i * 7919 % 512 * 8;
    let value = |i: u64| (i * 37 + first) as u8;
    let (mut next, mut done) = (0, 0);
    while done < COUNT {
        while next < COUNT {
            let v = value(next);
            let data = vec![buffer(queue, 1000, v), buffer(queue, 3000, !v), buffer(queue, 96, v ^ 0x55)];
            match queue.write(sector(next), data, next) {
                Ok(()) => next += 1,
                Err(error) if error.kind == SubmitErrorKind::Full => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        queue.kick().unwrap();
        complete(queue, queue.in_flight().div_ceil(2), |c| {
            assert_eq!(c.result, Ok(()), "write {}", c.token);
            done += 1;
        });
    }
    let expected = |i: u64| {
        let v = value(i);
        let mut all = vec![v; 1000];
        all.resize(4000, !v);
        all.resize(4096, v ^ 0x55);
        all
    };
    for i in 0..COUNT {
        assert!(stored(sector(i), 4096) == expected(i), "write {i}");
    }
    let (mut next, mut done) = (0, 0);
    while done < COUNT {
        while next < COUNT {
            let data = vec![buffer(queue, 512, 0), buffer(queue, 3584, 0)];
            match queue.read(sector(next), data, next) {
                Ok(()) => next += 1,
                Err(error) if error.kind == SubmitErrorKind::Full => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        queue.kick().unwrap();
        complete(queue, queue.in_flight(), |c| {
            assert_eq!(c.result, Ok(()), "read {}", c.token);
            assert!(bytes(c.data.as_ref().unwrap()) == expected(c.token), "read {}", c.token);
            done += 1;
        });
    }
    queue.flush(0).unwrap();
    queue.kick().unwrap();
    complete(queue, 1, |c| assert_eq!(c.result, Ok(())));
}
