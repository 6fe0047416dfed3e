//! A file behind real chains: a driver's and a device's queue, joined in memory.

#[path = "storage/pair.rs"]
mod pair;

use pair::{Chance, Pair, TempFile, next};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use virtio_kit::device::Chain;
use virtio_kit_devices::blk::{Backend, Finished, Operation, Request, Storage, StorageError};
use virtio_kit_linux::storage::{FileBackend, OpenErrorKind, Options, UringStorage};

const DISK: &str = env!("CARGO_TARGET_TMPDIR");
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const EBUSY: i32 = 16;
const EROFS: i32 = 30;

fn request(chain: Chain, operation: Operation, data_len: usize) -> Request {
    Request { chain, operation, data_len }
}

/// One request from beginning to end.
fn run(storage: &mut UringStorage, request: Request) -> Finished {
    if let Some(finished) = storage.submit(request) {
        return finished;
    }
    storage.commit().unwrap();
    next(storage)
}

/// `len` in pieces of multiples of `unit`.
fn split(chance: &mut Chance, len: usize, unit: usize) -> Vec<usize> {
    let mut lens = vec![];
    let mut left = len;
    while left > 0 {
        let piece = (unit * (1 + chance.below(left.div_ceil(unit)))).min(left);
        lens.push(piece);
        left -= piece;
    }
    lens
}

/// What a request in flight was for.
enum Expect {
    Data { offset: usize, len: usize },
    Nothing,
}

/// Random requests, many at a time, none overlapping another of the same batch, against a model in memory.
fn mirrors_a_model(path: &Path, options: Options, rounds: usize) {
    const STRIPE: usize = 160 << 10;
    const COUNT: usize = 24;
    let mut chance = Chance::new(rounds as u64);
    let mut model = chance.bytes(STRIPE * COUNT);
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&model).unwrap();
    file.sync_all().unwrap();
    let backend = FileBackend::open(path, Options { depth: 32, ..options }).unwrap();
    assert!(backend.len() >= model.len() as u64);
    let block = backend.block_size() as usize;
    let mut storage = backend.queue().unwrap();
    let mut pair = Pair::new();
    for _ in 0..rounds {
        let mut expected = HashMap::new();
        for stripe in 0..COUNT {
            // Half of the lengths are longer than a bounce buffer.
            let len = block * (1 + chance.below(STRIPE / block));
            let offset = stripe * STRIPE + block * chance.below((STRIPE - len) / block + 1);
            let range = offset..offset + len;
            let unit = [1, 512, 4096][chance.below(3)];
            let mut lens = split(&mut chance, len, unit);
            lens.truncate(30);
            let len: usize = lens.iter().sum::<usize>() / block * block;
            let shift = if chance.below(2) == 0 { 0 } else { chance.below(700) };
            let (at, durable) = (offset as u64, chance.below(8) == 0);
            let (chain, operation, data_len, expect) = match chance.below(10) {
                0..4 if len > 0 => {
                    let chain = pair.read_chain(&lens, shift);
                    (chain, Operation::Read { offset: at }, len, Expect::Data { offset, len })
                }
                4..8 if len > 0 => {
                    let data = chance.bytes(lens.iter().sum());
                    model[offset..offset + len].copy_from_slice(&data[..len]);
                    let chain = pair.write_chain(&data, &lens, shift);
                    (chain, Operation::Write { offset: at, durable }, len, Expect::Nothing)
                }
                8 => {
                    let len = range.len() as u64;
                    model[range].fill(0);
                    let operation = match chance.below(3) {
                        // Discarded files read as zeros, though nobody may rely on that.
                        0 => Operation::Discard { offset: at, len },
                        n => Operation::WriteZeroes { offset: at, len, unmap: n == 1, durable },
                    };
                    (pair.chain(vec![], vec![]), operation, 0, Expect::Nothing)
                }
                _ => (pair.chain(vec![], vec![]), Operation::Flush, 0, Expect::Nothing),
            };
            expected.insert(chain.id(), expect);
            assert!(storage.submit(request(chain, operation, data_len)).is_none());
        }
        storage.commit().unwrap();
        while storage.pending() > 0 {
            let finished = next(&mut storage);
            assert_eq!(finished.result, Ok(()));
            match expected.remove(&finished.chain.id()).unwrap() {
                Expect::Data { offset, len } => {
                    let data = pair.data(finished.chain, len);
                    assert!(data[..len] == model[offset..offset + len], "read what was written");
                }
                Expect::Nothing => assert_eq!(pair.complete(finished.chain).written, 0),
            }
        }
        assert!(expected.is_empty());
    }
    drop(storage);
    assert!(std::fs::read(path).unwrap()[..model.len()] == model);
    let counters = backend.counters();
    assert_eq!(counters.submitted(), counters.completed());
    assert!(counters.submitted() >= (rounds * COUNT) as u64);
}

