//! `vkit demo`: every driver over every transport that is here, in every layout, with real work that is
//! verified at the other end by another path.
//!
//! A device type's rows are one file, or one folder, here and one line of [`DEMOS`].

mod blk;
mod bus;
mod console;
pub(crate) mod content;
mod daemon;
mod guest;
mod health;
mod net;
mod qemu;
mod rng;
mod rows;
mod scratch;
mod vsock;

use crate::cli::{DemoArgs, LayoutChoice, TransportKind};
use crate::failure::{Failure, Result};
use crate::output;
use content::{BLOCK, Content};
use indicatif::ProgressBar;
use rows::{Layout, Outcome, Row, Table};
use scratch::Scratch;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is shown of each device type.
const DEMOS: &[Demo] = &[blk::DEMO, net::DEMO, console::DEMO, rng::DEMO, vsock::DEMO];

/// What is shown of one device type.
struct Demo {
    /// The type's name, as in `--device`.
    device: &'static str,
    /// Its rows, in the order in which they are shown.
    rows: fn(&Asked<'_>) -> Vec<Box<dyn Act>>,
    /// What is done in each row, in lines.
    work: fn(&Stage) -> Vec<String>,
}

/// A row: who is at the other end, and what is done.
trait Act {
    /// What the row is.
    fn row(&self) -> Row;

    /// Plays it. `number` differs from row to row.
    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome>;
}

/// Which rows were asked for.
struct Asked<'a>(&'a DemoArgs);

impl Asked<'_> {
    fn device(&self, name: &str) -> bool {
        self.0.device.is_empty() || self.0.device.iter().any(|kind| kind.name == name)
    }

    fn transport(&self, kind: TransportKind) -> bool {
        self.0.transport.is_empty() || self.0.transport.contains(&kind)
    }

    fn layouts(&self) -> impl Iterator<Item = Layout> {
        Layout::ALL.into_iter().filter(|layout| match self.0.layout {
            LayoutChoice::Both => true,
            LayoutChoice::Split => !layout.packed,
            LayoutChoice::Packed => layout.packed,
        })
    }
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let began = Instant::now();
    let image = args.image.as_deref().map(open_image).transpose()?;
    let size = image.as_ref().map_or(args.size, |(_, size)| *size);
    scratch::clean_up_on_signals()?;
    let scratch = Scratch::new()?;
    let stage = Stage {
        folder: scratch.path(""),
        file: scratch.path("image.raw"),
        socket: scratch.path("socket"),
        size,
        image: image.map(|(file, _)| Content::File(file)),
        daemon: daemon::find(),
        bar: output::progress(Some(size * 2)),
    };
    let mut table = Table::new(args.json)?;
    let asked = Asked(args);
    let mut number = 0;
    for demo in DEMOS.iter().filter(|demo| asked.device(demo.device)) {
        let work = (demo.work)(&stage);
        for act in (demo.rows)(&asked) {
            let row = act.row();
            stage.bar.set_message(format!("{}, {}", row.device, row.other));
            stage.bar.set_length(size * 2);
            stage.bar.set_position(0);
            let outcome = match act.play(&stage, number) {
                Ok(outcome) => outcome,
                Err(Failure::Line(why)) => Outcome::Failed(why),
                Err(_) => Outcome::Failed("the output is closed".into()),
            };
            number += 1;
            stage.bar.suspend(|| table.add(&row, &work, &outcome))?;
        }
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
    folder: PathBuf,
    file: PathBuf,
    socket: PathBuf,
    size: u64,
    image: Option<Content>,
    daemon: Option<PathBuf>,
    bar: ProgressBar,
}
