//! Instructions per operation of every row and part, counted by callgrind: exact, the same every run.
//!
//! Options: `--only PART,PART` (of rows' names), `--ops N`, `--json`, `--check [FILE]` (fails if a bar is
//! broken), `--write [FILE]`. With `--count ROW` it runs that row and nothing else, for callgrind.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use virtio_kit_bench::args::Args;
use virtio_kit_bench::callgrind::{Counts, PARTS, count};
use virtio_kit_bench::case::case;
use virtio_kit_bench::report::{broken_bars, publish};
use virtio_kit_bench::row::Row;

fn main() -> ExitCode {
    let args = Args::parse();
    let ops = args.get("ops", 16_000);
    if let Some(name) = args.text("count") {
        let row: Row = name.parse().expect("a row");
        let mut case = case(&row);
        case.run(ops / row.batch());
        case.run_pool(ops / row.batch());
        return ExitCode::SUCCESS;
    }
    let rows = Row::matching(args.text("only").unwrap_or(""));
    let counted = match count_all(&rows, ops) {
        Ok(counted) => counted,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if args.flag("json") {
        println!("{}", json(&counted));
    } else {
        publish(&args, "Instructions per operation", &table(&counted));
    }
    if args.flag("check") { check(&args, &counted) } else { ExitCode::SUCCESS }
}

/// Counts all rows, on all cores.
fn count_all(rows: &[Row], ops: usize) -> Result<Vec<(String, Counts)>, String> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![]);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, done) = (&next, &done);
            scope.spawn(move || {
                let name = format!("virtio-kit-bench-{}-{worker}", std::process::id());
                let file = std::env::temp_dir().join(name);
                let program = std::env::current_exe().unwrap_or_default();
                while let Some((i, row)) = rows.iter().enumerate().nth(next.fetch_add(1, Relaxed)) {
                    let args = ["--count".into(), row.to_string(), "--ops".into(), ops.to_string()];
                    let counts =
                        count(program.as_os_str(), args, ops, &file).map_err(|e| format!("{row}: {e}"));
                    done.lock().expect("no worker panics").push((i, row.to_string(), counts));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no worker panicked");
    done.sort_by_key(|(i, ..)| *i);
    done.into_iter().map(|(_, name, counts)| Ok((name, counts?))).collect()
}

fn table(counted: &[(String, Counts)]) -> String {
    let mut text = String::from(
        "driver = submit + reap. pool: what handling the bench's buffers costs; it is contained in driver.\n\n",
    );
    let _ = writeln!(
        text,
        "| {:<42} | {:>7} | {:>7} | {:>7} | {:>7} | {:>7} |",
        "row", "submit", "reap", "driver", "device", "pool"
    );
    text += "| --- | ---: | ---: | ---: | ---: | ---: |\n";
    for (name, [submit, device, reap, pool]) in counted {
        let driver = submit + reap;
        let _ = writeln!(
            text,
            "| {name:<42} | {submit:>7.1} | {reap:>7.1} | {driver:>7.1} | {device:>7.1} | {pool:>7.1} |"
        );
    }
    text
}

fn json(counted: &[(String, Counts)]) -> String {
    let rows: Vec<String> = counted
        .iter()
        .map(|(name, counts)| {
            let parts: Vec<String> =
                PARTS.iter().zip(counts).map(|(part, count)| format!("\"{part}\": {count:.2}")).collect();
            format!("  {{\"row\": \"{name}\", {}}}", parts.join(", "))
        })
        .collect();
    format!("[\n{}\n]", rows.join(",\n"))
}

fn check(args: &Args, counted: &[(String, Counts)]) -> ExitCode {
    let path = args
        .text("check")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("bars.tsv"), PathBuf::from);
    let bars = std::fs::read_to_string(&path).map_err(|e| e.to_string());
    match bars.and_then(|bars| broken_bars(&bars, counted)) {
        Ok((broken, compared)) => {
            broken.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{compared} bars compared, {} broken", broken.len());
            if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
