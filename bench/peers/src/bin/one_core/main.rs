//! What one end of a ring costs on one core, beside the other end in its cheapest correct form.
//!
//! A program of its own, so that the peers' code is inlined here as in any program that uses nothing else of them.
//! `list` prints the cells: group, the largest batch, and name; `count GROUP NAME BATCH OPS` runs one, and `time CORE
//! GROUP NAME BATCH OPS` times it.

mod ours;
mod ours_blk;
mod virtio_driver;
mod virtio_drivers;
mod virtio_queue;

use ours::{Buffers, Work};
use std::process::ExitCode;
use std::time::Instant;
use virtio_kit_bench::two_cores::pin;
use virtio_kit_peers::clock::ticks;
use virtio_kit_peers::noise::{Whose, lost};
use virtio_kit_peers::times::Times;

/// One end under test with its other end. A batch is at most what the ring has room for.
trait Bench {
    fn submit(&mut self, n: usize);
    fn device(&mut self, n: usize);
    fn reap(&mut self, n: usize);
    /// What handling the bench's own buffers costs, where there are any; it is contained in submit and reap.
    fn pool(&mut self, _: usize) {}
}

// Kept out of line so that callgrind can tell the parts apart by name.
#[inline(never)]
fn part_submit<B: Bench>(bench: &mut B, n: usize) {
    bench.submit(n);
}

#[inline(never)]
fn part_device<B: Bench>(bench: &mut B, n: usize) {
    bench.device(n);
}

#[inline(never)]
fn part_reap<B: Bench>(bench: &mut B, n: usize) {
    bench.reap(n);
}

#[inline(never)]
fn part_pool<B: Bench>(bench: &mut B, n: usize) {
    bench.pool(n);
}

/// A bench that can be run, whatever it is.
trait Case {
    fn time(&mut self, batch: usize, ops: usize) -> Times;
    /// Runs so many operations, and nothing else that is worth counting.
    fn count(&mut self, batch: usize, ops: usize);
}

impl<B: Bench> Case for B {
    fn time(&mut self, batch: usize, ops: usize) -> Times {
        let turns = ops / batch;
        let mut parts = [0; 3];
        let (began, from) = (Instant::now(), ticks());
        if batch == 1 {
            for _ in 0..turns {
                part_submit(self, 1);
                part_device(self, 1);
                part_reap(self, 1);
            }
        } else {
            for _ in 0..turns {
                let start = ticks();
                part_submit(self, batch);
                let submitted = ticks();
                part_device(self, batch);
                let answered = ticks();
                part_reap(self, batch);
                let reaped = ticks();
                parts[0] += submitted - start;
                parts[1] += answered - submitted;
                parts[2] += reaped - answered;
            }
        }
        let (ticks, ns) = (ticks() - from, began.elapsed().as_nanos() as f64);
        let count = (turns * batch) as f64;
        let parts = parts.map(|part| part as f64 * ns / ticks as f64 / count);
        Times { total: ns / count, parts, lost: 0.0 }
    }

