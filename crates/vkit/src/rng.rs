//! `vkit rng`: random bytes of an entropy device.

use crate::cli::RngArgs;
use crate::failure::{Failure, Result};
use crate::output;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use virtio_kit::DeviceId;
use virtio_kit::driver::Found;
use virtio_kit_drivers::rng::{BlockingRng, Options, open};
use virtio_kit_linux::clock::MonotonicClock;

/// How long a device may take for one piece.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that are asked for at a time.
const PIECE: usize = 32 << 10;

/// Bytes in a line of hexadecimal digits.
const LINE: usize = 32;

pub(crate) fn run(args: &RngArgs) -> Result<()> {
    let target = &args.target;
    let failed = |error: &dyn std::fmt::Display| Failure::new(format_args!("{target}: {error}"));
    let opened = target.open(DeviceId::ENTROPY, 1 << 20)?;
    let options = Options { bytes: 4096, ..Options::default() };
    let (rng, _device) = open(Found::new(opened.transport), &options).map_err(|error| failed(&error))?;
    let mut rng = BlockingRng::new(rng, Arc::new(MonotonicClock), PATIENCE);
    let bar = output::progress(Some(args.length));
    if args.length <= 1 << 20 {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let mut piece = vec![0; PIECE];
    let mut text = String::new();
    let mut left = args.length;
    let mut out = std::io::stdout().lock();
    while left > 0 {
        let now = &mut piece[..left.min(PIECE as u64) as usize];
        if let Err(error) = rng.fill(now) {
            bar.finish_and_clear();
            let got = args.length - left;
            return Err(failed(&error).after(format_args!("standard output got only {got} bytes")));
        }
        let written = if args.hex {
            text.clear();
            for line in now.chunks(LINE) {
                // Writing to a string does not fail.
                line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
                text.push('\n');
            }
            out.write_all(text.as_bytes())
        } else {
            out.write_all(now)
        };
        written.map_err(|error| Failure::stdout(&error))?;
        left -= now.len() as u64;
        bar.inc(now.len() as u64);
    }
    bar.finish_and_clear();
    out.flush().map_err(|error| Failure::stdout(&error))
}
