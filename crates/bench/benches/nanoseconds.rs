//! Nanoseconds per operation of every row, on one core, and of some rows on two cores beside rtrb.
//!
//! Times of a shared machine are noisy: what counts are the instructions. Options: `--only PART,PART` (of rows'
//! names), `--runs N`, `--ops N`, `--write [FILE]`.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;
use virtio_kit_bench::args::Args;
use virtio_kit_bench::case::{Three, case};
use virtio_kit_bench::report::publish;
use virtio_kit_bench::row::Row;
use virtio_kit_bench::stats::Spread;
use virtio_kit_bench::two_cores::{cores, echo, line, pin, ring};

fn main() {
    let args = Args::parse();
    let only = args.text("only").unwrap_or("");
    let (runs, ops) = (args.get("runs", 5), args.get("ops", 200_000));
    let two = cores();
    if let Some([_, core]) = two {
        pin(core);
    }
    let text = one_core(&Row::matching(only), runs, ops);
    publish(&args, "Nanoseconds per operation, one core", &text);
    if let Some(cores) = two {
        let rows: Vec<Row> =
            Row::matching(only).into_iter().filter(|row| row.to_string().ends_with("/3/batch")).collect();
        publish(&args, "Round trips on two cores, beside rtrb", &beside_rtrb(cores, &rows, runs, ops));
    }
}

/// What reading the clock costs.
fn clock() -> f64 {
    let start = Instant::now();
    (0..100_000).for_each(|_| {
        black_box(Instant::now());
    });
    start.elapsed().as_nanos() as f64 / 1e5
}

fn one_core(rows: &[Row], runs: usize, ops: usize) -> String {
    let mut text = format!(
        "Median (min..max) of {runs} runs of {ops} operations; submit, device and reap in runs of their own, in \
         which each\nholds one reading of the clock per 32 operations: {:.1} ns of each operation's.\n\n",
        clock() / 32.0,
    );
    let _ = writeln!(
        text,
        "| {:<42} | {:<23} | {:>6} | {:>6} | {:>6} |",
        "row", "ns, all parts", "submit", "device", "reap"
    );
    text += "| --- | --- | ---: | ---: | ---: |\n";
    for row in rows {
        let mut case = case(row);
        let turns = ops / row.batch();
        case.run(turns);
        let per_op = |ns: u128| ns as f64 / (turns * row.batch()) as f64;
        let all = Spread::of((0..runs).map(|_| {
            let start = Instant::now();
            case.run(turns);
            per_op(start.elapsed().as_nanos())
        }));
        let _ = write!(text, "| {row:<42} | {:<23} |", all.to_string());
        if row.batch() == 1 {
            // Too short to look inside.
            text += "      - |      - |      - |\n";
            continue;
        }
        let parts: Vec<_> = (0..runs).map(|_| case.run_parts(turns)).collect();
        for i in 0..3 {
            let part = Spread::of(parts.iter().map(|p| per_op(p[i].as_nanos())));
            let _ = write!(text, " {:>6.1} |", part.median);
        }
        text += "\n";
    }
    text
}

/// The most by which a line's time may differ before and after a run.
const STEADY: f64 = 1.3;

fn beside_rtrb(cores: [usize; 2], rows: &[Row], runs: usize, ops: usize) -> String {
    let mut text = format!(
        "A chain of 3 there and back, and an item of 16 bytes over two rtrb rings, in turns; ns per operation and \
         their ratio,\nmedians (min..max) of {runs} runs each. Runs around which a cache line's round trip changed \
         by more than {:.0} %\nare thrown away.\n\n",
        (STEADY - 1.0) * 100.0,
    );
    let _ = writeln!(
        text,
        "| {:<26} | {:>5} | {:<23} | {:<23} | {:<23} | {:>7} | {:>6} |",
        "row", "depth", "ratio to rtrb", "ring, ns", "rtrb, ns", "line", "thrown"
    );
    text += "| --- | ---: | --- | --- | --- | ---: | ---: |\n";
    for row in rows {
        for depth in [1, 16, 64] {
            let ops = if depth == 1 { ops / 2 } else { ops * 5 };
            let mut kept = vec![];
            let mut thrown = 0;
            while kept.len() < runs && thrown < 5 * runs {
                let before = line(cores, 20_000);
                let rtrb = echo(cores, depth, 1, ops);
                let ours = ring::<Three>(cores, row, depth, depth, ops);
                let after = line(cores, 20_000);
                if before.max(after) > before.min(after) * STEADY {
                    thrown += 1;
                } else {
                    kept.push([ours / rtrb, ours, rtrb, before]);
                }
            }
            if kept.is_empty() {
                let _ = writeln!(text, "| {row:<26} | {depth:>5} | no run was steady");
                continue;
            }
            let column = |i: usize| Spread::of(kept.iter().map(|k| k[i]));
            let _ = writeln!(
                text,
                "| {row:<26} | {depth:>5} | {:<23} | {:<23} | {:<23} | {:>7.1} | {thrown:>6} |",
                format!("{:.2}", column(0)),
                column(1).to_string(),
                column(2).to_string(),
                column(3).median,
            );
        }
    }
    text
}
