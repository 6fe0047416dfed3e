//! `vkit blk bench`: how fast a device is.

use super::pump::{Buffers, Pump, Queue, Waiting};
use super::session::{Session, Want};
use crate::cli::BenchArgs;
use crate::failure::{Failure, Result};
use crate::histogram::Histogram;
use crate::output;
use crate::units::{rate, size, thousands};
use indicatif::ProgressBar;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use virtio_kit::Features;
use virtio_kit_drivers::blk::Kind;

/// What came of it.
#[derive(Serialize)]
struct Report {
    target: String,
    rw: String,
    block_size: u64,
    depth: u16,
    queues: usize,
    seconds: f64,
    iops: f64,
    bytes_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    requests: u64,
    /// Most requests of one queue at once: fewer than `depth` if its ring has no room for more.
    in_flight: usize,
    /// Times that the queue was published.
    kicks: u64,
    /// Of these, times that the device asked to be told.
    notifications: u64,
    /// Waits that the device ended.
    wakeups: u64,
    /// Of this process: with the device in it, the device's too.
    cpu_us_per_request: f64,
    errors: u64,
}

/// What all queues are to do.
struct Task<'a> {
    args: &'a BenchArgs,
    want: Want,
    waiting: Waiting,
    inline: bool,
    features: Features,
    /// Blocks of each queue's share.
    blocks: u64,
    until: Instant,
    stop: AtomicBool,
    requests: AtomicU64,
}

struct Measured {
    latency: Histogram,
    requests: u64,
    in_flight: usize,
    kicks: u64,
    notifications: u64,
    wakeups: u64,
    errors: u64,
}

pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let target = &args.target;
    let segment = (args.block_size as usize).min(64 << 10);
    let segments = (args.block_size as usize).div_ceil(segment) as u16;
    let want = Want { queues: args.queues, depth: args.depth, segments, segment };
    let mut session = Session::open(target, &want)?;
    if session.host.one_at_a_time && args.depth > 1 {
        return Err(Failure::new(format_args!(
            "{target}: QEMU loses requests of an in-order queue when several are in flight: use --depth 1"
        )));
    }
    if args.rw.writes() {
        session.writable(target)?;
    }
    let has = session.queues.len();
    if has < args.queues.into() {
        let (queues, plural) = (args.queues, if has == 1 { "" } else { "s" });
        return Err(Failure::new(format_args!("{target}: the device has {has} queue{plural}, not {queues}")));
    }
    let blocks = session.info.bytes() / args.block_size / has as u64;
    if blocks == 0 {
        return Err(Failure::new(format_args!(
            "{target}: the device is too small for a block on each queue"
        )));
    }
    let waiting = match args.poll {
        true => Waiting::Poll,
        false => Waiting::Sleep(Duration::from_micros(args.poll_us.into())),
    };
    let task = Task {
        args,
        want,
        waiting,
        inline: session.host.inline,
        features: session.features,
        blocks,
        until: Instant::now() + args.seconds,
        stop: AtomicBool::new(false),
        requests: AtomicU64::new(0),
    };
    let bar = output::time_progress(args.seconds.as_millis() as u64);
    let (began, cpu) = (Instant::now(), output::cpu_time());
    let measured = all_queues(&mut session.queues, &task, &bar).map_err(|failure| failure.before(target))?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), output::cpu_time() - cpu);
    bar.finish_and_clear();
    show(args, &report(args, has, &measured, seconds, cpu))
}

/// Runs a thread for each queue, and the progress here.
fn all_queues(queues: &mut [Queue], task: &Task<'_>, bar: &ProgressBar) -> Result<Measured> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, queue) in queues.iter_mut().enumerate() {
            threads.push(scope.spawn(move || {
                let done = one_queue(queue, index as u64, task);
                if done.is_err() {
                    task.stop.store(true, Relaxed);
                }
                done
            }));
        }
        while !threads.iter().all(|thread| thread.is_finished()) {
            let left = task.until.saturating_duration_since(Instant::now());
            bar.set_position((task.args.seconds - left.min(task.args.seconds)).as_millis() as u64);
            bar.set_message(format!("{} requests", thousands(task.requests.load(Relaxed))));
            std::thread::park_timeout(left.clamp(Duration::from_millis(1), Duration::from_millis(100)));
        }
        let mut all: Option<Measured> = None;
        for thread in threads {
            let one = thread.join().map_err(|_| Failure::new("a queue's thread panicked"))??;
            match &mut all {
                None => all = Some(one),
                Some(all) => all.add(&one),
            }
        }
        all.ok_or_else(|| Failure::new("the device has no queue"))
    })
}

