//! A file, a virtio-blk device of QEMU on it, and the block driver.

use super::{LIMIT, TempDir};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use virtio_kit::DmaBuf;
use virtio_kit::driver::Found;
use virtio_kit::transport::Transport;
use virtio_kit_drivers::blk::{self, Blk, BlkDevice, BlkQueue, Kind};
use virtio_kit_linux::qtest::{Machine, Options};

pub type Data = Vec<DmaBuf>;
pub type Queue = BlkQueue<Data, u64>;

pub const SECTORS: u64 = 64 << 11;

/// Adds a modern PCI disk of 64 MiB, whose serial number is its name, in slot `slot`; its file.
pub fn add_disk(
    options: Options,
    dir: &TempDir,
    name: &str,
    slot: &str,
    properties: &str,
) -> (Options, File) {
    let (options, file) = add_file(options, dir, name);
    (options.virtio(&format!("virtio-blk-pci,{},addr={slot},{properties}", disk(name))), file)
}

/// Adds a file of 64 MiB.
pub fn add_file(options: Options, dir: &TempDir, name: &str) -> (Options, File) {
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(SECTORS * 512).unwrap();
    (options.file(name, &path).unwrap(), file)
}

/// The properties that make a device a disk on the file of that name.
pub fn disk(name: &str) -> String {
    format!("drive={name},serial={name}")
}

pub fn open(
    machine: &Machine,
    slot: u8,
    function: u8,
    options: &blk::Options,
) -> (Blk<Data, u64>, BlkDevice) {
    let at = virtio_kit::pci::Address::new(0, slot, function);
    open_on(machine.transport_at(at).unwrap(), options)
}

pub fn open_on(transport: impl Transport + 'static, options: &blk::Options) -> (Blk<Data, u64>, BlkDevice) {
    blk::open(Found::new(Box::new(transport)), options).unwrap()
}

pub fn buffer(queue: &Queue, len: usize, value: u8) -> DmaBuf {
    let mut buffer = queue.arena().alloc(len).unwrap();
    buffer.fill(value);
    buffer
}

/// Takes `count` completions off, each of which must be a success.
pub fn complete(queue: &mut Queue, count: usize, mut each: impl FnMut(blk::Completion<Data, u64>)) {
    let deadline = Instant::now() + LIMIT;
    let (mut left, mut woken) = (count, true);
    while left > 0 {
        match queue.complete().unwrap() {
            Some(done) => {
                assert_eq!(done.result, Ok(()), "{:?} {}", done.kind, done.token);
                assert!(woken, "an interrupt was lost: {:?}", queue.stats());
                left -= 1;
                each(done);
            }
            None => {
                let (in_flight, stats) = (queue.in_flight(), queue.stats());
                assert!(
                    woken,
                    "{left} of {count} requests never completed, {in_flight} in flight, {stats:?}"
                );
                woken = queue.wait(LIMIT).unwrap() || Instant::now() < deadline;
            }
        }
    }
}

pub fn stored(file: &File, sector: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, sector * 512).unwrap();
    bytes
}

/// Everything that a disk does, compared with what the file has.
///
/// Gently: no chain in flight is on another lap of the ring than the oldest one. QEMU up to 10.0.2 loses
/// completions of an in-order queue otherwise (`virtqueue_ordered_fill` reads beyond its table where the ring
/// ends; QEMU commit 6fcf5ebafad6 mends that, and still a full ring is taken for an empty one). So 16 requests at a
/// time, which go straight into the ring: 64 descriptors, which divide it.
pub fn exercise(queue: &mut Queue, file: &File, name: &str, gently: bool) {
    // As many writes as fit, of two buffers each, over and over; more than one lap of the ring.
    let sector_of = |i: u64| (i * 7919) % 4000 * 8;
    let (mut next, mut done) = (0u64, 0u64);
    while done < 600 {
        while next < 600 && (!gently || queue.in_flight() < 16) {
            let data = vec![buffer(queue, 1024, next as u8), buffer(queue, 3072, !next as u8)];
            match queue.write(sector_of(next), data, next) {
                Ok(()) => next += 1,
                Err(error) if error.kind == blk::SubmitErrorKind::Full => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        queue.kick().unwrap();
        let some = if gently { queue.in_flight() } else { queue.in_flight().div_ceil(2) };
        complete(queue, some, |c| {
            assert_eq!(c.kind, Kind::Write);
            done += 1;
        });
    }
    for i in 0..600 {
        let bytes = stored(file, sector_of(i), 4096);
        assert!(bytes[..1024].iter().all(|&b| b == i as u8), "{name}: request {i}");
        assert!(bytes[1024..].iter().all(|&b| b == !i as u8), "{name}: request {i}");
    }
    // What is put into the file comes out of the disk, in one buffer and in many.
    let base = 64 << 10;
    let pattern: Vec<u8> = (0..64 << 10).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all_at(&pattern, base * 512).unwrap();
    let mut same = |c: blk::Completion<Data, u64>| {
        let mut bytes = vec![];
        for buffer in c.data.unwrap() {
            let mut part = vec![0; buffer.len()];
            buffer.read(0, &mut part).unwrap();
            bytes.extend(part);
        }
        assert!(bytes == pattern, "{name}: read {}", c.token);
    };
    queue.read(base, vec![buffer(queue, 64 << 10, 0)], 0).unwrap();
    settle(queue, gently, &mut same);
    queue.read(base, (0..32).map(|_| buffer(queue, 2 << 10, 0)).collect(), 1).unwrap();
    settle(queue, true, &mut same);
    // Everything else.
    let mut id = None;
    let mut see = |c: blk::Completion<Data, u64>| id = id.or(c.id);
    queue.get_id(1).unwrap();
    settle(queue, gently, &mut see);
    queue.flush(2).unwrap();
    settle(queue, gently, &mut see);
    queue.discard(base, 16, 3).unwrap();
    settle(queue, gently, &mut see);
    queue.write_zeroes(base + 16, 16, true, 4).unwrap();
    settle(queue, gently, &mut see);
    queue.write_zeroes(base + 32, 16, false, 5).unwrap();
    settle(queue, true, &mut see);
    let id = id.unwrap();
    assert!(id.starts_with(name.as_bytes()) && id[name.len()..].iter().all(|&b| b == 0), "{id:?}");
    let bytes = stored(file, base, 64 << 10);
    assert!(bytes[16 * 512..48 * 512].iter().all(|&b| b == 0), "{name}: not zeroed");
    assert!(bytes[48 * 512..] == pattern[48 * 512..], "{name}: too much zeroed");
}

/// Completes everything, if that is wanted now.
fn settle(queue: &mut Queue, now: bool, each: &mut impl FnMut(blk::Completion<Data, u64>)) {
    if now {
        queue.kick().unwrap();
        complete(queue, queue.in_flight(), each);
    }
}
