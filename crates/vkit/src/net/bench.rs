//! `vkit net bench`: how fast a device is.

use super::frames::{Maker, SHORTEST_OFFLOADED};
use super::rounds::{Flow, Receiver, Sender, Window};
use super::session::{Other, SLICE, Session, Want};
use crate::cli::NetBenchArgs;
use crate::failure::{Failure, Result};
use crate::histogram::Histogram;
use crate::output;
use crate::units::{rate, thousands};
use indicatif::ProgressBar;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use virtio_kit::Features;
use virtio_kit::spec::net::F;
use virtio_kit_drivers::net::{Mac, Pair};

/// How long nothing may come before what is under way is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Serialize)]
struct Report {
    target: String,
    size: usize,
    depth: u16,
    pairs: usize,
    offloads: bool,
    one_way: bool,
    seconds: f64,
    sent_per_second: f64,
    received_per_second: f64,
    sent_bytes_per_second: f64,
    received_bytes_per_second: f64,
    /// Round trips.
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    sent: u64,
    received: u64,
    /// Packets that frames are cut into; without offloads as many as frames.
    packets: u64,
    lost: u64,
    corrupt: u64,
    out_of_order: u64,
    /// Times that a transmit queue was published.
    kicks: u64,
    /// Of these, times that the device asked to be told.
    notifications: u64,
    /// Waits that the device ended.
    wakeups: u64,
    /// Of this process: with the device in it, the device's too.
    cpu_us_per_frame: f64,
}

/// What all pairs are to do.
struct Task<'a> {
    args: &'a NetBenchArgs,
    from: (Mac, Ipv4Addr),
    to: (Mac, Ipv4Addr),
    /// Bytes of a packet without the Ethernet header.
    mtu: u16,
    size: usize,
    window: Window,
    flows: &'a [Flow],
    /// Frames that each pair is to send at most.
    share: u64,
    until: Instant,
    inline: bool,
    stop: AtomicBool,
    /// Pairs that have nothing more to wait for.
    done: AtomicU64,
    /// Pairs whose threads are at their end.
    ended: AtomicU64,
    frames: AtomicU64,
}

/// What one pair did, or all of them.
#[derive(Default)]
struct Measured {
    latency: Option<Histogram>,
    sent: u64,
    sent_bytes: u64,
    received: u64,
    received_bytes: u64,
    corrupt: u64,
    kicks: u64,
    notifications: u64,
    wakeups: u64,
}

pub(super) fn run(args: &NetBenchArgs) -> Result<()> {
    let target = &args.target;
    let failed = |what: &dyn std::fmt::Display| Failure::new(format_args!("{target}: {what}"));
    let wanted = args.size as usize;
    if args.offloads && wanted < SHORTEST_OFFLOADED {
        return Err(failed(&format_args!(
            "frames with offloads have {SHORTEST_OFFLOADED} bytes at least: use --size {SHORTEST_OFFLOADED}"
        )));
    }
    let depth = args.depth;
    let want = Want { pairs: args.pairs, offloads: args.offloads, depth, size: wanted };
    let mut session = Session::open(target, &want)?;
    if session.host.one_at_a_time && depth > 1 {
        return Err(failed(
            &"QEMU loses frames of an in-order queue when several are in flight: use --depth 1",
        ));
    }
    let has = session.pairs.len();
    if has < args.pairs.into() {
        let (pairs, plural) = (args.pairs, if has == 1 { "" } else { "s" });
        return Err(failed(&format_args!("the device has {has} pair{plural} of queues, not {pairs}")));
    }
    offloads_suffice(session.features, args.offloads, wanted, session.longest())
        .map_err(|why| failed(&why))?;
    let addresses = &args.addresses;
    let other = session.find(addresses.from, addresses.to, PATIENCE);
    let to = match other.map_err(|failure| failure.before(target))? {
        Other::At(mac) => mac,
        Other::Loop => session.mac,
        Other::LinkDown => return Err(failed(&"the link is down")),
        // Whoever hears it.
        Other::Nobody if args.one_way => [0xff; 6],
        Other::Nobody => {
            return Err(failed(&format_args!(
                "nobody answers for {}, so nothing would come back: say which address with --to, or use --one-way",
                addresses.to
            )));
        }
    };
    let mtu = session.mtu();
    let ends = ((session.mac, addresses.from), (to, addresses.to));
    let (frame_len, pieces) = Maker::new(0, ends.0, ends.1, mtu, args.offloads).shape(wanted);
    let window = u64::from(depth) * pieces;
    let flows: Vec<Flow> = (0..has).map(|_| Flow::new(window)).collect();
    let task = Task {
        args,
        from: ends.0,
        to: ends.1,
        mtu,
        size: frame_len,
        window: if args.one_way { Window::Frames(depth.into()) } else { Window::Pieces(window) },
        flows: &flows,
        share: args.count.map_or(u64::MAX, |count| count.div_ceil(has as u64).saturating_mul(pieces)),
        until: Instant::now() + if args.count.is_some() { Duration::from_secs(86_400) } else { args.seconds },
        inline: session.host.inline,
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        frames: AtomicU64::new(0),
    };
    let bar = match args.count {
        Some(count) => output::progress_of(count.next_multiple_of(has as u64), "frames"),
        None => output::time_progress(args.seconds.as_millis() as u64),
    };
    let (began, cpu) = (Instant::now(), output::cpu_time());
    let measured = all_pairs(&mut session.pairs, &task, &bar).map_err(|failure| failure.before(target))?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), output::cpu_time() - cpu);
    bar.finish_and_clear();
    show(args, &report(&task, &measured, seconds, cpu))
}

