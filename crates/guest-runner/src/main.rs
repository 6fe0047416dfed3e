//! `cargo guest`: builds the bare-metal kernel, boots it on every machine, and checks what it did.
#![forbid(unsafe_code)]

use clap::Parser;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use virtio_kit_guest_runner::run::{self, Compared};
use virtio_kit_guest_runner::{Boot, Error, Kernel, Machine};

/// Builds the bare-metal kernel in guest/, boots it in QEMU, and checks from outside what its drivers did.
#[derive(Parser)]
#[command(name = "cargo guest", version, max_term_width = 110)]
struct Cli {
    /// Only on this machine; may be given more than once
    #[arg(long, value_parser = PossibleValuesParser::new(Machine::ALL.map(Machine::name)))]
    machine: Vec<String>,
    /// Only with this many CPUs; may be given more than once [default: 1 and 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    cpus: Vec<u8>,
    /// Boot this kernel, and build none
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Instead, count the instructions of a block request, beside those of the crate virtio-drivers
    #[arg(long, conflicts_with_all = ["machine", "cpus", "kernel", "serial", "seed"])]
    compare: bool,
    /// Show all that the kernel says
    #[arg(long)]
    serial: bool,
    /// What disks contain: another number, another content
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// How long a boot may take
    #[arg(long, value_name = "S", default_value = "60")]
    seconds: u64,
    /// More arguments for QEMU
    #[arg(last = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    match work(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo guest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all boots went well.
fn work(cli: &Cli) -> Result<bool, Error> {
    if cli.compare {
        return compare(Duration::from_secs(cli.seconds));
    }
    let kernel = match &cli.kernel {
        Some(path) => Kernel::at(path),
        None => Kernel::build()?,
    };
    let mut machines: Vec<Machine> = cli.machine.iter().filter_map(|name| Machine::named(name)).collect();
    if machines.is_empty() {
        machines = Machine::ALL.into();
    }
    let cpus = if cli.cpus.is_empty() { &[1, 2][..] } else { &cli.cpus };
    let mut good = true;
    for machine in machines {
        for &cpus in cpus {
            let boot = Boot {
                seed: cli.seed,
                limit: Duration::from_secs(cli.seconds),
                arguments: cli.arguments.clone(),
                ..Boot::new(machine, cpus)
            };
            let title = format!("{machine}, {cpus} CPU{}", if cpus == 1 { "" } else { "s" });
            match boot.run(&kernel) {
                Ok(verified) => {
                    println!("{title}: verified in {:.2} s", verified.time.as_secs_f64());
                    verified.devices.iter().for_each(|device| println!("    {device}"));
                    if cli.serial {
                        print!("{}", verified.said);
                    }
                }
                Err(error @ (Error::Missing(_) | Error::NoSource(_))) => return Err(error),
                Err(error) => {
                    good = false;
                    println!("{title}: FAILED: {error}");
                }
            }
        }
    }
    Ok(good)
}

fn compare(limit: Duration) -> Result<bool, Error> {
    println!("instructions of a read of 512 bytes, adding, notifying and taking the answer, polled:");
    for compared in run::compare(&Kernel::build_with(&["compare"])?, limit)? {
        let Compared { depth, ours, theirs } = compared;
        let percent = ours * 100 / theirs.max(1);
        println!("    {depth:>2} in flight: {ours}, and virtio-drivers {theirs} ({percent} %)");
    }
    Ok(true)
}
