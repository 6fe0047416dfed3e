//! Tables for people, JSON for programs, BENCHMARKS.md for those who come later.

use crate::bars::Verdict;
use crate::measure::{Measured, Plan, Result};
use crate::plot;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use virtio_kit_bench::callgrind::PARTS;
use virtio_kit_bench::report::replaced;
use virtio_kit_bench::stats::Spread;

const BARS: &str = "Beside the peers: the bars";
const CELLS: &str = "Beside the peers: everything that was measured";

/// Both tables.
pub(crate) fn text(measured: &[Measured], verdicts: &[Verdict], plan: &Plan) -> String {
    let mut text = String::new();
    if !verdicts.is_empty() {
        text += &format!("## {BARS}\n\n{}\n", bars(verdicts));
    }
    text + &format!("## {CELLS}\n\n{}", cells(measured, plan))
}

/// Puts both tables into BENCHMARKS.md, and the plot beside it.
pub(crate) fn write(
    measured: &[Measured],
    verdicts: &[Verdict],
    plan: &Plan,
) -> std::result::Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = root.join("BENCHMARKS.md");
    let old = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let plot = "docs/peers.svg";
    let bars = format!(
        "Written by `cargo run --release -p virtio-kit-peers -- --write`.\n\n{}\n![the same as a plot]({plot})\n",
        bars(verdicts)
    );
    let new = replaced(&replaced(&old, BARS, &bars), CELLS, &cells(measured, plan));
    std::fs::write(&file, new).map_err(|e| format!("{}: {e}", file.display()))?;
    plot::draw(verdicts, &root.join(plot))
}

fn bars(verdicts: &[Verdict]) -> String {
    let held = verdicts.iter().filter(|verdict| verdict.holds()).count();
    let mut text = format!("{held} of {} hold.\n\n", verdicts.len());
    text += "| what | virtio-kit | its figure | best peer | its figure | ours / peer | bar | holds? |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for verdict in verdicts {
        let Verdict { what, ours, unit, value, peer, ratio, bar, .. } = verdict;
        let exact = *unit == "instructions";
        let figure = |spread: &Spread| match *unit {
            "instructions" => format!("{:.1}", spread.median),
            "ratio" => format!("{:.3}", spread.median),
            _ => format!("{spread:.1} ns"),
        };
        let (name, theirs) =
            peer.as_ref().map_or(("-", "-".into()), |(name, spread)| (name.as_str(), figure(spread)));
        let ratio = match ratio {
            Some(ratio) if exact => format!("{:.2}", ratio.median),
            Some(ratio) => format!("{ratio:.2}"),
            None => "-".into(),
        };
        let most =
            if verdict.is_absolute() { format!("at most {bar}") } else { format!("at most {bar:.2}x") };
        let holds = if verdict.holds() { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {what} | {ours} | {} | {name} | {theirs} | {ratio} | {most} | {holds} |",
            figure(value)
        );
    }
    text
}

fn cells(measured: &[Measured], plan: &Plan) -> String {
    let mut text = format!(
        "Instructions by callgrind, exact. Times are medians (smallest..largest) of up to {} rounds, in each of which every \
         cell\nof a group had its turn. Runs in which somebody else had more than 3 % of the cores were repeated, and \
         rounds in which\na cache line's round trip between the cores changed by half or more were begun anew: \"again\". \
         What could not be had\nundisturbed is counted as \"noisy\". `pool` is what handling the bench's own buffers \
         costs; it is contained in submit\nand reap.\n",
        plan.rounds
    );
    for group in measured {
        let _ = write!(text, "\n### {}\n\n", group.title);
        if group.cells.iter().any(|cell| cell.counts.is_some()) {
            counts(&mut text, &group.cells);
        }
        if group.cells.iter().any(|cell| !cell.rounds.is_empty()) {
            times(&mut text, &group.cells);
        }
    }
    text
}

