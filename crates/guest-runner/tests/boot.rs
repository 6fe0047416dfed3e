//! The kernel boots on every machine, and its drivers do what they should: seen from outside.

use virtio_kit_guest_runner::disk::Layout;
use virtio_kit_guest_runner::{Boot, Error, Kernel, Machine};

/// Boots, with one CPU and with two. No QEMU is a failure: these tests are worth nothing where they do not run.
fn boots_on(machine: Machine) {
    let kernel = Kernel::shared().unwrap_or_else(|error| panic!("{error}"));
    for cpus in [1, 2] {
        match Boot::new(machine, cpus).run(kernel) {
            Ok(verified) => {
                let disks = verified.devices.iter().filter(|device| device.kind == "blk");
                assert_eq!(disks.count(), Layout::of(machine.attach()).len());
                let has = |kind| verified.devices.iter().any(|device| device.kind == kind);
                assert!(has("rng") && has("console"));
                assert_eq!(has("net"), machine != Machine::MicrovmLegacy);
            }
            Err(error @ Error::Missing(_)) => panic!("{error}. Run ./ci.sh, which installs it."),
            Err(error) => panic!("{machine} with {cpus} CPUs: {error}"),
        }
    }
}

#[test]
fn drivers_work_on_a_pc_by_msix() {
    boots_on(Machine::Q35);
}

#[test]
fn drivers_work_where_bars_lie_above_4_gib() {
    boots_on(Machine::Q35Large);
}

#[test]
fn drivers_work_on_a_pc_by_interrupt_lines_that_devices_share() {
    boots_on(Machine::Q35Lines);
}

#[test]
fn drivers_work_over_mmio_by_interrupt_lines() {
    boots_on(Machine::Microvm);
}

#[test]
fn drivers_work_over_legacy_mmio() {
    boots_on(Machine::MicrovmLegacy);
}

#[test]
fn drivers_work_over_mmio_that_only_the_command_line_names() {
    boots_on(Machine::MicrovmNoAcpi);
}

#[test]
fn drivers_work_on_a_pci_bus_that_firmware_left_alone() {
    boots_on(Machine::MicrovmPci);
}

#[test]
fn drivers_work_behind_bridges_that_firmware_left_alone() {
    boots_on(Machine::MicrovmBridges);
}

#[test]
fn a_kernel_that_reads_another_disk_than_it_should_is_noticed() {
    // The disk of another seed is attached instead: a content that the host does not expect.
    let kernel = Kernel::shared().unwrap_or_else(|error| panic!("{error}"));
    let mut boot = Boot::new(Machine::MicrovmPci, 1);
    // Nobody would answer such frames, or what comes out of such a console.
    (boot.net, boot.console) = (None, None);
    boot.arguments = ["-append", "seed=4711"].map(String::from).into();
    let error = boot.run(kernel).unwrap_err();
    assert!(matches!(&error, Error::Wrong { what, .. } if what.contains("at sector 16")), "{error}");
}

#[test]
fn a_kernel_without_disks_or_without_end_is_an_error() {
    let kernel = Kernel::shared().unwrap_or_else(|error| panic!("{error}"));
    let mut boot = Boot::new(Machine::MicrovmPci, 1);
    boot.limit = std::time::Duration::ZERO;
    assert!(matches!(boot.run(kernel), Err(Error::Timeout(..))));
    let boot = Boot::new(Machine::MicrovmPci, 1);
    let error = boot.run(&Kernel::at("/nowhere/kernel")).unwrap_err();
    assert!(matches!(&error, Error::Status(Some(1), said) if said.contains("/nowhere/kernel")), "{error}");
}
