//! Random reads over vhost-user-blk: front-ends of ours and of others, against devices of ours and of others, with
//! nothing behind the devices but zeros. Client and device have a core each.

mod client;
mod devices;

use crate::cell::{Cell, Cores, Group, Reading};

use client::{How, Ours, Plan, Theirs};
use devices::{Daemon, Kind};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use virtio_kit_peers::noise::foreign;

/// Bars of one group: a cell of ours, the peers it is compared with, and the most that its time may be of theirs.
pub(crate) type EndBars = &'static [(&'static str, &'static [&'static str], f64)];

/// What the project's device is compared with.
pub(crate) const THEIRS: &[&str] = &[
    "qemu-storage-daemon, virtio-driver",
    "qemu-storage-daemon iothread, virtio-driver",
    "vhost-user-backend, virtio-driver",
];
const QSD: &[&str] = &["qemu-storage-daemon, virtio-driver"];

/// Depth, whether the client polls, and the bars. At least so many times as fast is at most one over it of the time.
pub(crate) const BARS: &[(usize, bool, EndBars)] = &[
    (1, true, &[("vkit, ours", THEIRS, 1.0), ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97)]),
    (
        32,
        true,
        &[
            ("vkit, ours", THEIRS, 1.0 / 1.5),
            ("vkit, virtio-driver", THEIRS, 1.0 / 1.1),
            ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97),
        ],
    ),
    (
        128,
        true,
        &[
            ("vkit, ours", THEIRS, 1.0 / 1.5),
            ("vkit, virtio-driver", THEIRS, 1.0 / 1.1),
            ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97),
        ],
    ),
    (
        1,
        false,
        &[
            ("vkit, ours", THEIRS, 1.0),
            ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97),
            ("qemu-storage-daemon, ours adaptive", QSD, 1.0 / 1.5),
        ],
    ),
    (32, false, &[("vkit, ours", THEIRS, 1.0 / 1.5), ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97)]),
    (128, false, &[("vkit, ours", THEIRS, 1.0 / 1.1), ("qemu-storage-daemon, ours", QSD, 1.0 / 0.97)]),
];

/// Devices that run, each started when it is first needed.
#[derive(Default)]
struct Running(RefCell<Vec<(Kind, Rc<Daemon>)>>);

impl Running {
    fn get(&self, kind: Kind, core: usize) -> Result<Rc<Daemon>, String> {
        let mut all = self.0.borrow_mut();
        if let Some((_, daemon)) = all.iter().find(|(k, _)| *k == kind) {
            return Ok(daemon.clone());
        }
        let daemon = Rc::new(Daemon::start(kind, core)?);
        all.push((kind, daemon.clone()));
        Ok(daemon)
    }
}

/// The groups: each mode and depth.
pub(crate) fn groups(cores: Cores) -> Vec<Group> {
    let running = Rc::new(Running::default());
    let mut all = Vec::new();
    for poll in [false, true] {
        for depth in [1, 32, 128] {
            let how = if poll { "polled" } else { "blocking" };
            all.push(Group {
                id: format!("vhost-user/{how}/{depth}"),
                title: format!("vhost-user-blk, reads of 4 KiB, {how}, depth {depth}"),
                crosses: true,
                cells: cells(cores, poll, depth, &running),
            });
        }
    }
    all
}

fn cells(cores: Cores, poll: bool, depth: usize, running: &Rc<Running>) -> Vec<Cell> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for client in ["virtio-driver", "ours", "ours adaptive"] {
            let adaptive = client == "ours adaptive";
            if adaptive && poll {
                continue;
            }
            let how = match (poll, adaptive) {
                (true, _) => How::Poll,
                (false, false) => How::Sleep,
                (false, true) => How::Adaptive(Duration::from_micros(100)),
            };
            let running = running.clone();
            let run = move || {
                let daemon = running.get(kind, cores[0])?;
                let plan = Plan { depth, how, ..Plan::default() };
                one(&daemon, client == "virtio-driver", &plan, cores)
            };
            let of_ours = if kind == Kind::Vkit { "virtio-kit vkit" } else { kind.name() };
            // Cells with something of ours are named as such.
            let name = match (kind, client) {
                (Kind::Vkit, _) | (_, "virtio-driver") => format!("{of_ours}, {client}"),
                _ => format!("virtio-kit {of_ours}, {client}"),
            };
            all.push(Cell { name, counting: None, run: Box::new(run) });
        }
    }
    all
}

fn one(daemon: &Daemon, theirs: bool, plan: &Plan, cores: Cores) -> Result<Reading, String> {
    virtio_kit_bench::two_cores::pin(cores[1]);
    let pids = [daemon.pid()];
    let (outcome, foreign) = foreign(&pids, || {
        // A connection of its own for each run: where rings and buffers happen to be matters.
        if theirs {
            client::run(&mut Theirs::new(daemon.socket(), plan)?, plan, pids[0])
        } else {
            client::run(&mut Ours::new(daemon.socket(), plan)?, plan, pids[0])
        }
    });
    // Two ticks of the machine's clock of 10 ms may be anybody's.
    Ok(Reading { values: outcome?, lost: (foreign - 0.05).max(0.0) })
}