    fn count(&mut self, batch: usize, ops: usize) {
        for _ in 0..ops / batch {
            part_submit(self, batch);
            part_device(self, batch);
            part_reap(self, batch);
        }
        for _ in 0..ops / batch {
            part_pool(self, batch);
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("one_core: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), String> {
    let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{text}: {e}"));
    match *args {
        ["list"] => {
            for group in GROUPS {
                for (name, batch, _) in cells(group)? {
                    println!("{group}\t{batch}\t{name}");
                }
            }
            Ok(())
        }
        ["count", group, name, batch, ops] => {
            find(group, name)?.count(number(batch)?, number(ops)?);
            Ok(())
        }
        ["time", core, group, name, batch, ops] => {
            pin(number(core)?);
            let (batch, ops) = (number(batch)?, number(ops)?);
            let mut case = find(group, name)?;
            case.time(batch, ops / 8);
            let (times, lost) = lost(Whose::Thread, 1.0, || case.time(batch, ops));
            println!("{}", Times { lost, ..times });
            Ok(())
        }
        _ => Err("one of: list; count GROUP NAME BATCH OPS; time CORE GROUP NAME BATCH OPS".into()),
    }
}

fn find(group: &str, name: &str) -> Result<Box<dyn Case>, String> {
    let found = cells(group)?.into_iter().find(|(n, ..)| n == name);
    found.map(|(_, _, make)| make()).ok_or_else(|| format!("no cell {name} in {group}"))
}

const GROUPS: [&str; 6] =
    ["driver", "device/walk", "device/blk", "driver/blk", "scale/size", "scale/regions"];

/// The cells of a group: names, the largest batch, how they are made.
fn cells(group: &str) -> Result<Vec<(String, usize, Make)>, String> {
    let all = |batch: usize, cells: Vec<(String, Make)>| {
        cells.into_iter().map(|(name, make)| (name, batch, make)).collect()
    };
    Ok(match group {
        "driver" => all(32, drivers()),
        "device/walk" => all(32, devices()),
        "device/blk" => all(32, blk_devices()),
        "driver/blk" => blk_drivers(),
        "scale/size" => all(8, sizes()),
        "scale/regions" => all(32, regions()),
        _ => return Err(format!("no group {group}")),
    })
}

/// How a case is made, each time anew.
type Make = Box<dyn Fn() -> Box<dyn Case>>;

fn make<B: Bench + 'static>(make: impl Fn() -> B + 'static) -> Make {
    Box::new(move || Box::new(make()))
}

/// A chain of a block read: header, data, status, as lengths and whether the device writes them.
const THREE: [(usize, bool); 3] = [(16, false), (4096, true), (1, true)];

/// The project's layouts.
const LAYOUTS: [(&str, bool, bool); 4] = [
    ("split", false, false),
    ("split in-order", false, true),
    ("packed", true, false),
    ("packed in-order", true, true),
];

/// Drivers of chains of 3: their names, and how they are made. Linux's own is a program of its own.
fn drivers() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for (layout, packed, in_order) in LAYOUTS {
        all.push((format!("virtio-kit {layout}"), make(move || ours::Driver::new(packed, in_order, 256))));
    }
    for (layout, packed) in [("split", false), ("packed", true)] {
        all.push((
            format!("virtio-driver {layout}"),
            make(move || virtio_driver::Queue::new(&THREE, packed)),
        ));
    }
    all.push(("virtio-drivers split".into(), make(virtio_drivers::Queue::new)));
    all
}

/// Devices that take, walk and complete chains of 3. `virtio-queue walk` looks at descriptors only; `slices` finds the
/// memory of each too, as the project's always do.
fn devices() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for (layout, packed, in_order) in LAYOUTS {
        all.push((
            format!("virtio-kit {layout}"),
            make(move || ours::Device::<false>::new(packed, in_order, Work::Walk, 256, 1, Buffers::Together)),
        ));
    }
    for (name, how) in [("walk", virtio_queue::How::Walk), ("slices", virtio_queue::How::Slices)] {
        all.push((format!("virtio-queue {name}"), make(move || virtio_queue::Device::new(how))));
    }
    all
}

/// Devices that parse block reads: header, data, status. `service` is the project's whole block device.
fn blk_devices() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for (layout, packed, in_order) in LAYOUTS {
        all.push((
            format!("virtio-kit {layout}"),
            make(move || ours::Device::<true>::new(packed, in_order, Work::Blk, 256, 1, Buffers::Together)),
        ));
    }
    for (layout, packed, in_order) in LAYOUTS {
        all.push((
            format!("virtio-kit service, {layout}"),
            make(move || ours_blk::Device::new(packed, in_order)),
        ));
    }
    all.push(("virtio-queue split".into(), make(|| virtio_queue::Device::new(virtio_queue::How::Blk))));
    all
}

/// Block drivers, reads of 4 KiB, with how many requests they take at once.
fn blk_drivers() -> Vec<(String, usize, Make)> {
    let mut all: Vec<(String, usize, Make)> = Vec::new();
    for (layout, packed, in_order) in LAYOUTS {
        all.push((format!("virtio-kit {layout}"), 32, make(move || ours_blk::Driver::new(packed, in_order))));
    }
    for (layout, packed) in [("split", false), ("packed", true)] {
        all.push((format!("virtio-driver {layout}"), 32, make(move || virtio_driver::Blk::new(packed))));
    }
    all.push(("virtio-drivers split".into(), 5, make(|| virtio_drivers::Blk::new(false))));
    all.push(("virtio-drivers split, indirect".into(), 16, make(|| virtio_drivers::Blk::new(true))));
    all
}

/// Rings of different sizes, chains of one buffer: driver's and device's end.
fn sizes() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for (layout, packed, in_order) in LAYOUTS {
        for size in [8, 64, 512, 4096, 32768] {
            all.push((
                format!("driver, {layout}, {size}"),
                make(move || ours::One::new(packed, in_order, size)),
            ));
        }
    }
    for (layout, packed, in_order) in LAYOUTS {
        for size in [8, 64, 512, 4096, 32768] {
            all.push((
                format!("device, {layout}, {size}"),
                make(move || {
                    ours::Device::<false>::new(packed, in_order, Work::One, size, 1, Buffers::Together)
                }),
            ));
        }
    }
    all
}

/// A device whose driver has memory in several regions: the buffers of one all in the same, and of the other each in
/// another one than the one before.
fn regions() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for (name, buffers) in [("same region", Buffers::Together), ("another region each", Buffers::Apart)] {
        for count in [1, 4, 16, 64, 256, 1024, 4096] {
            if (count, buffers) != (1, Buffers::Apart) {
                all.push((
                    format!("{name}, {count}"),
                    make(move || ours::Device::<false>::new(false, false, Work::Walk, 256, count, buffers)),
                ));
            }
        }
    }
    all
}