#[test]
fn random_requests_in_flight_together_do_to_a_file_what_they_do_to_a_model() {
    let file = TempFile::new(DISK, "model", &[]);
    mirrors_a_model(&file.0, Options::default(), 40);
}

#[test]
fn direct_requests_do_the_same_whether_their_memory_is_aligned_or_not() {
    let file = TempFile::new(DISK, "direct", &[0; 8192]);
    let direct = Options { direct: true, ..Options::default() };
    match FileBackend::open(&file.0, direct) {
        Ok(_) => mirrors_a_model(&file.0, direct, 40),
        // A file system without direct I/O is told apart from everything else.
        Err(error) => assert_eq!(error.kind(), OpenErrorKind::NoDirect, "{error}"),
    }
}

#[test]
fn zeros_are_written_where_the_file_system_cannot_zero_a_range() {
    // A tmpfs can punch holes, and nothing else.
    if Path::new("/dev/shm").is_dir() {
        let file = TempFile::new("/dev/shm", "model", &[]);
        mirrors_a_model(&file.0, Options::default(), 10);
        let file = TempFile::new("/dev/shm", "zeros", &[7; 5 << 20]);
        let mut storage = FileBackend::open(&file.0, Options::default()).unwrap().queue().unwrap();
        let mut pair = Pair::new();
        // More than one operation writes: 2 MiB at a time.
        let len = (5 << 20) - 1536;
        let operation = Operation::WriteZeroes { offset: 512, len, unmap: false, durable: true };
        let finished = run(&mut storage, request(pair.chain(vec![], vec![]), operation, 0));
        assert_eq!(finished.result, Ok(()));
        pair.complete(finished.chain);
        let content = std::fs::read(&file.0).unwrap();
        let ones = |bytes: &[u8]| bytes.iter().filter(|&&b| b == 7).count();
        assert_eq!((ones(&content), ones(&content[..512])), (1536, 512));
        assert_eq!(ones(&content[(5 << 20) - 1024..]), 1024);
    }
}

#[test]
fn a_chain_of_more_segments_than_one_operation_names_is_done_in_several() {
    let mut chance = Chance::new(1);
    let content = chance.bytes(512 * 300);
    let file = TempFile::new(DISK, "segments", &vec![0; content.len()]);
    let backend = FileBackend::open(&file.0, Options::default()).unwrap();
    let mut storage = backend.queue().unwrap();
    let mut pair = Pair::new();
    let chain = pair.write_chain(&content, &[512; 300], 3);
    let operation = Operation::Write { offset: 0, durable: true };
    let finished = run(&mut storage, request(chain, operation, content.len()));
    assert_eq!(finished.result, Ok(()));
    pair.complete(finished.chain);
    let finished = {
        run(
            &mut storage,
            request(pair.read_chain(&[512; 300], 5), Operation::Read { offset: 0 }, content.len()),
        )
    };
    assert_eq!(finished.result, Ok(()));
    assert!(pair.data(finished.chain, content.len()) == content);
    assert!(backend.counters().submitted() >= 6);
}

