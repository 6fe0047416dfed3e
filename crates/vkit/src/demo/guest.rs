//! The bare-metal kernel, whose rows any device type may have: the same drivers without an operating system.

use super::qemu;
use super::rows::{Outcome, Work};
use crate::failure::{Failure, Result};
use crate::output;
use virtio_kit::{DeviceId, Features};
use virtio_kit_guest_runner::{Boot, Error, Kernel, Machine};

/// The machines that have rows.
pub(super) const MACHINES: [Machine; 3] = [Machine::Q35, Machine::Microvm, Machine::MicrovmLegacy];

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
