//! Two threads on two cores, polling: a ring's round trip, rtrb's, and that of a cache line alone.

use crate::case::{Shaped, ends};
use crate::row::Row;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Keeps one side's state off the other's cache lines.
#[repr(align(128))]
pub struct Apart<T>(pub T);

/// The cores to pin to; with fewer than two there is nothing to measure.
pub fn cores() -> Option<[usize; 2]> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let mut all = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    Some([all.next()?, all.next()?])
}

/// Keeps the calling thread on one core. Without success it runs where it likes.
pub fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Runs both on a core each, started together; nanoseconds until `a` has ended.
///
/// # Panics
///
/// If one of them does.
pub fn pair(cores: [usize; 2], a: impl FnOnce() + Send, b: impl FnOnce() + Send) -> f64 {
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        let timed = scope.spawn(|| {
            pin(cores[0]);
            gate.wait();
            let start = Instant::now();
            a();
            start.elapsed().as_nanos() as f64
        });
        scope.spawn(|| {
            pin(cores[1]);
            gate.wait();
            b();
        });
        timed.join().expect("no side panics")
    })
}

/// Nanoseconds for a cache line to go there and another to come back.
pub fn line(cores: [usize; 2], turns: u64) -> f64 {
    let (there, back) = (Apart(AtomicU64::new(0)), Apart(AtomicU64::new(0)));
    let until = |word: &AtomicU64, value| {
        while word.load(Ordering::Acquire) != value {
            spin_loop();
        }
    };
    let ns = pair(
        cores,
        || {
            (1..=turns).for_each(|i| {
                there.0.store(i, Ordering::Release);
                until(&back.0, i);
            });
        },
        || {
            (1..=turns).for_each(|i| {
                until(&there.0, i);
                back.0.store(i, Ordering::Release);
            });
        },
    );
    ns / turns as f64
}

/// Nanoseconds of a request over one rtrb ring and its reply over another, `depth` at a time, in chunks of up to
/// `chunk`.
pub fn echo(cores: [usize; 2], depth: usize, chunk: usize, ops: usize) -> f64 {
    let (request, requests) = rtrb::RingBuffer::<[u64; 2]>::new(depth.next_power_of_two());
    let (reply, replies) = rtrb::RingBuffer::<[u64; 2]>::new(depth.next_power_of_two());
    let (mut ours, mut theirs) = (Apart((request, replies)), Apart((requests, reply)));
    let ns = pair(
        cores,
        || {
            let (request, replies) = &mut ours.0;
            let (mut sent, mut got) = (0, 0);
            while got < ops {
                let room = chunk.min(ops - sent).min(depth - (sent - got));
                if chunk == 1 && room > 0 {
                    sent += usize::from(request.push([sent as u64; 2]).is_ok());
                } else if room > 0
                    // The far side may hand an item back before it has freed the item's place.
                    && let Ok(space) = request.write_chunk_uninit(room)
                {
                    sent += space.fill_from_iter((sent as u64..).map(|i| [i; 2]));
                }
                if chunk == 1 {
                    while let Ok([i, _]) = replies.pop() {
                        assert_eq!(i, got as u64);
                        got += 1;
                    }
                } else if let Ok(items) = replies.read_chunk(replies.slots().min(chunk)) {
                    for [i, _] in items {
                        assert_eq!(i, got as u64);
                        got += 1;
                    }
                }
            }
        },
        || {
            let (requests, reply) = &mut theirs.0;
            let mut done = 0;
            while done < ops {
                if chunk == 1 {
                    while let Ok(item) = requests.pop() {
                        reply.push(item).expect("as many replies fit as requests");
                        done += 1;
                    }
                    continue;
                }
                let ready = requests.slots().min(chunk);
                if ready > 0
                    && let Ok(items) = requests.read_chunk(ready)
                {
                    let space = reply.write_chunk_uninit(ready).expect("as many replies fit as requests");
                    done += space.fill_from_iter(items);
                }
            }
        },
    );
    ns / ops as f64
}

/// Nanoseconds of a row's operation, `depth` at a time and up to `batch` with one publish, driver and device on a core
/// each.
pub fn ring<C: Shaped>(cores: [usize; 2], row: &Row, depth: usize, batch: usize, ops: usize) -> f64 {
    let (driver, device) = ends::<C>(row);
    let (mut driver, mut device) = (Apart(driver), Apart(device));
    let (ours, theirs) = (&mut driver.0, &mut device.0);
    let ns = pair(
        cores,
        || {
            let (mut sent, mut got) = (0, 0);
            while got < ops {
                let more = batch.min(ops - sent).min(depth - (sent - got));
                if more > 0 {
                    ours.submit::<true>(more);
                    sent += more;
                }
                got += ours.reap::<true>();
            }
        },
        || {
            let mut done = 0;
            while done < ops {
                done += theirs.answer::<true, false>();
            }
        },
    );
    ns / ops as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Three;

    #[test]
    fn every_layout_ends_with_all_operations_done() {
        let Some(cores) = cores() else { return };
        assert!(line(cores, 100) > 0.0);
        assert!(echo(cores, 16, 1, 1000) > 0.0);
        assert!(echo(cores, 64, 32, 1000) > 0.0);
        for row in Row::matching("/3/batch") {
            assert!(ring::<Three>(cores, &row, 16, 16, 1000) > 0.0);
        }
    }
}