#[test]
fn at_depth_32_the_kernel_works_on_at_least_16_operations_at_once() {
    let file = TempFile::new(DISK, "depth", &vec![0; 32 << 16]);
    let backend = FileBackend::open(&file.0, Options { depth: 32, ..Options::default() }).unwrap();
    let mut storage = backend.queue().unwrap();
    let mut pair = Pair::new();
    assert_eq!(storage.capacity(), 32);
    for _ in 0..4 {
        for index in 0..32 {
            let chain = pair.write_chain(&[5; 4096], &[4096], 0);
            let operation = Operation::Write { offset: index << 16, durable: true };
            assert!(storage.submit(request(chain, operation, 4096)).is_none());
        }
        assert_eq!(storage.pending(), 32);
        // One more than there is space for comes back.
        let chain = pair.chain(vec![], vec![]);
        let refused = storage.submit(request(chain, Operation::Flush, 0)).unwrap();
        assert_eq!(refused.result, Err(StorageError::Io(EBUSY)));
        pair.complete(refused.chain);
        storage.commit().unwrap();
        while storage.pending() > 0 {
            let finished = next(&mut storage);
            assert_eq!(finished.result, Ok(()));
            pair.complete(finished.chain);
        }
    }
    let most = backend.counters().max_in_kernel();
    println!("most at once: {most}");
    assert!((16..=32).contains(&most), "{most}");
}

#[test]
fn reading_past_the_end_of_a_file_cut_short_is_an_io_error() {
    for direct in [false, true] {
        let file = TempFile::new(DISK, &format!("short-{direct}"), &[1; 16 << 10]);
        let Ok(backend) = FileBackend::open(&file.0, Options { direct, ..Options::default() }) else {
            assert!(direct);
            continue;
        };
        let mut storage = backend.queue().unwrap();
        let mut pair = Pair::new();
        std::fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(8 << 10).unwrap();
        for offset in [4096, 8192, 12288] {
            let chain = pair.read_chain(&[2048, 6144], 0);
            let finished = run(&mut storage, request(chain, Operation::Read { offset }, 8192));
            assert_eq!(finished.result, Err(StorageError::Io(EIO)));
            pair.complete(finished.chain);
        }
        let finished =
            run(&mut storage, request(pair.read_chain(&[8192], 0), Operation::Read { offset: 0 }, 8192));
        assert_eq!(finished.result, Ok(()));
        assert!(pair.data(finished.chain, 8192) == [1; 8192]);
    }
}

#[test]
fn requests_that_cannot_be_done_come_back_with_an_error_and_leave_the_file_alone() {
    let file = TempFile::new(DISK, "refused", &[1; 8192]);
    let mut pair = Pair::new();
    let zeroes = |offset, len| Operation::WriteZeroes { offset, len, unmap: false, durable: false };
    let write = |offset| Operation::Write { offset, durable: false };
    let read_only = Options { read_only: true, ..Options::default() };
    let no_discard = Options { discard: false, ..Options::default() };
    let io = |number| Err(StorageError::Io(number));
    let cases = [
        (read_only, write(0), 512, io(EROFS)),
        (read_only, zeroes(0, 512), 0, io(EROFS)),
        (read_only, Operation::Discard { offset: 0, len: 512 }, 0, io(EROFS)),
        (read_only, Operation::Flush, 0, Ok(())),
        (no_discard, Operation::Discard { offset: 0, len: 512 }, 0, Err(StorageError::Unsupported)),
        // More data than the chain has.
        (no_discard, write(0), 1025, io(EINVAL)),
        (no_discard, Operation::Read { offset: 0 }, 2, io(EINVAL)),
        // -1 is no offset, and neither is what overflows.
        (no_discard, write(u64::MAX), 512, io(EINVAL)),
        (no_discard, write(u64::MAX - 511), 512, io(EINVAL)),
        (no_discard, zeroes(1 << 63, 512), 0, io(EINVAL)),
        (no_discard, zeroes(0, u64::MAX), 0, io(EINVAL)),
        // Nothing to do.
        (no_discard, write(0), 0, Ok(())),
        (no_discard, zeroes(0, 0), 0, Ok(())),
    ];
    for (options, operation, data_len, expected) in cases {
        let backend = FileBackend::open(&file.0, options).unwrap();
        assert_eq!(backend.read_only(), options.read_only);
        assert!(!backend.can_discard());
        let mut storage = backend.queue().unwrap();
        let chain = pair.write_chain(&[2; 1024], &[512, 512], 0);
        let finished = run(&mut storage, request(chain, operation, data_len));
        assert_eq!(finished.result, expected, "{operation:?}");
        assert_eq!(pair.complete(finished.chain).written, 0);
        assert_eq!(storage.pending(), 0);
        assert!(storage.wait().is_ok());
    }
    assert!(std::fs::read(&file.0).unwrap() == [1; 8192]);
}

