//! What is measured: cells that do the same work, in groups that are measured in turns.

use crate::linux::{Programs, run};
use crate::two_cores;
use std::ffi::OsString;
use std::process::Command;
use virtio_kit_bench::case::{One, Three};
use virtio_kit_bench::row::Row;
use virtio_kit_bench::two_cores::{echo, pin, ring};
use virtio_kit_peers::noise::{Whose, lost};
use virtio_kit_peers::times::Times;

/// What was measured in one run, by name; all of it per operation and the less the better.
pub(crate) type Values = Vec<(&'static str, f64)>;

/// One run.
pub(crate) struct Reading {
    pub(crate) values: Values,
    /// The share of the cores that somebody else had meanwhile.
    pub(crate) lost: f64,
}

/// How a cell's instructions are counted: by running a program.
pub(crate) struct Counting {
    pub(crate) program: OsString,
    pub(crate) args: Vec<String>,
    pub(crate) ops: usize,
}

/// One end, or pair of ends, in one arrangement.
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) counting: Option<Counting>,
    pub(crate) run: Box<dyn Fn() -> Result<Reading, String>>,
}

/// Cells that do the same work.
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) title: String,
    /// Time goes from one core to the other.
    pub(crate) crosses: bool,
    pub(crate) cells: Vec<Cell>,
}

/// The two cores; what has one uses the second.
pub(crate) type Cores = [usize; 2];

/// Operations for a count: enough that setting up does not show.
const COUNTED: usize = 16_000;
/// Operations of a timed run on one core.
const TIMED: usize = 1_000_000;
/// The same, where an operation takes hundreds of nanoseconds.
const TIMED_LONG: usize = 200_000;

fn values(times: Times) -> Values {
    let [submit, device, reap] = times.parts;
    vec![
        ("ns", times.total),
        ("submit", submit),
        ("device", device),
        ("reap", reap),
        ("driver", submit + reap),
    ]
}

/// The program that has the cells on one core.
fn program() -> Result<OsString, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(this.with_file_name("one_core").into())
}

/// The cells of one of its groups, in batches of `batch` or as many as a cell can take.
fn one_core(group: &str, batch: usize, ops: usize, cores: Cores) -> Result<Vec<Cell>, String> {
    let program = program()?;
    let list = run(Command::new(&program).arg("list"))?;
    let lines = list.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (of, most, name) = (fields.next()?, fields.next()?.parse::<usize>().ok()?, fields.next()?);
        (of == group).then(|| (name.to_owned(), batch.min(most)))
    });
    let cell = |(name, batch): (String, usize)| {
        let counted = COUNTED / batch * batch;
        let args = |ops: usize| [group, &name, &batch.to_string(), &ops.to_string()].map(String::from);
        let counting = Counting {
            program: program.clone(),
            args: std::iter::once("count".into()).chain(args(counted)).collect(),
            ops: counted,
        };
        let (program, args) = (program.clone(), args(ops));
        let run = move || {
            let times: Times =
                run(Command::new(&program).arg("time").arg(cores[1].to_string()).args(&args))?.parse()?;
            Ok(Reading { values: values(times), lost: times.lost })
        };
        Cell { name, counting: Some(counting), run: Box::new(run) }
    };
    Ok(lines.map(cell).collect())
}

fn linux(layout: &str, batch: usize, cores: Cores, programs: &Programs) -> Cell {
    let packed = layout == "packed";
    let (program, args) = programs.ring(packed, batch, COUNTED);
    let programs = programs.clone();
    let run = move || {
        pin(cores[1]);
        let (times, lost) = lost(Whose::Children, 1.0, || programs.time(packed, batch, TIMED * 4));
        Ok(Reading { values: values(times?), lost })
    };
    let counting = Some(Counting { program, args, ops: COUNTED });
    Cell { name: format!("Linux {layout}"), counting, run: Box::new(run) }
}

/// Two threads of this process that are busy all the time.
fn pair(name: String, run: impl Fn() -> f64 + 'static) -> Cell {
    let run = move || {
        let (ns, lost) = lost(Whose::Process, 2.0, &run);
        Ok(Reading { values: vec![("ns", ns)], lost })
    };
    Cell { name, counting: None, run: Box::new(run) }
}

