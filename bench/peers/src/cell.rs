//! What is measured: cells that do the same work, in groups that are measured in turns.

use crate::noise::{Whose, lost};
use crate::one_core::linux::Programs;
use crate::one_core::{self, LAYOUTS, Make, Times};
use crate::two_cores;
use std::ffi::OsString;
use virtio_kit_bench::case::{One, Three};
use virtio_kit_bench::row::Row;
use virtio_kit_bench::two_cores::{echo, pin, ring};

/// What was measured in one run, by name; all of it per operation and the less the better.
pub(crate) type Values = Vec<(&'static str, f64)>;

/// One run.
pub(crate) struct Reading {
    pub(crate) values: Values,
    /// The share of the cores that somebody else had meanwhile.
    pub(crate) lost: f64,
}

/// How a cell's instructions are counted.
pub(crate) enum Counting {
    /// By running this program again.
    Own { batch: usize, ops: usize },
    /// By running another program.
    Other { program: OsString, args: Vec<String>, ops: usize },
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

fn one_core(name: String, batch: usize, ops: usize, cores: Cores, make: Make) -> Cell {
    let run = move || {
        pin(cores[1]);
        // Made anew each time: where rings and buffers happen to be matters.
        let mut case = make();
        case.time(batch, ops / 8);
        let (times, lost) = lost(Whose::Thread, 1.0, || case.time(batch, ops));
        Ok(Reading { values: values(times), lost })
    };
    Cell { name, counting: Some(Counting::Own { batch, ops: COUNTED / batch * batch }), run: Box::new(run) }
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
    let counting = Some(Counting::Other { program, args, ops: COUNTED });
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
pub(crate) fn rings(cores: Cores, programs: &Programs) -> Vec<Group> {
    let mut all = Vec::new();
    let mut group = |id: &str, title: &str, crosses: bool, cells: Vec<Cell>| {
        all.push(Group { id: id.into(), title: title.into(), crosses, cells });
    };
    let with_linux = |batch| {
        let mut cells: Vec<Cell> = one_core::drivers()
            .into_iter()
            .map(|(name, make)| one_core(name, batch, TIMED, cores, make))
            .collect();
        cells.extend(["split", "packed"].map(|layout| linux(layout, batch, cores, programs)));
        cells
    };
    group("driver/32", "Driver's end, chains of 3, batches of 32", false, with_linux(32));
    group("driver/1", "Driver's end, chains of 3, one at a time", false, with_linux(1));
    let devices = |all: Vec<(String, Make)>, ops| {
        all.into_iter().map(|(name, make)| one_core(name, 32, ops, cores, make)).collect()
    };
    group(
        "device/walk",
        "Device's end: take, walk, complete chains of 3, batches of 32",
        false,
        devices(one_core::devices(), TIMED),
    );
    group(
        "device/blk",
        "Device's end: parse block reads (header, data, status), batches of 32",
        false,
        devices(one_core::blk_devices(), TIMED),
    );
    let blk = one_core::blk_drivers().into_iter();
    group(
        "driver/blk",
        "Block driver: submit and reap reads of 4 KiB, batches of 32 (or as many as the driver takes)",
        false,
        blk.map(|(name, batch, make)| one_core(name, batch, TIMED, cores, make)).collect(),
    );
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
            let (ns, lost) = lost(Whose::Children, 2.0, || {
                two_cores::ringtest(&programs, program, cores, 6 * TIMED)
            });
            // Starting a program and ending it are not busy on both cores.
            Ok(Reading { values: vec![("ns", ns?)], lost: (lost - 0.1).max(0.0) })
        };
        cells.push(Cell { name: name.into(), counting: None, run: Box::new(run) });
    }
    cells.push(pair("rtrb echo, chunks of 32".into(), move || echo(cores, 256, 32, 20 * TIMED)));
    group("pair/buffer", "Two cores, one buffer, batches of 32, up to 128 under way", true, cells);
    let sizes = one_core::sizes().into_iter();
    group(
        "scale/size",
        "Ring sizes: chains of one buffer, batches of 8",
        false,
        sizes.map(|(name, make)| one_core(name, 8, TIMED_LONG * 2, cores, make)).collect(),
    );
    group(
        "scale/regions",
        "Memory regions of a driver: device's end, chains of 3, batches of 32, split ring",
        false,
        devices(one_core::regions(), TIMED_LONG),
    );
    all
}

/// Runs a cell of this program for a counter of instructions.
pub(crate) fn count(group: &str, name: &str, batch: usize, ops: usize) -> Result<(), String> {
    let all: Vec<(String, Make)> = match group {
        "driver/32" | "driver/1" => one_core::drivers(),
        "device/walk" => one_core::devices(),
        "device/blk" => one_core::blk_devices(),
        "driver/blk" => one_core::blk_drivers().into_iter().map(|(name, _, make)| (name, make)).collect(),
        "scale/size" => one_core::sizes(),
        "scale/regions" => one_core::regions(),
        _ => return Err(format!("no group {group} can be counted")),
    };
    let (_, make) = all.into_iter().find(|(n, _)| n == name).ok_or_else(|| format!("no cell {name}"))?;
    make().count(batch, ops);
    Ok(())
}
