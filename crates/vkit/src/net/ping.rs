//! `vkit net ping`: whether somebody is at the other end, and how far it is there and back.

use super::frames::Maker;
use super::packet::{Packet, Request};
use super::rounds::{Flow, Receiver, Sender, Window};
use super::session::{Other, Session, Want, answer, receive, send};
use crate::cli::PingArgs;
use crate::failure::{Failure, Result};
use crate::histogram::Histogram;
use crate::output;
use crate::target::net::display;
use crate::units::thousands;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Bytes of headers before the data of a ping.
const HEADERS: usize = 42;

/// What came of it.
#[derive(Serialize)]
struct Report {
    target: String,
    /// `station`, which answers to ARP and ICMP, or `loop`.
    other: &'static str,
    from: String,
    from_mac: String,
    to: Option<String>,
    to_mac: Option<String>,
    /// Bytes of data.
    size: u16,
    sent: u64,
    received: u64,
    lost: u64,
    corrupt: u64,
    min_us: f64,
    median_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// Round trips.
struct Times {
    all: Histogram,
    min: Duration,
    max: Duration,
    received: u64,
    corrupt: u64,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.all.add(time);
        self.min = if self.received == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.received += 1;
    }
}

pub(super) fn run(args: &PingArgs) -> Result<()> {
    let target = &args.target;
    let size = usize::from(args.size) + HEADERS;
    let want = Want { pairs: 1, offloads: false, depth: 1, size };
    let mut session = Session::open(target, &want)?;
    if size > session.longest() {
        let most = session.longest().saturating_sub(HEADERS);
        return Err(Failure::new(format_args!(
            "{target}: the device takes no more than {most} bytes of data"
        )));
    }
    let addresses = &args.addresses;
    let other = session
        .find(addresses.from, addresses.to, args.timeout.max(Duration::from_secs(1)))
        .map_err(|failure| failure.before(target))?;
    let mut times =
        Times { all: Histogram::new(), min: Duration::ZERO, max: Duration::ZERO, received: 0, corrupt: 0 };
    let bar = output::progress_of(args.count, "pings");
    let pinged = match other {
        Other::At(mac) => station(&mut session, args, mac, &mut times, &bar),
        Other::Loop => around(&mut session, args, &mut times, &bar),
        Other::Nobody => {
            return Err(Failure::new(format_args!(
                "{target}: nobody answers for {}: is anything at the other end? Say which address with --to",
                addresses.to
            )));
        }
        Other::LinkDown => return Err(Failure::new(format_args!("{target}: the link is down"))),
    };
    bar.finish_and_clear();
    pinged.map_err(|failure| failure.before(target))?;
    show(args, &session, other, &times)
}

/// The data of a ping: its number, and what is looked at when it comes back.
fn data(number: u64, len: u16) -> Vec<u8> {
    let mut data: Vec<u8> = (0..u64::from(len)).map(|at| (at * 31 + number * 7) as u8).collect();
    data[..8].copy_from_slice(&number.to_le_bytes());
    data
}

fn station(
    session: &mut Session,
    args: &PingArgs,
    mac: [u8; 6],
    times: &mut Times,
    bar: &indicatif::ProgressBar,
) -> Result<()> {
    let own = (session.mac, args.addresses.from);
    let their = (mac, args.addresses.to);
    let ident = std::process::id() as u16;
    let pair = session.pair()?;
    for number in 0..args.count {
        let data = data(number, args.size);
        let began = Instant::now();
        send(pair, &Request::echo(own, their, ident, number as u16, &data))?;
        let mut time = None;
        while time.is_none()
            && let Some(bytes) = receive(pair, began + args.timeout)?
        {
            match Packet::parse(&bytes) {
                Some(Packet::EchoReply { id, number: reply, data: back, from, to })
                    if (id, reply, from, to) == (ident, number as u16, their.1, own.1) =>
                {
                    if back == data {
                        time = Some(began.elapsed())
                    } else {
                        times.corrupt += 1
                    }
                }
                other => answer(pair, own.0, own.1, other)?,
            }
        }
        time.into_iter().for_each(|time| times.add(time));
        bar.inc(1);
        if number + 1 < args.count {
            let next = began + args.interval;
            while let Some(bytes) = receive(pair, next)? {
                answer(pair, own.0, own.1, Packet::parse(&bytes))?;
            }
        }
    }
    Ok(())
}

