//! Measures the project beside the crates and programs that do the same work: one command, one table.
//!
//! What is compared, and with which bar, is in [`bars`]; what a cell does, in `bin/one_core`, [`two_cores`] and
//! [`end_to_end`]; how it is measured in spite of a noisy machine, in [`measure`].

mod bars;
mod cell;
mod end_to_end;
mod linux;
mod measure;
mod plot;
mod report;
mod two_cores;

use cell::Group;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use linux::Programs;
use measure::{Measured, Plan};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use virtio_kit_bench::two_cores::cores;

/// Measures virtio-kit beside its peers, in turns, and prints the table of bars.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Only groups whose names contain one of these parts
    #[arg(long, value_name = "PART,PART", default_value = "")]
    only: String,
    /// How often each cell has its turn
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: usize,
    /// No counts of instructions
    #[arg(long)]
    no_instructions: bool,
    /// No times: counts of instructions only
    #[arg(long, conflicts_with = "no_instructions")]
    no_times: bool,
    /// About how long to take at most: for three quarters of it disturbed runs are repeated, then kept as they come,
    /// and after it each cell has one turn only
    #[arg(long, value_name = "N", default_value = "8")]
    minutes: u64,
    /// Everything that was measured as one JSON value, instead of tables
    #[arg(long)]
    json: bool,
    /// Put the tables into BENCHMARKS.md, and the plot beside it
    #[arg(long)]
    write: bool,
    /// Draw the plot into this file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Names of groups and cells, and nothing else
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let cores = cores().ok_or("two processors are needed")?;
    let programs = Programs::get()?;
    let wanted = |group: &Group| args.only.split(',').any(|part| group.id.contains(part));
    let mut groups = cell::rings(cores, &programs)?;
    groups.extend(end_to_end::groups(cores));
    groups.retain(wanted);
    if args.list {
        for group in &groups {
            println!("{}: {}", group.id, group.title);
            group.cells.iter().for_each(|cell| println!("    {}", cell.name));
        }
        return Ok(());
    }
    let (now, all) = (Instant::now(), Duration::from_secs(60 * args.minutes));
    let plan = Plan {
        cores,
        rounds: args.rounds,
        instructions: !args.no_instructions,
        patience_ends: now + all * 3 / 4,
        ends: now + all,
    };
    let measured = measure(&groups, &plan, args.no_times)?;
    let verdicts = bars::verdicts(&measured);
    if args.json {
        println!("{}", report::json(&measured, &verdicts));
    } else {
        println!("{}", report::text(&measured, &verdicts, &plan));
    }
    if args.write {
        report::write(&measured, &verdicts, &plan)?;
    }
    if let Some(file) = &args.plot {
        plot::draw(&verdicts, file)?;
    }
    Ok(())
}

fn measure(groups: &[Group], plan: &Plan, no_times: bool) -> Result<Vec<Measured>, String> {
    let cells: usize = groups.iter().map(|group| group.cells.len()).sum();
    let counted: usize =
        groups.iter().flat_map(|group| &group.cells).filter(|cell| cell.counting.is_some()).count();
    let steps = if plan.instructions { counted } else { 0 } + if no_times { 0 } else { cells * plan.rounds };
    let bar = ProgressBar::new(steps as u64);
    let style = ProgressStyle::with_template("{msg:<50} [{bar:30}] {pos}/{len} {elapsed}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    let counts = if plan.instructions {
        measure::count(groups, &bar)?
    } else {
        groups.iter().map(|group| group.cells.iter().map(|_| None).collect()).collect()
    };
    let mut all = Vec::new();
    for (group, counts) in groups.iter().zip(counts) {
        let mut cells = if no_times {
            let named = |cell: &cell::Cell| measure::Result { name: cell.name.clone(), ..Default::default() };
            group.cells.iter().map(named).collect()
        } else {
            measure::time(group, plan, &bar)?
        };
        cells.iter_mut().zip(counts).for_each(|(cell, counts)| cell.counts = counts);
        all.push(Measured { id: group.id.clone(), title: group.title.clone(), cells });
    }
    bar.finish_and_clear();
    Ok(all)
}
