//! Block devices: all of the disk is read, half of it written by interrupts and half polled, and all is read again.

use super::pattern::{self, SECTOR};
use super::{Alarm, Failure, LIMIT, Wait, hex, layout};
use crate::println;
use crate::x86::{interrupts, smp, time};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::task::Poll;
use sha2::{Digest, Sha256};
use virtio_kit::{DmaBuf, F};
use virtio_kit_drivers::blk::{Blk, BlkQueue, Kind, SubmitErrorKind};

type Data = Vec<DmaBuf>;
pub type Disk = Blk<Data, u64>;
type Queue = BlkQueue<Data, u64>;

/// A request: two buffers, so four descriptors with its header and its status.
const BUFFER: usize = 4096;
const REQUEST: usize = 2 * BUFFER;
const SECTORS: u64 = (REQUEST / SECTOR) as u64;

/// Requests in flight: eight of four descriptors divide the ring. QEMU up to 10.0.2 loses completions of an in-order
/// queue when those in flight are on two laps of it, so there they go in eight by eight.
const MANY: usize = 32;
const FEW: usize = 8;
/// Whoever waits for one has nothing else to do meanwhile, and sleeps.
const ONE: usize = 1;

/// A queue's part of the disk.
struct Share {
    queue: Queue,
    sectors: Range<u64>,
    in_order: bool,
    free: Vec<Data>,
    requests: u64,
}

/// What was read of a share, in order.
type Content = Vec<u8>;

pub fn work(disk: Disk, seed: u64) -> Result<(), Failure> {
    let features = disk.features;
    let in_order = features.contains(F::IN_ORDER);
    let layout = layout(features);
    let sectors = disk.info.sectors / SECTORS * SECTORS;
    let count = disk.queues.len() as u64;
    let (control, can_flush, info) = (disk.control.clone(), disk.info.flush, disk.info.clone());
    let part = (sectors / SECTORS).div_ceil(count) * SECTORS;
    let mut shares = Vec::new();
    for (queue, number) in disk.queues.into_iter().zip(0..) {
        let sectors = (part * number).min(sectors)..(part * (number + 1)).min(sectors);
        shares.push(Share { queue, sectors, in_order, free: Vec::new(), requests: 0 });
    }
    // All of it, as it was.
    let (before, began) = (interrupts::count(), time::now());
    let read = for_all(&mut shares, |share| share.read(share.sectors.clone(), Wait::Interrupt, FEW))?;
    let mut time = time::now() - began;
    let hash = hash(&read);
    let began = time::now();
    // Half of each share with the CPUs asleep, and half without a single interrupt.
    for_all(&mut shares, move |share| share.write(share.half(0), seed, Wait::Interrupt, ONE))?;
    let mut by_interrupt = interrupts::count() - before;
    let before = interrupts::count();
    for_all(&mut shares, move |share| share.write(share.half(1), seed, Wait::Poll, MANY))?;
    let written = for_all(&mut shares, |share| share.read(share.sectors.clone(), Wait::Poll, MANY))?;
    let polled = interrupts::count() - before;
    time += time::now() - began;
    for (share, written) in shares.iter().zip(&written) {
        let mut expected = vec![0; written.len()];
        pattern::fill(seed, share.sectors.start, &mut expected);
        if expected != *written {
            return Err(Failure::from("what was read is not what was written"));
        }
    }
    let first = shares.first_mut().ok_or("a disk without a queue")?;
    let before = interrupts::count();
    let id = first.id()?;
    by_interrupt += interrupts::count() - before;
    if can_flush {
        first.flush()?;
    }
    let zeroed = first.zero(info.write_zeroes.is_some())?;
    // On a busy host a device may have answered each time before anybody slept.
    for _ in 0..1000 {
        if by_interrupt > 0 {
            break;
        }
        let before = interrupts::count();
        first.id()?;
        by_interrupt += interrupts::count() - before;
    }
    let requests: u64 = shares.iter().map(|share| share.requests).sum();
    println!(
        "blk {id}: {layout} features={:#x} queues={count} cpus={} sectors={} requests={requests} \
         interrupts={by_interrupt} polled={polled} us={} zeroed={zeroed} read={hash}",
        features.bits(),
        smp::count().min(count as usize).max(1),
        control.sectors(),
        time.as_micros(),
    );
    Ok(())
}

/// Does the same with every share, each on a CPU of its own as far as there are any; the results, in order.
fn for_all<R: Send + 'static>(
    shares: &mut Vec<Share>,
    work: impl Fn(&mut Share) -> Result<R, Failure> + Copy + Send + 'static,
) -> Result<Vec<R>, Failure> {
    let cpus = smp::count();
    let mut results = Vec::new();
    let mut todo: Vec<(usize, Share)> = core::mem::take(shares).into_iter().enumerate().collect();
    while !todo.is_empty() {
        // The first CPU last, since it does its work at once. A single queue goes to the last CPU.
        let now: Vec<_> = todo.drain(..todo.len().min(cpus)).collect();
        let alone = now.len() == 1;
        let mut tasks = Vec::new();
        for (number, mut share) in now.into_iter().rev() {
            let cpu = if alone { cpus - 1 } else { number % cpus };
            let task = smp::run_on(cpu, move || {
                let result = work(&mut share);
                (share, result)
            });
            tasks.push(task);
        }
        for task in tasks.into_iter().rev() {
            let (share, result) = task.join(LIMIT * 2).ok_or("a CPU does not come back")?;
            shares.push(share);
            results.push(result?);
        }
    }
    Ok(results)
}

