//! `vkit demo`: every driver over every transport that is here, in every layout, with real work that is
//! verified at the other end by another path.

mod bus;
pub(crate) mod content;
mod daemon;
mod plan;
mod rows;
mod scratch;
mod work;

use crate::cli::DemoArgs;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::{InProcessBlk, Storage, Target};
use content::{BLOCK, Content};
use daemon::Daemon;
use indicatif::ProgressBar;
use rows::{Layout, Other, Outcome, Row, Table, Work};
use scratch::Scratch;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;
use virtio_kit::DeviceId;

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let began = Instant::now();
    let image = args.image.as_deref().map(open_image).transpose()?;
    let size = image.as_ref().map_or(args.size, |(_, size)| *size);
    scratch::clean_up_on_signals()?;
    let scratch = Scratch::new()?;
    let rows = rows::rows(args);
    let stage = Stage {
        file: scratch.path("image.raw"),
        socket: scratch.path("socket"),
        size,
        image: image.map(|(file, _)| Content::File(file)),
        daemon: daemon::find(),
        bar: output::progress(Some(size * 2)),
    };
    let mut table = Table::new(args.json, size, work::WANT.depth)?;
    for (number, &row) in rows.iter().enumerate() {
        stage.bar.set_message(format!("blk, {}", row.other));
        stage.bar.set_position(0);
        let outcome = stage.play(row, number as u64);
        stage.bar.suspend(|| table.add(row, &outcome))?;
    }
    stage.bar.finish_and_clear();
    drop(scratch);
    table.finish(began.elapsed())?;
    match (table.failed, table.verified) {
        (0, 0) => Err(Failure::new("nothing of this could run here")),
        (0, _) => Ok(()),
        _ => Err(Failure::Shown),
    }
}

/// A file whose content is to be written, and its length in whole blocks.
fn open_image(path: &Path) -> Result<(File, u64)> {
    let failed = |error| Failure::file(path, &error);
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.len() == 0 {
        return Err(Failure::new(format_args!("{}: not a file with something in it", path.display())));
    }
    Ok((file, found.len().next_multiple_of(BLOCK)))
}

/// What all rows use.
struct Stage {
    file: PathBuf,
    socket: PathBuf,
    size: u64,
    image: Option<Content>,
    daemon: Option<PathBuf>,
    bar: ProgressBar,
}

impl Stage {
    fn play(&self, row: Row, number: u64) -> Outcome {
        match self.try_play(row, number) {
            Ok(outcome) => outcome,
            Err(Failure::Line(why)) => Outcome::Failed(why),
            Err(_) => Outcome::Failed("the output is closed".into()),
        }
    }

    fn try_play(&self, row: Row, number: u64) -> Result<Outcome> {
        // Empty for every row, so that nothing can be verified that another row has written.
        let created = File::create(&self.file).and_then(|file| file.set_len(self.size));
        created.map_err(|error| Failure::file(&self.file, &error))?;
        match row.other {
            Other::InProcess { threads } => {
                let Layout { packed, in_order } = row.layout;
                let storage = Storage::Image(self.file.clone());
                let blk = InProcessBlk { packed, in_order, threads, ..InProcessBlk::new(storage) };
                self.drive(&Target::InProcess(blk), row, number)
            }
            Other::StorageDaemon { queues } => {
                let Some(program) = &self.daemon else {
                    return Ok(Outcome::Skipped(format!("no {} on the PATH", daemon::NAME)));
                };
                let mut daemon = Daemon::start(program, &self.file, &self.socket, queues)?;
                let outcome = self.drive(&Target::VhostUser(self.socket.clone()), row, number);
                outcome.map_err(|failure| match daemon.complaint() {
                    Some(complaint) => failure.after(complaint),
                    None => failure,
                })
            }
        }
    }

    fn drive(&self, target: &Target, row: Row, number: u64) -> Result<Outcome> {
        let mut device = bus::take(target, &work::WANT)?;
        let features = device.blk.features;
        let layout = Layout::of(features);
        if layout != row.layout {
            return match row.other {
                Other::StorageDaemon { .. } => {
                    Ok(Outcome::Skipped(format!("not offered by {}", daemon::NAME)))
                }
                Other::InProcess { .. } => Err(Failure::new(format_args!("{layout} was negotiated"))),
            };
        }
        let (first, second) = (Content::Seed(2 * number + 1), Content::Seed(2 * number + 2));
        let job = work::Job {
            file: &self.file,
            size: self.size,
            first: self.image.as_ref().unwrap_or(&first),
            second: &second,
            seed: number,
            features,
            bar: &self.bar,
        };
        let spent = work::run(&mut device.blk.queues, &job)?;
        Ok(Outcome::Verified(Work {
            features: output::feature_names(features, DeviceId::BLOCK),
            bytes: spent.bytes,
            requests: spent.requests,
            time: spent.time,
        }))
    }
}