/// Whether the device takes frames of this length.
fn offloads_suffice(
    features: Features,
    wanted: bool,
    len: usize,
    longest: usize,
) -> std::result::Result<(), String> {
    if wanted && !features.contains(F::CSUM) {
        return Err("the device takes no checksums over: leave --offloads out".into());
    }
    if len <= longest {
        return Ok(());
    }
    match wanted {
        true if features.contains(F::HOST_TSO4) => Ok(()),
        true => Err(format!("the device cuts no frames: use --size {longest}, or less")),
        false => {
            Err(format!("the device takes frames of {longest} bytes at most: use --size, or --offloads"))
        }
    }
}

/// Runs a thread for each pair, and the progress here.
fn all_pairs(pairs: &mut [Pair], task: &Task<'_>, bar: &ProgressBar) -> Result<Measured> {
    let waiting = &std::thread::current();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, pair) in pairs.iter_mut().enumerate() {
            threads.push(scope.spawn(move || {
                let done = one_pair(pair, index as u16, task);
                if done.is_err() {
                    task.stop.store(true, Relaxed);
                }
                task.ended.fetch_add(1, Relaxed);
                waiting.unpark();
                done
            }));
        }
        while task.ended.load(Relaxed) < task.flows.len() as u64 {
            if threads.iter().all(|thread| thread.is_finished()) {
                break;
            }
            let left = task.until.saturating_duration_since(Instant::now());
            let frames = task.frames.load(Relaxed);
            match task.args.count {
                Some(_) => bar.set_position(frames),
                None => {
                    let gone = task.args.seconds - left.min(task.args.seconds);
                    bar.set_position(gone.as_millis() as u64);
                    bar.set_message(format!("{} frames", thousands(frames)));
                }
            }
            std::thread::park_timeout(left.clamp(Duration::from_millis(1), Duration::from_millis(100)));
        }
        let mut all = Measured::default();
        for thread in threads {
            all.add(thread.join().map_err(|_| Failure::new("a pair's thread panicked"))??);
        }
        Ok(all)
    })
}

fn one_pair(pair: &mut Pair, index: u16, task: &Task<'_>) -> Result<Measured> {
    let before = (pair.tx.stats(), pair.rx.stats());
    let flow = &task.flows[usize::from(index)];
    let maker = Maker::new(index, task.from, task.to, task.mtu, task.args.offloads);
    let mut sender = Sender::new(&mut pair.tx, maker, flow, task.size);
    let mut receiver = Receiver::new(&mut pair.rx, task.flows);
    let (mut moved, mut told, mut is_done) = (Instant::now(), 0, false);
    loop {
        let now = Instant::now();
        let ends = now >= task.until || task.stop.load(Relaxed);
        let limit = if ends { 0 } else { task.share };
        let mut went = sender.turn(task.window, limit, now, |_| task.size)?;
        went |= receiver.turn()?;
        task.frames.fetch_add(sender.frames - told, Relaxed);
        told = sender.frames;
        let all_sent = ends || flow.sent.load(Relaxed) >= task.share;
        let all_back = if task.args.one_way { sender.in_flight() == 0 } else { flow.under_way() == 0 };
        if all_sent && all_back && !std::mem::replace(&mut is_done, true) {
            task.done.fetch_add(1, Relaxed);
        }
        // What this pair receives may be what another one waits for.
        if task.done.load(Relaxed) == task.flows.len() as u64 || task.stop.load(Relaxed) {
            break;
        }
        if went {
            moved = now;
            continue;
        }
        if now.duration_since(moved) > PATIENCE && !(all_sent && all_back) {
            if task.args.one_way || flow.under_way() == 0 {
                return Err(Failure::new("the device is through with no frame for a second"));
            }
            if flow.got.load(Relaxed) == 0 {
                return Err(Failure::new(
                    "nothing comes back: what is at the other end sends no frames back, so use --one-way",
                ));
            }
            flow.give_up();
            moved = now;
        }
        if !task.args.poll {
            wait(&mut sender, &mut receiver, task)?;
        }
    }
    let (tx, rx, latency) = (sender.frames, receiver.frames, receiver.latency);
    let (sent_bytes, received_bytes, corrupt) = (sender.sent_bytes, receiver.bytes_got, receiver.corrupt);
    let after = (pair.tx.stats(), pair.rx.stats());
    Ok(Measured {
        latency: Some(latency),
        sent: tx,
        sent_bytes,
        received: rx,
        received_bytes,
        corrupt,
        kicks: after.0.kicks - before.0.kicks,
        notifications: after.0.notifications - before.0.notifications,
        wakeups: after.0.wakeups + after.1.wakeups - before.0.wakeups - before.1.wakeups,
    })
}