fn one_queue(queue: &mut Queue, index: u64, task: &Task<'_>) -> Result<Measured> {
    let before = queue.stats();
    let mut pump = Pump::new(queue, &task.want, task.features)?.wait_by(task.waiting, task.inline);
    let len = task.args.block_size;
    if (pump.max_request() as u64) < len {
        return Err(Failure::new(format_args!("the device takes no requests of {len} bytes")));
    }
    let (kind, random) =
        (if task.args.rw.writes() { Kind::Write } else { Kind::Read }, task.args.rw.random());
    let content: Vec<u8> = (0..len).map(|i| (i * 7 + index) as u8).collect();
    let prepare = |buffers: &mut Buffers| {
        buffers.shape(len as usize, 1);
        buffers.fill(&content);
    };
    let mut all = Vec::new();
    while let Some(mut buffers) = pump.buffers() {
        prepare(&mut buffers);
        all.push(buffers);
    }
    all.into_iter().for_each(|buffers| pump.give_back(buffers));
    let mut place = Places { next: 0, random, blocks: task.blocks, state: 0x9e37_79b9 ^ index };
    let (mut latency, mut requests, mut errors, mut told) = (Histogram::new(), 0, 0, 0);
    let (mut more, mut in_flight) = (true, 0);
    loop {
        while more && let Some(buffers) = pump.buffers() {
            let at = (index * task.blocks + place.next()) * len;
            pump.transfer(kind, at, len, 0, buffers)?;
        }
        if pump.in_flight() == 0 {
            break;
        }
        in_flight = in_flight.max(pump.queue().in_flight());
        let mut now = None;
        pump.turn(|pump, done| {
            let now = *now.get_or_insert_with(Instant::now);
            latency.add(now.saturating_duration_since(done.started));
            requests += 1;
            errors += u64::from(done.result.is_err());
            pump.give_back(done.buffers);
            Ok(())
        })?;
        more = now.is_none_or(|now| now < task.until) && !task.stop.load(Relaxed);
        task.requests.fetch_add(requests - told, Relaxed);
        told = requests;
    }
    let after = pump.queue().stats();
    Ok(Measured {
        latency,
        requests,
        in_flight,
        kicks: after.kicks - before.kicks,
        notifications: after.notifications - before.notifications,
        wakeups: after.wakeups - before.wakeups,
        errors,
    })
}

/// Which block comes next.
struct Places {
    next: u64,
    random: bool,
    blocks: u64,
    state: u64,
}

impl Places {
    fn next(&mut self) -> u64 {
        if self.random {
            let random = crate::demo::content::random(&mut self.state);
            return ((u128::from(random) * u128::from(self.blocks)) >> 64) as u64;
        }
        let block = self.next;
        self.next = if block + 1 == self.blocks { 0 } else { block + 1 };
        block
    }
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.requests += other.requests;
        self.in_flight = self.in_flight.max(other.in_flight);
        self.kicks += other.kicks;
        self.notifications += other.notifications;
        self.wakeups += other.wakeups;
        self.errors += other.errors;
    }
}

fn report(args: &BenchArgs, queues: usize, measured: &Measured, seconds: f64, cpu: Duration) -> Report {
    let requests = measured.requests as f64;
    let short = |value: f64| (value * 1000.0).round() / 1000.0;
    Report {
        target: args.target.to_string(),
        rw: format!("{:?}", args.rw).to_lowercase(),
        block_size: args.block_size,
        depth: args.depth,
        queues,
        seconds: short(seconds),
        iops: (requests / seconds).round(),
        bytes_per_second: (requests * args.block_size as f64 / seconds).round(),
        p50_us: measured.latency.percentile(0.5),
        p99_us: measured.latency.percentile(0.99),
        p999_us: measured.latency.percentile(0.999),
        requests: measured.requests,
        in_flight: measured.in_flight,
        kicks: measured.kicks,
        notifications: measured.notifications,
        wakeups: measured.wakeups,
        cpu_us_per_request: short(cpu.as_secs_f64() * 1e6 / requests.max(1.0)),
        errors: measured.errors,
    }
}

fn show(args: &BenchArgs, report: &Report) -> Result<()> {
    if args.json {
        output::json(report)?;
    } else {
        let Report { rw, in_flight, queues, seconds, .. } = report;
        let how = match (args.poll, args.poll_us) {
            (true, _) => "polling".into(),
            (false, 0) => "sleeping".into(),
            (false, us) => format!("polling {us} us, then sleeping"),
        };
        let block = size(args.block_size);
        output::line(&format!("{rw} of {block}, {queues} x {in_flight} in flight, {how}, {seconds:.1} s"))?;
        let bytes = report.bytes_per_second as u64;
        let rows = [
            ("requests per second", thousands(report.iops as u64)),
            ("throughput", rate(bytes, Duration::from_secs(1))),
            ("latency p50", format!("{} us", report.p50_us)),
            ("latency p99", format!("{} us", report.p99_us)),
            ("latency p99.9", format!("{} us", report.p999_us)),
            ("requests", thousands(report.requests)),
            (
                "kicks",
                format!("{}, of which {} notified", thousands(report.kicks), thousands(report.notifications)),
            ),
            ("wakeups", thousands(report.wakeups)),
            ("CPU per request", format!("{} us", report.cpu_us_per_request)),
            ("errors", thousands(report.errors)),
        ];
        for (name, value) in rows {
            output::line(&format!("  {name:<20} {value}"))?;
        }
    }
    match report.errors {
        0 => Ok(()),
        errors => Err(Failure::new(format_args!("{}: {} requests failed", args.target, thousands(errors)))),
    }
}
