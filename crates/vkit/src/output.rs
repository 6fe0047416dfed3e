//! What is printed: lines on standard output, progress on standard error if it is a terminal.

use crate::failure::{Failure, Result};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use virtio_kit::spec::features;
use virtio_kit::{DeviceId, Features};

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value).map_err(Failure::new)?)
}

/// Says something to whoever sits at the terminal, and nothing to a script.
pub(crate) fn remark(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Progress over bytes. Not shown unless standard error is a terminal.
pub(crate) fn progress(length: Option<u64>) -> ProgressBar {
    match length {
        Some(length) => styled(
            ProgressBar::new(length),
            "{msg:<34} [{bar:30}] {percent:>3}%  {binary_bytes:>10}  {binary_bytes_per_sec}",
        ),
        None => styled(
            ProgressBar::no_length(),
            "{msg:<34} {spinner}  {binary_bytes:>10}  {binary_bytes_per_sec}",
        ),
    }
}

/// Progress over time, in whatever unit.
pub(crate) fn time_progress(length: u64) -> ProgressBar {
    styled(ProgressBar::new(length), "{msg:<34} [{bar:30}] {percent:>3}%")
}

/// Progress over a number of things.
pub(crate) fn progress_of(count: u64, what: &str) -> ProgressBar {
    let bar =
        styled(ProgressBar::new(count), "{msg:<34} [{bar:30}] {percent:>3}%  {human_pos} of {human_len}");
    bar.with_message(what.to_owned())
}

/// Processor time of this process.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Neither number is ever negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// The names of features, or `bit N` where there is none.
pub(crate) fn feature_names(features: Features, device: DeviceId) -> Vec<String> {
    let name = |bit| features::name(device, bit).map_or_else(|| format!("bit {bit}"), str::to_owned);
    features.numbers().map(name).collect()
}
