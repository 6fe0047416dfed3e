//! The bare-metal kernel, whose rows any device type may have: the same drivers without an operating system.

use super::Asked;
use super::qemu;
use super::rows::{Layout, Outcome, Row, Work};
use crate::failure::{Failure, Result};
use crate::output;
use virtio_kit::{DeviceId, Features};
use virtio_kit_guest_runner::{Boot, Error, Kernel, Machine, disk};

/// The machines that have rows.
pub(super) const MACHINES: [Machine; 3] = [Machine::Q35, Machine::Microvm, Machine::MicrovmLegacy];

/// The machines and layouts that device types other than disks have rows for. None in order: QEMU up to 10.0.2 loses
/// completions there, and only the disks' work steers clear of it.
pub(super) fn rows(asked: &Asked<'_>) -> impl Iterator<Item = (Machine, Layout)> {
    let layouts: Vec<_> = asked.layouts().filter(|layout| !layout.in_order).collect();
    MACHINES.into_iter().flat_map(move |machine| {
        let there: Vec<_> = layouts.iter().copied().filter(|&of| has(machine, of)).collect();
        there.into_iter().map(move |layout| (machine, layout))
    })
}

/// Whether devices can have a layout on a machine.
fn has(machine: Machine, layout: Layout) -> bool {
    self::layout(layout).is_some_and(|found| disk::Layout::of(machine.attach()).contains(&found))
}

/// The layout as the kernel's runner names it.
pub(super) fn layout(layout: Layout) -> Option<disk::Layout> {
    let Layout { packed, in_order } = layout;
    disk::LAYOUTS.into_iter().find(|l| (l.packed, l.in_order) == (packed, in_order))
}

/// A row of the kernel's.
pub(super) fn row(device: &'static str, machine: Machine, layout: Layout) -> Row {
    let transport = if machine.attach().is_pci() { "pci" } else { "mmio" };
    let how = format!("a kernel without an operating system on QEMU's {machine}, 2 CPUs");
    Row { device, transport, other: format!("guest {machine}"), how, layout }
}

/// Boots, and shows what the kernel did with the one device of type `id` that `boot` gives it.
pub(super) fn play(boot: &Boot, id: DeviceId) -> Result<Outcome> {
    if !qemu::is_there() {
        return Ok(Outcome::Skipped(format!("no {} on the PATH", qemu::NAME)));
    }
    let kernel = match Kernel::shared() {
        Ok(kernel) => kernel,
        Err(error @ (Error::NoSource(_) | Error::Missing(_))) => {
            return Ok(Outcome::Skipped(error.to_string()));
        }
        Err(error) => return Err(Failure::new(error)),
    };
    let verified = boot.run(kernel).map_err(Failure::new)?;
    let device = verified.devices.first().ok_or_else(|| Failure::new("the kernel had no device"))?;
    Ok(Outcome::Verified(Work {
        features: output::feature_names(Features::from_bits(device.features), id),
        bytes: device.bytes,
        requests: device.requests,
        time: device.time,
    }))
}