fn hash(parts: &[Content]) -> String {
    let mut sum = Sha256::new();
    parts.iter().for_each(|part| sum.update(part));
    hex(&sum.finalize())
}

impl Share {
    fn half(&self, which: u64) -> Range<u64> {
        let Range { start, end } = self.sectors;
        let middle = start + (end - start) / 2 / SECTORS * SECTORS;
        if which == 0 { start..middle } else { middle..end }
    }

    fn buffers(&mut self) -> Result<Data, Failure> {
        match self.free.pop() {
            Some(data) => Ok(data),
            None => Ok(vec![self.queue.arena().alloc(BUFFER)?, self.queue.arena().alloc(BUFFER)?]),
        }
    }

    fn read(&mut self, sectors: Range<u64>, wait: Wait, depth: usize) -> Result<Content, Failure> {
        let start = sectors.start;
        let mut content = vec![0; (sectors.end - start) as usize * SECTOR];
        self.transfer(
            Kind::Read,
            sectors,
            (wait, depth),
            |_, _| {},
            |sector, data| {
                let at = (sector - start) as usize * SECTOR;
                for (buffer, part) in data.iter().zip(content[at..at + REQUEST].chunks_mut(BUFFER)) {
                    buffer.read(0, part)?;
                }
                Ok(())
            },
        )?;
        Ok(content)
    }

    fn write(&mut self, sectors: Range<u64>, seed: u64, wait: Wait, depth: usize) -> Result<(), Failure> {
        let mut bytes = vec![0; REQUEST];
        let fill = move |sector, data: &mut Data| {
            pattern::fill(seed, sector, &mut bytes);
            for (buffer, part) in data.iter_mut().zip(bytes.chunks(BUFFER)) {
                // They are as long as that.
                let _ = buffer.write(0, part);
            }
        };
        self.transfer(Kind::Write, sectors, (wait, depth), fill, |_, _| Ok(()))
    }

    /// Moves sectors by as many requests as it takes, many in flight.
    fn transfer(
        &mut self,
        kind: Kind,
        sectors: Range<u64>,
        (wait, depth): (Wait, usize),
        mut fill: impl FnMut(u64, &mut Data),
        mut take: impl FnMut(u64, &Data) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let depth = if self.in_order { depth.min(FEW) } else { depth };
        let mut todo = sectors.step_by(SECTORS as usize).peekable();
        while todo.peek().is_some() || self.queue.in_flight() > 0 {
            while self.queue.in_flight() < depth
                && let Some(&sector) = todo.peek()
            {
                let mut data = self.buffers()?;
                fill(sector, &mut data);
                let submitted = match kind {
                    Kind::Write => self.queue.write(sector, data, sector),
                    _ => self.queue.read(sector, data, sector),
                };
                match submitted {
                    Ok(()) => {
                        todo.next();
                        self.requests += 1;
                    }
                    Err(error) if error.kind == SubmitErrorKind::Full => {
                        self.free.extend(error.data);
                        break;
                    }
                    Err(error) => return Err(Failure::from(error.kind)),
                }
            }
            self.queue.kick()?;
            let left = if self.in_order { 0 } else { self.queue.in_flight() / 2 };
            self.complete(left, wait, &mut take)?;
        }
        Ok(())
    }

    /// Takes completions until only `left` are in flight.
    fn complete(
        &mut self,
        left: usize,
        wait: Wait,
        mut take: impl FnMut(u64, &Data) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let deadline = time::now() + LIMIT;
        while self.queue.in_flight() > left {
            match self.queue.complete()? {
                Some(done) => {
                    done.result?;
                    if let Some(data) = done.data {
                        take(done.token, &data)?;
                        self.free.push(data);
                    }
                }
                None if time::now() >= deadline => return Err(Failure::from("a request never completes")),
                None if wait == Wait::Interrupt => {
                    // It may end early, for what was known already.
                    self.queue.wait(LIMIT)?;
                    if time::now() >= deadline {
                        return Err(Failure::from("an interrupt never came"));
                    }
                }
                None => core::hint::spin_loop(),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.queue.flush(0).map_err(|error| Failure::from(error.kind))?;
        self.queue.kick()?;
        self.complete(0, Wait::Interrupt, |_, _| Ok(()))
    }

    /// The name that the device was given. By an interrupt, however fast the device is: nothing is in flight when the
    /// queue is asked, so that it is ready to be woken before the device sees the request.
    fn id(&mut self) -> Result<String, Failure> {
        let alarm = Arc::new(Alarm::default());
        let mut asked = false;
        let done = alarm.sleep(|cx| {
            let done = self.queue.poll_complete(cx);
            if !asked && done.is_pending() {
                asked = true;
                if let Err(error) = self.queue.get_id(0) {
                    return Poll::Ready(Err(Failure::from(error.kind)));
                }
                if let Err(error) = self.queue.kick() {
                    return Poll::Ready(Err(Failure::from(error)));
                }
            }
            done.map_err(Failure::from)
        })??;
        done.result?;
        let id = done.id.ok_or("no identification")?;
        Ok(String::from_utf8_lossy(&id).trim_end_matches('\0').into())
    }

    /// Makes the first request's sectors zeros, if the device can; how many.
    fn zero(&mut self, can: bool) -> Result<u64, Failure> {
        if !can {
            return Ok(0);
        }
        let zeroed = self.queue.write_zeroes(self.sectors.start, SECTORS as u32, false, 0);
        zeroed.map_err(|error| Failure::from(error.kind))?;
        self.queue.kick()?;
        self.complete(0, Wait::Interrupt, |_, _| Ok(()))?;
        Ok(SECTORS)
    }
}
