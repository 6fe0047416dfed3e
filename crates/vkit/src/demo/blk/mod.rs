//! Block devices: a file is written through the driver and looked at, changed and read through the driver.

mod plan;
mod work;

use super::content::Content;
use super::daemon::{self, Daemon};
use super::rows::{Layout, Outcome, Row, Work};
use super::{Act, Asked, Demo, Stage, bus, guest, qemu};
use crate::cli::TransportKind;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::blk::{Disk, Storage};
use crate::target::qtest::Qtest;
use crate::target::{InProcess, Local, Target};
use crate::units::size;
use std::fs::File;
use std::sync::Arc;
use virtio_kit::DeviceId;
use virtio_kit_drivers::blk::BlkDriver;
use virtio_kit_guest_runner::Machine;
use virtio_kit_guest_runner::{Boot, disk};

pub(super) const DEMO: Demo = Demo { device: "blk", rows, work };

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// The device in this process, run by the driver's thread or by one of its own.
    InProcess { threads: bool },
    /// qemu-storage-daemon with so many queues.
    StorageDaemon { queues: u16 },
    /// A device of QEMU's without a guest, of this name and with so many queues.
    Qtest { device: &'static str, legacy: bool, queues: u16 },
    /// The same driver in a kernel of its own.
    Guest(Machine),
}

/// A row of this device type.
struct BlkAct {
    other: Other,
    layout: Layout,
}

fn rows(asked: &Asked<'_>) -> Vec<Box<dyn Act>> {
    let mut rows: Vec<Box<dyn Act>> = Vec::new();
    let mut add = |other, layout| rows.push(Box::new(BlkAct { other, layout }));
    if asked.transport(TransportKind::InProcess) {
        // Both ways of running the device are shown, each in both layouts.
        asked.layouts().for_each(|layout| add(Other::InProcess { threads: layout.in_order }, layout));
    }
    if asked.transport(TransportKind::VhostUser) {
        for layout in asked.layouts() {
            add(Other::StorageDaemon { queues: 1 }, layout);
            // What one queue is not offered four are not either.
            if layout == Layout::ALL[0] {
                add(Other::StorageDaemon { queues: 4 }, layout);
            }
        }
    }
    if asked.transport(TransportKind::Qtest) {
        let (pci, mmio) = ("virtio-blk-pci", "virtio-blk-device");
        for layout in asked.layouts() {
            // What an in-order queue of QEMU's loses is for one queue to show; see `Host::one_at_a_time`.
            let queues = if layout.in_order { 1 } else { 4 };
            add(Other::Qtest { device: pci, legacy: false, queues }, layout);
        }
        for layout in asked.layouts().filter(|layout| !layout.in_order) {
            add(Other::Qtest { device: mmio, legacy: false, queues: 1 }, layout);
            if layout == Layout::ALL[0] {
                add(Other::Qtest { device: mmio, legacy: true, queues: 1 }, layout);
            }
        }
    }
    if asked.transport(TransportKind::Guest) {
        for machine in guest::MACHINES {
            let there = disk::Layout::of(machine.attach());
            let of = |l: Layout| there.iter().any(|t| (t.packed, t.in_order) == (l.packed, l.in_order));
            asked
                .layouts()
                .filter(|&layout| of(layout))
                .for_each(|layout| add(Other::Guest(machine), layout));
        }
    }
    rows
}

fn work(stage: &Stage) -> Vec<String> {
    let (size, depth) = (size(stage.size), work::WANT.depth);
    vec![
        format!(
            "{size} written in random order at depth {depth}, flushed, and the backing file hashed (SHA-256);"
        ),
        "then the file changed behind the device, read back through the driver and hashed;".into(),
        "times include making and hashing the content".into(),
    ]
}

