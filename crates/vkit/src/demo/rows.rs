//! What there is to show, and how it is shown.

use crate::failure::Result;
use crate::output;
use crate::units::{rate, size, thousands};
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use virtio_kit::{F, Features};

/// The order of descriptors in memory, and of their use.
pub(super) use crate::target::Ring as Layout;

impl Layout {
    pub(super) const ALL: [Self; 4] = [
        Self { packed: false, in_order: false },
        Self { packed: false, in_order: true },
        Self { packed: true, in_order: false },
        Self { packed: true, in_order: true },
    ];

    /// As negotiated.
    pub(super) fn of(features: Features) -> Self {
        Self { packed: features.contains(F::RING_PACKED), in_order: features.contains(F::IN_ORDER) }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.packed { "packed" } else { "split" })?;
        f.write_str(if self.in_order { " in-order" } else { "" })
    }
}

/// A driver over a transport in a layout.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) device: &'static str,
    /// Name of the mechanism.
    pub(super) transport: &'static str,
    /// Who is at the other end, in a few words.
    pub(super) other: String,
    /// The same in more words.
    pub(super) how: String,
    pub(super) layout: Layout,
}

/// What a row came to.
pub(super) enum Outcome {
    /// All of it was as it should be at the other end.
    Verified(Work),
    /// It was not, and how.
    Failed(String),
    /// It cannot run here, and why.
    Skipped(String),
}

/// What was done.
pub(super) struct Work {
    pub(super) features: Vec<String>,
    pub(super) bytes: u64,
    pub(super) requests: u64,
    pub(super) time: Duration,
}

/// A row as JSON.
#[derive(Serialize)]
struct Json<'a> {
    device: &'a str,
    transport: &'a str,
    layout: String,
    features: &'a [String],
    work: Option<String>,
    verified: bool,
    skipped: Option<&'a str>,
    error: Option<&'a str>,
    bytes: u64,
    requests: u64,
    seconds: f64,
    ns_per_request: f64,
}

/// Prints rows as they come.
pub(super) struct Table {
    json: bool,
    /// What is done with each device type.
    work: Vec<(&'static str, Vec<String>)>,
    /// Sets of features that occurred: rows name them by letter.
    sets: Vec<Vec<String>>,
    pub(super) verified: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl Table {
    pub(super) fn new(json: bool) -> Result<Self> {
        if !json {
            output::line(&format!(
                "{:<8}{:<23}{:<17}{:<10}{:>10}{:>10}  {:<10}{:>12}{:>12}",
                "device",
                "transport",
                "layout",
                "features",
                "bytes",
                "requests",
                "verified",
                "rate",
                "ns/request"
            ))?;
        }
        Ok(Self { json, work: Vec::new(), sets: Vec::new(), verified: 0, failed: 0, skipped: 0 })
    }

    /// The letter of a set of features.
    fn letter(&mut self, features: &[String]) -> char {
        let at = self.sets.iter().position(|set| set == features).unwrap_or_else(|| {
            self.sets.push(features.to_vec());
            self.sets.len() - 1
        });
        (b'a' + (at % 26) as u8) as char
    }

    /// A row is played; `work` is what is done in all rows of this device type.
    pub(super) fn add(&mut self, row: &Row, work: &[String], outcome: &Outcome) -> Result<()> {
        match outcome {
            Outcome::Verified(_) => self.verified += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
        if self.json {
            return self.add_json(row, work, outcome);
        }
        if !self.work.iter().any(|(device, _)| *device == row.device) {
            self.work.push((row.device, work.to_vec()));
        }
        let start = format!("{:<8}{:<23}{:<17}", row.device, row.other, row.layout.to_string());
        output::line(&match outcome {
            Outcome::Verified(work) => {
                let set = self.letter(&work.features);
                let ns = work.time.as_nanos() as u64 / work.requests.max(1);
                let features = format!("{} ({set})", work.features.len());
                let (bytes, requests) = (size(work.bytes), thousands(work.requests));
                let (rate, ns) = (rate(work.bytes, work.time), thousands(ns));
                format!("{start}{features:<10}{bytes:>10}{requests:>10}  {:<10}{rate:>12}{ns:>12}", "yes")
            }
            Outcome::Failed(why) => format!("{start}FAILED: {why}"),
            Outcome::Skipped(why) => format!("{start}skipped: {why}"),
        })
    }

    fn add_json(&self, row: &Row, lines: &[String], outcome: &Outcome) -> Result<()> {
        let nothing = Work { features: Vec::new(), bytes: 0, requests: 0, time: Duration::ZERO };
        let (work, skipped, error) = match outcome {
            Outcome::Verified(work) => (work, None, None),
            Outcome::Failed(why) => (&nothing, None, Some(why.as_str())),
            Outcome::Skipped(why) => (&nothing, Some(why.as_str()), None),
        };
        let ns = work.time.as_nanos() as f64 / work.requests.max(1) as f64;
        output::json(&Json {
            device: row.device,
            transport: row.transport,
            layout: row.layout.to_string(),
            features: &work.features,
            work: skipped.is_none().then(|| format!("{}; {}", row.how, lines.join(" "))),
            verified: matches!(outcome, Outcome::Verified(_)),
            skipped,
            error,
            bytes: work.bytes,
            requests: work.requests,
            seconds: (work.time.as_secs_f64() * 1e6).round() / 1e6,
            ns_per_request: ns.round(),
        })
    }

    /// What the letters mean, and the sum.
    pub(super) fn finish(&self, took: Duration) -> Result<()> {
        if self.json {
            return Ok(());
        }
        output::line("")?;
        let in_all = |name: &&String| self.sets.iter().all(|set| set.contains(name));
        let common: Vec<&String> = self.sets.first().into_iter().flatten().filter(in_all).collect();
        if !common.is_empty() {
            list("features", &common)?;
        }
        for (at, set) in self.sets.iter().enumerate() {
            let own: Vec<&String> = set.iter().filter(|name| !common.contains(name)).collect();
            if !own.is_empty() {
                list(&format!("and ({})", (b'a' + (at % 26) as u8) as char), &own)?;
            }
        }
        for (device, lines) in &self.work {
            for (at, line) in lines.iter().enumerate() {
                let title = if at == 0 { device } else { "" };
                output::line(&format!("{title:<9} {line}"))?;
            }
        }
        let (verified, failed, skipped) = (self.verified, self.failed, self.skipped);
        let seconds = took.as_secs_f64();
        output::line(&format!(
            "result    {verified} verified, {failed} failed, {skipped} skipped, in {seconds:.1} s"
        ))
    }
}

/// Names in lines of bounded length.
fn list(title: &str, names: &[&String]) -> Result<()> {
    let mut lines = vec![String::new()];
    for name in names {
        match lines.last_mut() {
            Some(line) if line.len() + name.len() < 90 => {
                line.push(' ');
                line.push_str(name);
            }
            _ => lines.push(format!(" {name}")),
        }
    }
    for (at, line) in lines.iter().enumerate() {
        output::line(&format!("{:<9}{line}", if at == 0 { title } else { "" }))?;
    }
    Ok(())
}
