//! What no file can be made to do in a test, done by a pipe: short reads, and no answer at all.

#[path = "../../tests/storage/pair.rs"]
mod pair;

use super::{FileBackend, UringStorage};
use core::time::Duration;
use pair::{Pair, next};
use std::fs::File;
use std::io::Write;
use virtio_kit::device::DeviceError;
use virtio_kit_devices::blk::{Operation, Request, Storage, StorageError};

/// A storage that reads from a pipe, and the pipe's other end.
fn pipe(limit: Duration) -> (UringStorage, FileBackend, File) {
    let (from, to) = rustix::pipe::pipe().unwrap();
    let backend = FileBackend::of_file(from.into(), 1 << 20, limit);
    (backend.queue().unwrap(), backend, to.into())
}

fn read(pair: &mut Pair) -> Request {
    Request {
        chain: pair.read_chain(&[100, 1, 900], 7),
        operation: Operation::Read { offset: 0 },
        data_len: 1001,
    }
}

#[test]
fn a_short_read_goes_on_where_it_stopped() {
    let (mut storage, backend, mut to) = pipe(Duration::from_secs(30));
    let mut pair = Pair::new();
    let content: Vec<u8> = (0..1001).map(|i| i as u8).collect();
    let request = read(&mut pair);
    assert!(storage.submit(request).is_none());
    storage.commit().unwrap();
    // Into the middle of a segment, to the end of one, and by single bytes.
    for piece in [0..50, 50..101, 101..102, 102..103, 103..1001] {
        assert!(storage.poll().is_none());
        to.write_all(&content[piece]).unwrap();
        storage.wait().unwrap();
    }
    let finished = next(&mut storage);
    assert_eq!(finished.result, Ok(()));
    assert_eq!(pair.data(finished.chain, 1001), content);
    assert_eq!(backend.counters().submitted(), 5);
}

#[test]
fn the_end_before_all_is_read_is_an_io_error() {
    let (mut storage, _, mut to) = pipe(Duration::from_secs(30));
    let mut pair = Pair::new();
    let request = read(&mut pair);
    assert!(storage.submit(request).is_none());
    storage.commit().unwrap();
    to.write_all(&[1; 200]).unwrap();
    drop(to);
    let finished = next(&mut storage);
    assert_eq!(finished.result, Err(StorageError::Io(5)));
    assert_eq!(pair.complete(finished.chain).written, 200);
}

#[test]
fn after_a_failed_flush_nothing_is_called_durable_on_any_queue() {
    // A pipe cannot be flushed.
    let (mut storage, backend, _to) = pipe(Duration::from_secs(30));
    let mut pair = Pair::new();
    let flush = |pair: &mut Pair| Request {
        chain: pair.chain(vec![], vec![]),
        operation: Operation::Flush,
        data_len: 0,
    };
    assert!(storage.submit(flush(&mut pair)).is_none());
    storage.commit().unwrap();
    let finished = next(&mut storage);
    assert_eq!(finished.result, Err(StorageError::Io(22)));
    pair.complete(finished.chain);
    let mut other = backend.queue().unwrap();
    let finished = other.submit(flush(&mut pair)).unwrap();
    assert_eq!(finished.result, Err(StorageError::Io(5)));
    pair.complete(finished.chain);
    let chain = pair.write_chain(&[0; 512], &[512], 0);
    let operation = Operation::Write { offset: 0, durable: true };
    let finished = other.submit(Request { chain, operation, data_len: 512 }).unwrap();
    assert_eq!(finished.result, Err(StorageError::Io(5)));
    pair.complete(finished.chain);
}

#[test]
fn a_kernel_that_does_not_answer_is_waited_for_so_long_and_its_memory_is_never_freed() {
    let (mut storage, backend, mut to) = pipe(Duration::from_millis(20));
    let mut pair = Pair::new();
    let request = read(&mut pair);
    let first = request.chain.writable()[0].as_ptr();
    assert!(storage.submit(request).is_none());
    storage.commit().unwrap();
    assert_eq!(storage.wait(), Err(DeviceError::Backend("the kernel finished nothing in time")));
    assert_eq!(storage.pending(), 1);
    drop(storage);
    // The queue knows that the chain is out, and keeps its memory when it is dropped in turn.
    assert_eq!(pair.device.in_flight(), 1);
    drop(pair);
    assert_eq!(backend.counters().completed(), 0);
    // The leaked ring still reads, into memory that is still there.
    to.write_all(&[6; 1001]).unwrap();
    // SAFETY: leaked, so mapped for as long as this program runs.
    assert_eq!(unsafe { first.as_ptr().read_volatile() }, 6);
}
