//! What is done with a block device, and how it is verified at the other end by another path.

use super::super::content::{Content, Hash, hash, hash_all};
use super::plan::{Extent, cut};
use crate::blk::pump::{Pump, Queue, Ticket};
use crate::blk::session::Want;
use crate::failure::{Failure, Result};
use indicatif::ProgressBar;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use virtio_kit::{DmaBuf, Features};
use virtio_kit_drivers::blk::{Blk, Kind};

/// A block device as it is used here.
pub(super) type Device = Blk<Vec<DmaBuf>, Ticket>;

/// For each queue. Depth and buffers of a request are shown in the table.
pub(super) const WANT: Want = Want { queues: 4, depth: 32, segments: 4, segment: 64 << 10 };

/// What to do.
pub(super) struct Job<'a> {
    /// The device's backing file.
    pub(super) file: &'a Path,
    pub(super) size: u64,
    /// What the driver writes.
    pub(super) first: &'a Content,
    /// What is put there behind the device.
    pub(super) second: &'a Content,
    pub(super) seed: u64,
    /// How the queues may be used.
    pub(super) want: Want,
    pub(super) features: Features,
    pub(super) bar: &'a ProgressBar,
}

/// What it took.
pub(super) struct Spent {
    pub(super) bytes: u64,
    pub(super) requests: u64,
    pub(super) time: Duration,
}

/// Requests with what was read of each, by its place.
type Hashes = Vec<(u64, Hash)>;