/// The project's layouts.
const LAYOUTS: [(&str, bool, bool); 4] = [
    ("split", false, false),
    ("split in-order", false, true),
    ("packed", true, false),
    ("packed in-order", true, true),
];

fn row(packed: bool, in_order: bool, shape: &str) -> Row {
    let layout = match (packed, in_order) {
        (false, false) => "split",
        (false, true) => "split-in-order",
        (true, false) => "packed",
        (true, true) => "packed-in-order",
    };
    format!("{layout}/{shape}/batch").parse().expect("a row")
}

/// All groups on rings, in the order of the table.
pub(crate) fn rings(cores: Cores, programs: &Programs) -> Result<Vec<Group>, String> {
    let mut all = Vec::new();
    let mut group = |id: &str, title: &str, crosses: bool, cells: Vec<Cell>| {
        all.push(Group { id: id.into(), title: title.into(), crosses, cells });
    };
    for (id, batch, title) in [
        ("driver/32", 32, "Driver's end, chains of 3, batches of 32"),
        ("driver/1", 1, "Driver's end, chains of 3, one at a time"),
    ] {
        let mut cells = one_core("driver", batch, TIMED, cores)?;
        cells.extend(["split", "packed"].map(|layout| linux(layout, batch, cores, programs)));
        group(id, title, false, cells);
    }
    for (id, title) in [
        ("device/walk", "Device's end: take, walk, complete chains of 3, batches of 32"),
        ("device/blk", "Device's end: parse block reads (header, data, status), batches of 32"),
        ("driver/blk", "Block driver: submit and reap reads of 4 KiB, batches of 32 or as many as it takes"),
    ] {
        group(id, title, false, one_core(id, 32, TIMED, cores)?);
    }
    for depth in [64, 16, 1] {
        let ops = if depth == 1 { TIMED_LONG } else { TIMED };
        let mut cells: Vec<Cell> = LAYOUTS
            .iter()
            .map(|&(layout, packed, in_order)| {
                let row = row(packed, in_order, "3");
                let run = move || ring::<Three>(cores, &row, depth, depth, ops);
                pair(format!("virtio-kit {layout}"), run)
            })
            .collect();
        cells.push(pair("virtio-driver + virtio-queue, split".into(), move || {
            two_cores::peers(cores, depth, ops)
        }));
        group(&format!("pair/{depth}"), &format!("Two cores, chains of 3, depth {depth}"), true, cells);
    }
    let mut cells: Vec<Cell> = LAYOUTS
        .iter()
        .map(|&(layout, packed, in_order)| {
            let row = row(packed, in_order, "1");
            let run = move || ring::<One>(cores, &row, 128, 32, 4 * TIMED);
            pair(format!("virtio-kit {layout}"), run)
        })
        .collect();
    for (name, program) in [
        ("Linux ringtest ring", "ring"),
        ("Linux ringtest virtio_ring_0_9", "virtio_ring_0_9"),
        ("Linux ringtest virtio_ring_inorder", "virtio_ring_inorder"),
    ] {
        let programs = programs.clone();
        let run = move || {
            let (ns, lost) =
                lost(Whose::Children, 2.0, || two_cores::ringtest(&programs, program, cores, 6 * TIMED));
            // Starting a program and ending it are not busy on both cores.
            Ok(Reading { values: vec![("ns", ns?)], lost: (lost - 0.1).max(0.0) })
        };
        cells.push(Cell { name: name.into(), counting: None, run: Box::new(run) });
    }
    cells.push(pair("rtrb echo, chunks of 32".into(), move || echo(cores, 256, 32, 20 * TIMED)));
    group("pair/buffer", "Two cores, one buffer, batches of 32, up to 128 under way", true, cells);
    for (id, title) in [
        ("scale/size", "Ring sizes: chains of one buffer, batches of 8"),
        ("scale/regions", "Memory regions of a driver: device's end, chains of 3, batches of 32, split ring"),
    ] {
        group(id, title, false, one_core(id, 32, TIMED_LONG * 2, cores)?);
    }
    Ok(all)
}
