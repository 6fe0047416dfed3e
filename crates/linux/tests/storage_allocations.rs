//! Requests to a file allocate nothing: its own program, since the allocator counts.

#[path = "storage/pair.rs"]
mod pair;

use pair::{Pair, TempFile};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use virtio_kit_devices::blk::{Finished, Operation, Request, Storage};
use virtio_kit_linux::storage::{FileBackend, Options};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a counter that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as this function's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as this function's contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_request_allocates_after_the_first_ones() {
    for direct in [false, true] {
        let file =
            TempFile::new(env!("CARGO_TARGET_TMPDIR"), &format!("allocations-{direct}"), &[1; 1 << 20]);
        let Ok(backend) = FileBackend::open(&file.0, Options { direct, depth: 8, ..Options::default() })
        else {
            assert!(direct);
            continue;
        };
        let mut storage = backend.queue().unwrap();
        let mut pair = Pair::new();
        for round in 0..50 {
            let mut requests = Vec::with_capacity(8);
            let mut finished: Vec<Finished> = Vec::with_capacity(8);
            for index in 0..8u64 {
                let at = index << 16;
                let (chain, operation, data_len) = match index % 4 {
                    0 | 1 => (pair.read_chain(&[1024, 3072], 1), Operation::Read { offset: at }, 4096),
                    2 => {
                        let operation = Operation::Write { offset: at, durable: round % 9 == 0 };
                        (pair.write_chain(&[4; 4096], &[4096], 1), operation, 4096)
                    }
                    _ if round % 2 == 0 => (pair.chain(vec![], vec![]), Operation::Flush, 0),
                    _ => {
                        let operation =
                            Operation::WriteZeroes { offset: at, len: 512, unmap: true, durable: true };
                        (pair.chain(vec![], vec![]), operation, 0)
                    }
                };
                requests.push(Request { chain, operation, data_len });
            }
            let before = ALLOCATIONS.get();
            for request in requests.drain(..) {
                assert!(storage.submit(request).is_none());
            }
            storage.commit().unwrap();
            while finished.len() < 8 {
                match storage.poll() {
                    Some(done) => finished.push(done),
                    None => storage.wait().unwrap(),
                }
            }
            // Every slot has had a transfer that is not aligned by then.
            if round >= 25 {
                assert_eq!(ALLOCATIONS.get() - before, 0, "round {round}");
            }
            for done in finished {
                assert_eq!(done.result, Ok(()));
                pair.complete(done.chain);
            }
        }
    }
}