/// Until there is something to do. A device in this thread works meanwhile.
fn wait(sender: &mut Sender<'_>, receiver: &mut Receiver<'_>, task: &Task<'_>) -> Result<()> {
    // What another pair does is seen in time, and so is an end.
    let limit = if task.flows.len() > 1 || task.inline { Duration::from_millis(1) } else { SLICE };
    let limit = limit.min(task.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let _ = if task.args.one_way { sender.wait(limit)? } else { receiver.wait(limit)? };
    Ok(())
}

impl Measured {
    fn add(&mut self, other: Self) {
        match (&mut self.latency, other.latency) {
            (Some(all), Some(one)) => all.merge(&one),
            (all, one) => *all = one,
        }
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.corrupt += other.corrupt;
        self.kicks += other.kicks;
        self.notifications += other.notifications;
        self.wakeups += other.wakeups;
    }
}

fn report(task: &Task<'_>, measured: &Measured, seconds: f64, cpu: Duration) -> Report {
    let short = |value: f64| (value * 1000.0).round() / 1000.0;
    let per_second = |value: u64| (value as f64 / seconds).round();
    let sum = |of: &dyn Fn(&Flow) -> u64| task.flows.iter().map(of).sum();
    let percentile = |of| measured.latency.as_ref().map_or(0.0, |all| all.percentile(of));
    let args = task.args;
    Report {
        target: args.target.to_string(),
        size: task.size,
        depth: args.depth,
        pairs: task.flows.len(),
        offloads: args.offloads,
        one_way: args.one_way,
        seconds: short(seconds),
        sent_per_second: per_second(measured.sent),
        received_per_second: per_second(measured.received),
        sent_bytes_per_second: per_second(measured.sent_bytes),
        received_bytes_per_second: per_second(measured.received_bytes),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        sent: measured.sent,
        received: measured.received,
        packets: sum(&|flow| flow.sent.load(Relaxed)),
        lost: if args.one_way { 0 } else { sum(&Flow::lost) },
        corrupt: measured.corrupt,
        out_of_order: sum(&|flow| flow.out_of_order.load(Relaxed)),
        kicks: measured.kicks,
        notifications: measured.notifications,
        wakeups: measured.wakeups,
        cpu_us_per_frame: short(cpu.as_secs_f64() * 1e6 / measured.sent.max(1) as f64),
    }
}

fn show(args: &NetBenchArgs, report: &Report) -> Result<()> {
    if args.json {
        output::json(report)?;
    } else {
        lines(args, report)?;
    }
    let failed = |what: String| Err(Failure::new(format_args!("{}: {what}", args.target)));
    match (report.lost, report.corrupt) {
        (0, 0) => Ok(()),
        (lost, 0) => {
            failed(format!("{} of {} packets were lost", thousands(lost), thousands(report.packets)))
        }
        (_, corrupt) => failed(format!("{} frames came corrupt", thousands(corrupt))),
    }
}

fn lines(args: &NetBenchArgs, report: &Report) -> Result<()> {
    let Report { depth, pairs, seconds, .. } = report;
    let way = if args.one_way { "one way" } else { "there and back" };
    let offloads = if args.offloads { "offloads on" } else { "offloads off" };
    let how = if args.poll { "polling" } else { "sleeping" };
    let len = thousands(report.size as u64);
    output::line(&format!(
        "frames of {len} bytes {way}, {offloads}, {pairs} x {depth} under way, {how}, {seconds:.1} s"
    ))?;
    let each = |per_second: f64, bytes: f64| {
        format!("{} frames, {}", thousands(per_second as u64), rate(bytes as u64, Duration::from_secs(1)))
    };
    let mut rows = vec![("sent per second", each(report.sent_per_second, report.sent_bytes_per_second))];
    if !args.one_way {
        rows.extend([
            ("received per second", each(report.received_per_second, report.received_bytes_per_second)),
            ("round trip p50", format!("{} us", report.p50_us)),
            ("round trip p99", format!("{} us", report.p99_us)),
            ("round trip p99.9", format!("{} us", report.p999_us)),
        ]);
    }
    let notified = thousands(report.notifications);
    rows.push(("frames sent", thousands(report.sent)));
    if !args.one_way {
        let [received, lost, corrupt, late] =
            [report.received, report.lost, report.corrupt, report.out_of_order].map(thousands);
        rows.push(("frames received", format!("{received}, each with its number and checksum")));
        rows.push(("lost", format!("{lost}, corrupt {corrupt}, out of order {late}")));
    }
    rows.extend([
        ("kicks", format!("{}, of which {notified} notified", thousands(report.kicks))),
        ("wakeups", thousands(report.wakeups)),
        ("CPU per frame", format!("{} us", report.cpu_us_per_frame)),
    ]);
    for (name, value) in rows {
        output::line(&format!("  {name:<20} {value}"))?;
    }
    Ok(())
}