#[test]
fn a_storage_dropped_with_requests_in_the_kernel_waits_for_them() {
    let file = TempFile::new(DISK, "dropped", &[0; 64 << 10]);
    let backend = FileBackend::open(&file.0, Options::default()).unwrap();
    let mut storage = backend.queue().unwrap();
    let mut pair = Pair::new();
    for offset in 0..16 {
        let chain = pair.write_chain(&[9; 4096], &[4096], 0);
        let operation = Operation::Write { offset: offset * 4096, durable: false };
        assert!(storage.submit(request(chain, operation, 4096)).is_none());
    }
    storage.commit().unwrap();
    drop(storage);
    assert_eq!(backend.counters().submitted(), 16);
    assert_eq!(backend.counters().completed(), 16);
    assert!(std::fs::read(&file.0).unwrap() == [9; 64 << 10]);
    // The chains are lost, and their memory is kept.
    assert_eq!(pair.device.in_flight(), 16);
}

#[test]
fn queues_of_one_file_see_each_others_data() {
    let file = TempFile::new(DISK, "queues", &[0; 8192]);
    let mut backend = FileBackend::open(&file.0, Options::default()).unwrap();
    let (mut one, mut pair) = (backend.queue().unwrap(), Pair::new());
    let chain = pair.write_chain(&[3; 8192], &[8192], 0);
    let finished = run(&mut one, request(chain, Operation::Write { offset: 0, durable: false }, 8192));
    pair.complete(finished.chain);
    let mut two: Box<dyn Storage> = backend.open_queue().unwrap();
    let chain = pair.read_chain(&[8192], 0);
    assert!(two.submit(request(chain, Operation::Read { offset: 0 }, 8192)).is_none());
    two.commit().unwrap();
    let finished = next(&mut *two);
    assert!(pair.data(finished.chain, 8192) == [3; 8192]);
}

#[test]
fn files_that_cannot_be_a_storage_are_refused_in_one_line_that_says_what_to_do() {
    let odd = TempFile::new(DISK, "odd", &[0; 1000]);
    let path = |name: &str| name.to_owned();
    let odd_path = odd.0.to_str().unwrap().to_owned();
    let cases = [
        (path("/nowhere/disk.img"), Options::default(), OpenErrorKind::NotFound, "create it"),
        (path("/tmp"), Options::default(), OpenErrorKind::Directory, "name a regular file"),
        (path("/dev/null"), Options::default(), OpenErrorKind::NotStorage, "name a regular file"),
        (
            odd_path.clone(),
            Options::default(),
            OpenErrorKind::Length { len: 1000, block: 512 },
            "truncate -s %512",
        ),
        (odd_path, Options { depth: 0, ..Options::default() }, OpenErrorKind::Depth(0), "choose 1 to 4096"),
    ];
    for (path, options, kind, advice) in cases {
        let error = FileBackend::open(&path, options).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind);
        assert!(text.starts_with(&path) && text.contains(advice) && !text.contains('\n'), "{text}");
    }
}
