//! Network devices: two drivers across the switch, by TCP and by test frames; QEMU's, whose other end is here; and the
//! kernel's.

mod frames;
mod qtest;
mod station;
mod tcp;

use super::rows::{Layout, Outcome, Row};
use super::{Act, Asked, Demo, Stage, guest};
use crate::cli::TransportKind;
use crate::failure::{Failure, Result};
use crate::units::{size, thousands};
use virtio_kit::{DeviceId, Features};
use virtio_kit_guest_runner::machine::{Attach, Machine};
use virtio_kit_guest_runner::{Boot, disk};

pub(super) const DEMO: Demo = Demo { device: "net", rows, work };

/// Bytes of the demo's size for each test frame.
const PER_FRAME: u64 = 256;

/// What is done, and who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// TCP between two drivers across the switch.
    Tcp { offloads: bool },
    /// Test frames from one driver to another across the switch, which cuts them or does not.
    Frames { cut: bool },
    /// Test frames through QEMU's device to a socket, and back.
    Qtest,
    /// The same driver in a kernel of its own.
    Guest(Machine),
}

/// A row of this device type.
struct NetAct {
    other: Other,
    /// Devices on threads of their own.
    threads: bool,
    layout: Layout,
}

fn rows(asked: &Asked<'_>) -> Vec<Box<dyn Act>> {
    let mut rows: Vec<Box<dyn Act>> = Vec::new();
    let mut add = |other, layout: Layout| {
        let threads = layout.in_order;
        rows.push(Box::new(NetAct { other, threads, layout }));
    };
    if asked.transport(TransportKind::InProcess) {
        for layout in asked.layouts() {
            // All of it in both layouts; in order each half.
            let both = !layout.in_order;
            for offloads in [false, true] {
                if both || offloads != layout.packed {
                    add(Other::Tcp { offloads }, layout);
                }
            }
            add(Other::Frames { cut: !both }, layout);
        }
    }
    if asked.transport(TransportKind::Qtest) {
        // What an in-order queue of QEMU's loses; see `Host::one_at_a_time`.
        asked.layouts().filter(|layout| !layout.in_order).for_each(|layout| add(Other::Qtest, layout));
    }
    if asked.transport(TransportKind::Guest) {
        for machine in guest::MACHINES.into_iter().filter(|machine| machine.attach() != Attach::MmioLegacy) {
            asked
                .layouts()
                .filter(|layout| !layout.in_order)
                .for_each(|layout| add(Other::Guest(machine), layout));
        }
    }
    rows
}

/// Bytes by TCP of a row. All layouts have them, and not all of them all.
fn bytes_of(stage: &Stage, layout: Layout) -> u64 {
    if layout.in_order { stage.size / 4 } else { stage.size }
}

/// Test frames, or packets that they are cut into, of a row.
fn frames_of(stage: &Stage, layout: Layout) -> u64 {
    (bytes_of(stage, layout) / PER_FRAME).max(1000)
}

fn work(stage: &Stage) -> Vec<String> {
    let plain = Layout::default();
    let (size, frames) = (size(stage.size), frames_of(stage, plain));
    let (through, frames) = (thousands(qtest::frames_through(stage)), thousands(frames));
    vec![
        format!("TCP: {size} by smoltcp between two drivers across the switch, the same SHA-256 at both ends; with"),
        "offloads no checksum is computed and 64 KiB go in one frame; frames: each with a number and a CRC-32,".into(),
        format!("{frames} of them in order, none lost; cut: as TCP frames of up to 64 KiB, of which the receiver's port"),
        "cuts packets and completes checksums, since its driver takes neither;".into(),
        format!("in order a quarter of that; QEMU: {through} frames to a socket here, looked at, and sent back"),
    ]
}

impl Act for NetAct {
    fn row(&self) -> Row {
        let (transport, other, how) = match self.other {
            Other::Tcp { offloads } => (
                "in-process",
                if offloads { "switch, TCP, offloads" } else { "switch, TCP" },
                "TCP between two drivers across a switch",
            ),
            Other::Frames { cut } => (
                "in-process",
                if cut { "switch, frames, cut" } else { "switch, frames" },
                "test frames from one driver to another across a switch",
            ),
            Other::Qtest => {
                ("pci", "QEMU virtio-net-pci", "QEMU's device without a guest, and a socket behind it")
            }
            Other::Guest(machine) => {
                let transport = if machine.attach() == Attach::Pci { "pci" } else { "mmio" };
                return Row {
                    device: "net",
                    transport,
                    other: format!("kernel, {machine}"),
                    how: "a kernel without an operating system, whose frames are looked at and answered"
                        .into(),
                    layout: self.layout,
                };
            }
        };
        let threads = match (self.other, self.threads) {
            (Other::Qtest, _) => "",
            (_, true) => ", each queue of the devices on a thread of its own",
            (_, false) => ", devices on the drivers' threads",
        };
        let how = format!("{how}{threads}");
        Row { device: "net", transport, other: other.into(), how, layout: self.layout }
    }

    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome> {
        match self.other {
            Other::Tcp { offloads } => tcp::play(stage, self.layout, self.threads, offloads, number),
            Other::Frames { cut } => frames::play(stage, self.layout, self.threads, cut),
            Other::Qtest => qtest::play(stage, self.layout),
            Other::Guest(machine) => {
                let Layout { packed, in_order } = self.layout;
                let net = disk::LAYOUTS.into_iter().find(|l| (l.packed, l.in_order) == (packed, in_order));
                let folder = stage.folder.clone();
                guest::play(
                    &Boot { seed: number, disks: vec![], rng: None, net, folder, ..Boot::new(machine, 1) },
                    DeviceId::NETWORK,
                )
            }
        }
    }
}

/// Fails if another layout than that of the row was agreed on.
fn check_layout(features: Features, layout: Layout) -> Result<()> {
    match Layout::of(features) {
        negotiated if negotiated == layout => Ok(()),
        negotiated => Err(Failure::new(format_args!("{negotiated} was negotiated"))),
    }
}
