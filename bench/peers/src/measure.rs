//! Measuring groups: counts at first, then rounds in which each cell has its turn.

use crate::cell::{Cell, Cores, Counting, Group, Values};
use indicatif::ProgressBar;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use virtio_kit_bench::callgrind::{self, Counts};
use virtio_kit_bench::stats::Spread;
use virtio_kit_bench::two_cores::line;

/// What came of a cell.
#[derive(Default)]
pub(crate) struct Result {
    pub(crate) name: String,
    pub(crate) counts: Option<Counts>,
    /// One run of each round. Round by round, all cells of a group were measured within seconds.
    pub(crate) rounds: Vec<Values>,
    /// Nanoseconds of a cache line's round trip after each run, where that matters.
    pub(crate) lines: Vec<f64>,
    /// Runs that were measured again.
    pub(crate) again: usize,
    /// Runs kept although somebody else had more of the cores than allowed, or the line had changed.
    pub(crate) noisy: usize,
}

/// What came of a group.
pub(crate) struct Measured {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) cells: Vec<Result>,
}

/// What to measure and how patiently.
pub(crate) struct Plan {
    pub(crate) cores: Cores,
    pub(crate) rounds: usize,
    pub(crate) instructions: bool,
    /// After this, runs are kept as they come.
    pub(crate) patience_ends: Instant,
    /// After this, one round is enough.
    pub(crate) ends: Instant,
}

/// The most that somebody else may have of the cores, as a share.
const LOST: f64 = 0.03;
/// The most by which a line's time may change within a round.
const STEADY: f64 = 1.5;
/// How often a run is repeated before it is kept anyway.
const TRIES: usize = 6;

impl Result {
    /// The spread of a value over the rounds.
    pub(crate) fn spread(&self, name: &str) -> Option<Spread> {
        let values: Vec<f64> = (0..self.rounds.len()).filter_map(|i| self.value(i, name)).collect();
        if values.is_empty() { None } else { Some(Spread::of(values)) }
    }

    /// A value of one round.
    pub(crate) fn value(&self, round: usize, name: &str) -> Option<f64> {
        self.rounds.get(round)?.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// Counts instructions of all cells that can be counted, on both cores.
pub(crate) fn count(
    groups: &[Group],
    bar: &ProgressBar,
) -> std::result::Result<Vec<Vec<Option<Counts>>>, String> {
    let jobs: Vec<(usize, usize, &Counting)> = groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| {
            let cells = group.cells.iter().enumerate();
            cells.filter_map(move |(c, cell)| cell.counting.as_ref().map(|counting| (g, c, counting)))
        })
        .collect();
    let names: Vec<(String, String)> =
        jobs.iter().map(|&(g, c, _)| (groups[g].id.clone(), groups[g].cells[c].name.clone())).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, done, jobs, names) = (&next, &done, &jobs, &names);
            scope.spawn(move || {
                let file = format!("virtio-kit-peers-{}-{worker}", std::process::id());
                let file = std::env::temp_dir().join(file);
                while let Some(((g, c, counting), (group, name))) = {
                    let i = next.fetch_add(1, Relaxed);
                    jobs.get(i).zip(names.get(i))
                } {
                    bar.set_message(format!("{group}: {name}"));
                    let Counting { program, args, ops } = counting;
                    let counts = callgrind::count(program, args, *ops, &file);
                    done.lock().expect("no panic").push((
                        *g,
                        *c,
                        counts.map_err(|e| format!("{group}: {name}: {e}")),
                    ));
                    bar.inc(1);
                }
            });
        }
    });
    let mut all: Vec<Vec<Option<Counts>>> =
        groups.iter().map(|g| g.cells.iter().map(|_| None).collect()).collect();
    for (g, c, counts) in done.into_inner().expect("no panic") {
        all[g][c] = Some(counts?);
    }
    Ok(all)
}

/// Measures a group's times.
pub(crate) fn time(
    group: &Group,
    plan: &Plan,
    bar: &ProgressBar,
) -> std::result::Result<Vec<Result>, String> {
    let mut results: Vec<Result> =
        group.cells.iter().map(|cell| Result { name: cell.name.clone(), ..Result::default() }).collect();
    let mut rounds = 0;
    while rounds < plan.rounds && (rounds == 0 || Instant::now() < plan.ends) {
        let first = if group.crosses { trip(plan.cores) } else { 0.0 };
        let mut round = Vec::new();
        for (cell, result) in group.cells.iter().zip(&mut results) {
            bar.set_message(format!("{}: {}", group.id, cell.name));
            match turn(cell, result, first, plan) {
                Ok(Some(values)) => round.push(values),
                Ok(None) => break,
                Err(error) => return Err(format!("{}: {}: {error}", group.id, cell.name)),
            }
        }
        // Cells of two different times of the machine cannot be compared: all of them again.
        if round.len() == group.cells.len() {
            rounds += 1;
            bar.inc(round.len() as u64);
            for ((values, line), result) in round.into_iter().zip(&mut results) {
                result.rounds.push(values);
                if group.crosses {
                    result.lines.push(line);
                }
            }
        }
    }
    Ok(results)
}

/// A run that nobody disturbed, with the line's time after it; `None` if the line has changed for good.
fn turn(
    cell: &Cell,
    result: &mut Result,
    first: f64,
    plan: &Plan,
) -> std::result::Result<Option<(Values, f64)>, String> {
    let (mut calmest, mut changed): (Option<(f64, Values, f64)>, _) = (None, 0);
    for tried in 1.. {
        let patient = Instant::now() < plan.patience_ends;
        let reading = (cell.run)()?;
        let after = if first > 0.0 { trip(plan.cores) } else { 0.0 };
        let steady = after <= first * STEADY && first <= after * STEADY;
        if steady && reading.lost <= LOST {
            return Ok(Some((reading.values, after)));
        }
        if patient && !steady {
            changed += 1;
            result.again += 1;
            if changed == 3 {
                return Ok(None);
            }
            continue;
        }
        if calmest.as_ref().is_none_or(|&(lost, ..)| reading.lost < lost) {
            calmest = Some((reading.lost, reading.values, after));
        }
        if (!patient || tried >= TRIES)
            && let Some((_, values, after)) = calmest
        {
            result.noisy += 1;
            return Ok(Some((values, after)));
        }
        result.again += 1;
    }
    Ok(None)
}

/// A cache line's round trip: the median of three short looks.
fn trip(cores: Cores) -> f64 {
    Spread::of((0..3).map(|_| line(cores, 10_000))).median
}