/// Our own frames come back: test frames, one at a time.
fn around(
    session: &mut Session,
    args: &PingArgs,
    times: &mut Times,
    bar: &indicatif::ProgressBar,
) -> Result<()> {
    let size = usize::from(args.size) + HEADERS;
    let ends = [args.addresses.from, args.addresses.to].map(|address| (session.mac, address));
    let mtu = session.mtu();
    let flows = [Flow::new(1)];
    let pair = session.pair()?;
    let mut sender = Sender::new(&mut pair.tx, Maker::new(0, ends[0], ends[1], mtu, false), &flows[0], size);
    let mut receiver = Receiver::new(&mut pair.rx, &flows);
    for number in 0..args.count {
        let began = Instant::now();
        let deadline = began + args.timeout;
        let count = receiver.frames;
        let mut gone = false;
        while receiver.frames == count {
            let now = Instant::now();
            gone |= sender.turn(Window::Pieces(1), number + 1, now, |_| size)?;
            if receiver.turn()? {
                continue;
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            receiver.wait(left.min(super::session::SLICE))?;
        }
        if receiver.frames > count {
            times.add(began.elapsed());
        } else if !gone {
            return Err(Failure::new("the device takes no frame"));
        }
        flows[0].give_up();
        bar.inc(1);
        if number + 1 < args.count {
            std::thread::sleep((began + args.interval).saturating_duration_since(Instant::now()));
        }
    }
    times.corrupt = receiver.corrupt;
    Ok(())
}

fn show(args: &PingArgs, session: &Session, other: Other, times: &Times) -> Result<()> {
    let us = |time: Duration| (time.as_nanos() as f64 / 100.0).round() / 10.0;
    let within = |of: f64| times.all.percentile(of).clamp(us(times.min), us(times.max));
    let mac = match other {
        Other::At(mac) => Some(mac),
        _ => None,
    };
    let report = Report {
        target: args.target.to_string(),
        other: if mac.is_some() { "station" } else { "loop" },
        from: args.addresses.from.to_string(),
        from_mac: display(&session.mac),
        to: mac.map(|_| args.addresses.to.to_string()),
        to_mac: mac.as_ref().map(display),
        size: args.size,
        sent: args.count,
        received: times.received,
        lost: args.count - times.received,
        corrupt: times.corrupt,
        min_us: us(times.min),
        median_us: within(0.5),
        p99_us: within(0.99),
        max_us: us(times.max),
    };
    if args.json {
        output::json(&report)?;
    } else {
        let Report { from, from_mac, size, sent, received, lost, corrupt, .. } = &report;
        let there = match (&report.to, &report.to_mac) {
            (Some(to), Some(mac)) => format!("{to} ({mac}) by ICMP"),
            _ => "a loop, by test frames".into(),
        };
        output::line(&format!("from {from} ({from_mac}) to {there}, {size} bytes each"))?;
        let all = [sent, received, lost, corrupt].map(|&number| thousands(number));
        output::line(&format!("  {} sent, {} back, {} lost, {} corrupt", all[0], all[1], all[2], all[3]))?;
        if *received > 0 {
            let Report { min_us, median_us, p99_us, max_us, .. } = report;
            output::line(&format!(
                "  round trip min {min_us} us, median {median_us} us, p99 {p99_us} us, max {max_us} us"
            ))?;
        }
    }
    match (report.lost, report.corrupt) {
        (0, 0) => Ok(()),
        (lost, 0) => {
            let (lost, sent) = (thousands(lost), thousands(report.sent));
            Err(Failure::new(format_args!("{}: {lost} of {sent} did not come back", args.target)))
        }
        (_, corrupt) => {
            Err(Failure::new(format_args!("{}: {} came back corrupt", args.target, thousands(corrupt))))
        }
    }
}