impl Act for BlkAct {
    fn row(&self) -> Row {
        let (transport, other, how) = match self.other {
            Other::InProcess { threads: false } => {
                ("in-process", "in-process, 1 thread".into(), "device on the driver's thread".into())
            }
            Other::InProcess { threads: true } => {
                ("in-process", "in-process, 2 threads".into(), "device on a thread of its own".into())
            }
            Other::StorageDaemon { queues } => {
                let queues = format!("{queues} {}", if queues == 1 { "queue" } else { "queues" });
                ("vhost-user", format!("vhost-user, {queues}"), format!("qemu-storage-daemon, {queues}"))
            }
            Other::Qtest { device, legacy, queues } => {
                let (transport, bus) = match (device, legacy) {
                    ("virtio-blk-pci", _) => ("pci", "pci"),
                    (_, false) => ("mmio", "mmio"),
                    (_, true) => ("mmio", "mmio v1"),
                };
                let queues = format!("{queues} {}", if queues == 1 { "queue" } else { "queues" });
                let depth = if self.layout.in_order { ", one request at a time" } else { "" };
                (transport, format!("qtest {bus}, {queues}"), format!("QEMU's {device}, {queues}{depth}"))
            }
            Other::Guest(machine) => return guest::row("blk", machine, self.layout),
        };
        Row { device: "blk", transport, other, how, layout: self.layout }
    }

    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome> {
        // Empty for every row, so that nothing can be verified that another row has written.
        let created = File::create(&stage.file).and_then(|file| file.set_len(stage.size));
        created.map_err(|error| Failure::file(&stage.file, &error))?;
        match self.other {
            Other::InProcess { threads } => {
                let storage = Storage::Image(stage.file.clone());
                let local = Local::new(DeviceId::BLOCK, Disk::new(storage));
                let device = InProcess { local, ring: self.layout, threads };
                self.drive(&Target::InProcess(device), stage, number)
            }
            Other::StorageDaemon { queues } => {
                let Some(program) = &stage.daemon else {
                    return Ok(Outcome::Skipped(format!("no {} on the PATH", daemon::NAME)));
                };
                let mut daemon = Daemon::start(program, &stage.file, &stage.socket, queues)?;
                let outcome = self.drive(&Target::VhostUser(stage.socket.clone()), stage, number);
                outcome.map_err(|failure| match daemon.complaint() {
                    Some(complaint) => failure.after(complaint),
                    None => failure,
                })
            }
            Other::Qtest { device, legacy, queues } => {
                if !qemu::is_there() {
                    return Ok(Outcome::Skipped(format!("no {} on the PATH", qemu::NAME)));
                }
                let Layout { packed, in_order } = self.layout;
                let on = |yes| if yes { "on" } else { "off" };
                let device = Qtest::new(device, legacy).over(stage.file.clone());
                let device = device.with("packed", on(packed)).with("in_order", on(in_order));
                self.drive(&Target::Qtest(device.with("num-queues", queues)), stage, number)
            }
            Other::Guest(machine) => {
                let disks = guest::layout(self.layout).into_iter().collect();
                let folder = stage.folder.clone();
                let boot = Boot { seed: number, disks, folder, ..Boot::bare(machine, 2) };
                guest::play(&boot, DeviceId::BLOCK)
            }
        }
    }
}

/// Opens a target and has the block driver take it.
fn take(target: &Target) -> Result<bus::Taken<work::Device>> {
    let want = &work::WANT;
    bus::take(target, DeviceId::BLOCK, want.memory(), |give| Arc::new(BlkDriver::new(want.options(), give)))
}

impl BlkAct {
    fn drive(&self, target: &Target, stage: &Stage, number: u64) -> Result<Outcome> {
        let mut taken = take(target)?;
        let features = taken.device.features;
        let layout = Layout::of(features);
        if layout != self.layout {
            return match self.other {
                Other::StorageDaemon { .. } => {
                    Ok(Outcome::Skipped(format!("not offered by {}", daemon::NAME)))
                }
                _ => Err(Failure::new(format_args!("{layout} was negotiated"))),
            };
        }
        let (first, second) = (Content::Seed(2 * number + 1), Content::Seed(2 * number + 2));
        let job = work::Job {
            file: &stage.file,
            size: stage.size,
            first: stage.image.as_ref().unwrap_or(&first),
            second: &second,
            seed: number,
            want: work::WANT.within(taken.host()),
            features,
            bar: &stage.bar,
        };
        let spent = work::run(&mut taken.device.queues, &job)?;
        Ok(Outcome::Verified(Work {
            features: output::feature_names(features, DeviceId::BLOCK),
            bytes: spent.bytes,
            requests: spent.requests,
            time: spent.time,
        }))
    }
}