fn counts(text: &mut String, cells: &[Result]) {
    let _ = writeln!(text, "| instructions | {} | submit + reap |", PARTS.join(" | "));
    *text += "| --- | ---: | ---: | ---: | ---: | ---: |\n";
    for cell in cells {
        let Some([submit, device, reap, pool]) = cell.counts else { continue };
        let _ = writeln!(
            text,
            "| {} | {submit:.1} | {device:.1} | {reap:.1} | {pool:.1} | {:.1} |",
            cell.name,
            submit + reap
        );
    }
    *text += "\n";
}

fn times(text: &mut String, cells: &[Result]) {
    // Columns that are not the same in all rows: parts of single operations are not looked at.
    let names: Vec<&str> = cells
        .iter()
        .flat_map(|cell| cell.rounds.first())
        .max_by_key(|values| values.len())
        .map(|values| values.iter().map(|(name, _)| *name).collect())
        .unwrap_or_default();
    let seen = |name: &str| cells.iter().any(|cell| cell.spread(name).is_some_and(|s| s.max > 0.0));
    let names: Vec<&str> = names.into_iter().filter(|name| seen(name)).collect();
    let lines = cells.iter().any(|cell| !cell.lines.is_empty());
    let _ = write!(text, "| per operation | {} |", names.join(" | "));
    *text += if lines { " line, ns | again | noisy |\n" } else { " again | noisy |\n" };
    *text += "| --- |";
    (0..names.len() + 2 + usize::from(lines)).for_each(|_| *text += " --- |");
    *text += "\n";
    for cell in cells {
        let _ = write!(text, "| {} |", cell.name);
        for name in &names {
            let _ = match cell.spread(name) {
                Some(spread) => write!(text, " {spread:.*} |", if spread.max < 1.0 { 3 } else { 1 }),
                None => write!(text, " - |"),
            };
        }
        if lines {
            let line = if cell.lines.is_empty() { 0.0 } else { Spread::of(cell.lines.clone()).median };
            let _ = write!(text, " {line:.0} |");
        }
        let _ = writeln!(text, " {} | {} |", cell.again, cell.noisy);
    }
}

/// Everything.
pub(crate) fn json(measured: &[Measured], verdicts: &[Verdict]) -> Value {
    let spread = |s: &Spread| json!({ "median": s.median, "min": s.min, "max": s.max });
    let groups: Vec<Value> = measured
        .iter()
        .map(|group| {
            let cells: Vec<Value> = group
                .cells
                .iter()
                .map(|cell| {
                    let object = |pairs: &mut dyn Iterator<Item = (&'static str, f64)>| -> Value {
                        pairs.map(|(name, value)| (name.to_owned(), json!(value))).collect()
                    };
                    let counts = cell.counts.map(|counts| object(&mut PARTS.into_iter().zip(counts)));
                    let rounds: Vec<Value> =
                        cell.rounds.iter().map(|values| object(&mut values.iter().copied())).collect();
                    json!({
                        "name": cell.name,
                        "instructions": counts.unwrap_or(Value::Null),
                        "rounds": rounds,
                        "lines": cell.lines,
                        "again": cell.again,
                        "noisy": cell.noisy,
                    })
                })
                .collect();
            json!({ "group": group.id, "title": group.title, "cells": cells })
        })
        .collect();
    let bars: Vec<Value> = verdicts
        .iter()
        .map(|verdict| {
            json!({
                "what": verdict.what,
                "ours": verdict.ours,
                "unit": verdict.unit,
                "value": spread(&verdict.value),
                "peer": verdict.peer.as_ref().map(|(name, s)| json!({ "name": name, "value": spread(s) })),
                "ratio": verdict.ratio.as_ref().map(spread),
                "bar": verdict.bar,
                "reached": verdict.reached,
                "holds": verdict.holds(),
            })
        })
        .collect();
    json!({ "bars": bars, "groups": groups })
}