pub(super) fn run(queues: &mut [Queue], job: &Job<'_>) -> Result<Spent> {
    let limits = queues.first().ok_or_else(|| Failure::new("the device has no queue"))?.info().limits;
    let segment = u64::from(limits.segment_size).min(WANT.segment as u64);
    let longest = segment * u64::from(limits.segments).min(WANT.segments.into());
    let plan = cut(job.size, longest, job.seed);
    thread::scope(|scope| {
        // What is to come out, by a thread of its own meanwhile.
        let stored = scope.spawn(|| hash_all(job.size, |at, to| job.first.fill(at, to)));
        let began = Instant::now();
        pass(queues, job, &plan, Kind::Write)?;
        let flushed =
            queues.first_mut().map(|queue| Pump::without_data(queue, &job.want, job.features).flush());
        flushed.unwrap_or(Ok(())).map_err(|failure| failure.before("flush"))?;
        let mut time = began.elapsed();
        let expected = join(stored)?.map_err(Failure::new)?;
        let found = look(job.file, job.size).map_err(|error| Failure::file(job.file, &error))?;
        if found != expected {
            return Err(Failure::new("the backing file does not contain what was written"));
        }
        change(job).map_err(|error| Failure::file(job.file, &error))?;
        let expected = scope.spawn(|| expected_hashes(job.second, &plan));
        let began = Instant::now();
        let mut hashes = pass(queues, job, &plan, Kind::Read)?;
        time += began.elapsed();
        hashes.sort_unstable();
        let expected = join(expected)?.map_err(Failure::new)?;
        if let Some((wrong, _)) = expected.iter().zip(&hashes).find(|(a, b)| a != b) {
            let at = wrong.0;
            return Err(Failure::new(format_args!(
                "what was read is not what is in the backing file, at {at}"
            )));
        }
        if hashes.len() != expected.len() {
            return Err(Failure::new("not all of the backing file was read"));
        }
        Ok(Spent { bytes: job.size * 2, requests: plan.len() as u64 * 2, time })
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| Failure::new("a thread panicked"))
}

/// Transfers every extent once, spread over all queues, each with a thread of its own.
fn pass(queues: &mut [Queue], job: &Job<'_>, plan: &[Extent], kind: Kind) -> Result<Hashes> {
    if let [queue] = queues {
        return one_queue(queue, job, plan, kind);
    }
    let share = plan.len().div_ceil(queues.len().max(1)).max(1);
    thread::scope(|scope| {
        let shares = queues.iter_mut().zip(plan.chunks(share));
        let threads: Vec<_> =
            shares.map(|(queue, share)| scope.spawn(move || one_queue(queue, job, share, kind))).collect();
        let mut all = Vec::with_capacity(plan.len());
        for thread in threads {
            all.extend(join(thread)??);
        }
        Ok(all)
    })
}

fn one_queue(queue: &mut Queue, job: &Job<'_>, plan: &[Extent], kind: Kind) -> Result<Hashes> {
    let mut pump = Pump::new(queue, &job.want, job.features)?;
    let mut scratch = vec![0; pump.max_request()];
    let mut hashes = Vec::with_capacity(if kind == Kind::Read { plan.len() } else { 0 });
    let mut todo = plan.iter();
    loop {
        while !todo.as_slice().is_empty()
            && let Some(mut buffers) = pump.buffers()
        {
            let Some(extent) = todo.next() else { break };
            buffers.shape(extent.len as usize, extent.pieces);
            if kind == Kind::Write {
                let piece = &mut scratch[..extent.len as usize];
                job.first.fill(extent.at, piece).map_err(Failure::new)?;
                buffers.fill(piece);
            }
            pump.transfer(kind, extent.at, extent.len, 0, buffers)?;
        }
        if pump.in_flight() == 0 {
            return Ok(hashes);
        }
        pump.turn(|pump, done| {
            let (at, len) = (done.at, done.len);
            let buffers = done.ok().map_err(|failure| failure.before(format_args!("{kind:?} at {at}")))?;
            if kind == Kind::Read {
                let piece = &mut scratch[..len as usize];
                buffers.copy_to(piece);
                hashes.push((at, hash(piece)));
            }
            pump.give_back(buffers);
            job.bar.inc(len);
            Ok(())
        })?;
    }
}

/// The hash of what is really in the file.
fn look(file: &Path, size: u64) -> io::Result<Hash> {
    let file = File::open(file)?;
    hash_all(size, |at, to| file.read_exact_at(to, at))
}

/// Changes all of the file, without the device.
fn change(job: &Job<'_>) -> io::Result<()> {
    let file = File::options().write(true).open(job.file)?;
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < job.size {
        let now = (piece.len() as u64).min(job.size - at) as usize;
        job.second.fill(at, &mut piece[..now])?;
        file.write_all_at(&piece[..now], at)?;
        at += now as u64;
    }
    Ok(())
}

/// The hash of each request's data, as they should be.
fn expected_hashes(content: &Content, plan: &[Extent]) -> io::Result<Hashes> {
    let longest = plan.iter().map(|extent| extent.len).max().unwrap_or(0);
    let mut piece = vec![0; longest as usize];
    let mut hashes = Vec::with_capacity(plan.len());
    for extent in plan {
        let piece = &mut piece[..extent.len as usize];
        content.fill(extent.at, piece)?;
        hashes.push((extent.at, hash(piece)));
    }
    hashes.sort_unstable();
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::content::random;
    use crate::target::blk::{Disk, Storage};
    use crate::target::{InProcess, Local, Ring, Target};
    use virtio_kit::DeviceId;

    const SIZE: u64 = 1 << 20;

    /// Works on a device over memory, and looks at a file that is not behind it.
    fn run_on_memory(before: &Content) -> Result<Spent> {
        let mut number = std::process::id().into();
        let file = std::env::temp_dir().join(format!("vkit-test-{:x}", random(&mut number)));
        let mut bytes = vec![0; SIZE as usize];
        before.fill(0, &mut bytes).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let local = Local::new(DeviceId::BLOCK, Disk::new(Storage::Memory(SIZE)));
        let target = Target::InProcess(InProcess { local, ring: Ring::default(), threads: false });
        let mut taken = super::super::take(&target).unwrap();
        let job = Job {
            file: &file,
            size: SIZE,
            first: &Content::Seed(1),
            second: &Content::Seed(2),
            seed: 0,
            want: WANT,
            features: taken.device.features,
            bar: &ProgressBar::hidden(),
        };
        let ran = run(&mut taken.device.queues, &job);
        std::fs::remove_file(&file).unwrap();
        ran
    }

    #[test]
    fn work_whose_writes_or_reads_do_not_meet_the_file_is_not_verified() {
        // One test, since both use the file of that name.
        let line = |ran: Result<Spent>| match ran {
            Err(Failure::Line(line)) => line,
            _ => "no failure".into(),
        };
        let written = line(run_on_memory(&Content::Seed(3)));
        assert_eq!(written, "the backing file does not contain what was written");
        // The file happens to contain what was written, but is not what is read.
        let read = line(run_on_memory(&Content::Seed(1)));
        assert!(read.starts_with("what was read is not what is in the backing file, at "), "{read}");
    }
}
