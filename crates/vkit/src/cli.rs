//! The command line's shape.

use crate::net::frames::{LONGEST, SHORTEST};
use crate::target::{self, TYPES, Target, Type};
use crate::units;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Drive virtio devices: the same drivers over every transport.
#[derive(Debug, Parser)]
#[command(name = "vkit", version, after_help = target::help(), max_term_width = 110, infer_subcommands = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every driver over every transport here, in each layout, and verify the work from the other end
    Demo(DemoArgs),
    /// Show what a device is: type, features, queues, configuration
    Info(InfoArgs),
    /// Use a block device
    #[command(subcommand)]
    Blk(BlkCommand),
    /// Use a network device
    #[command(subcommand)]
    Net(NetCommand),
    /// Serve devices to other processes over vhost-user
    #[command(subcommand)]
    Serve(crate::serve::ServeCommand),
    /// Talk to a port of a console
    Console(ConsoleArgs),
    /// Print random bytes of an entropy device
    Rng(RngArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Only over this transport; may be given more than once
    #[arg(long, value_enum)]
    pub(crate) transport: Vec<TransportKind>,
    /// Only this device; may be given more than once
    #[arg(long, value_name = "TYPE", value_parser = device())]
    pub(crate) device: Vec<&'static Type>,
    /// Only this ring layout
    #[arg(long, value_enum, default_value_t = LayoutChoice::Both)]
    pub(crate) layout: LayoutChoice,
    /// How much to write and to read in each row
    #[arg(long, value_name = "BYTES", value_parser = units::some_sectors, default_value = "256M")]
    pub(crate) size: u64,
    /// Write what is in this file, instead of content made up; the file itself is only read
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    pub(crate) image: Option<PathBuf>,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportKind {
    /// Driver and device in this process
    InProcess,
    /// Another process, over a Unix socket: qemu-storage-daemon, if it is on the PATH
    VhostUser,
    /// QEMU's devices without a guest, by PCI and MMIO: qemu-system-x86_64, if it is on the PATH
    Qtest,
    /// The bare-metal kernel in guest/, with the same drivers, booted in QEMU; it is built if there is a cargo
    Guest,
}

/// A device type by its name.
fn device() -> impl TypedValueParser<Value = &'static Type> {
    PossibleValuesParser::new(TYPES.iter().map(|kind| kind.name)).try_map(|name| Type::named(&name))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutChoice {
    Split,
    Packed,
    Both,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct InfoArgs {
    /// The device
    pub(crate) target: Target,
    /// What it is taken for, if nobody can ask it: a vhost-user back-end
    #[arg(long, value_name = "TYPE", value_parser = device())]
    pub(crate) device: Option<&'static Type>,
    /// As a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = console_help())]
pub(crate) struct ConsoleArgs {
    /// The device
    pub(crate) target: Target,
    /// Which port, by its number or its name [default: the first console, or else the first port]
    #[arg(long, value_name = "PORT", conflicts_with = "list")]
    pub(crate) port: Option<String>,
    /// Show which ports there are
    #[arg(long)]
    pub(crate) list: bool,
    /// How long to wait for answers, and for each further one, once the input has ended
    #[arg(long, value_name = "S", value_parser = units::seconds, default_value = "1")]
    pub(crate) linger: Duration,
}

fn console_help() -> String {
    let keys = "On a terminal every key goes to the port but these:
  Ctrl-] q       ends
  Ctrl-] Ctrl-]  sends one Ctrl-]
In a pipe everything goes as it is.";
    format!("{keys}\n\n{}", target::help())
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Ask a station whether it is there, by ARP and ICMP; on a loop, send test frames round
    Ping(PingArgs),
    /// Measure speed, with test frames that somebody at the other end sends back
    Bench(NetBenchArgs),
}

/// Who asks, and who is asked. The defaults are those of QEMU's user network.
#[derive(Debug, Args)]
pub(crate) struct Addresses {
    /// The station at the other end
    #[arg(long, value_name = "ADDRESS", default_value = "10.0.2.2")]
    pub(crate) to: Ipv4Addr,
    /// The address that this end has
    #[arg(long, value_name = "ADDRESS", default_value = "10.0.2.15")]
    pub(crate) from: Ipv4Addr,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct PingArgs {
    /// The device
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) addresses: Addresses,
    /// How many times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), default_value = "5")]
    pub(crate) count: u64,
    /// Bytes of data in each
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(16..=65_000), default_value = "56")]
    pub(crate) size: u16,
    /// Seconds from one to the next; with 0 the next goes when the last is back
    #[arg(long, value_name = "S", value_parser = units::seconds_or_none, default_value = "0.2")]
    pub(crate) interval: Duration,
    /// How long to wait for each
    #[arg(long, value_name = "S", value_parser = units::seconds, default_value = "1")]
    pub(crate) timeout: Duration,
    /// As a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct NetBenchArgs {
    /// The device
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) addresses: Addresses,
    /// Bytes of a frame: 60 to the longest that the device takes, or with --offloads 70 to 65549
    #[arg(long, value_name = "BYTES", value_parser = frame_size, default_value = "1514")]
    pub(crate) size: u64,
    /// Frames under way on each pair of queues
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "64")]
    pub(crate) depth: u16,
    /// Pairs of queues, each with a thread of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "1")]
    pub(crate) pairs: u16,
    /// For how long
    #[arg(long, value_name = "S", value_parser = units::seconds, default_value = "3", conflicts_with = "count")]
    pub(crate) seconds: Duration,
    /// So many frames, however long it takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Leave checksums to the device, and cutting of frames that are longer than a packet
    #[arg(long)]
    pub(crate) offloads: bool,
    /// Only send: nobody need send frames back
    #[arg(long)]
    pub(crate) one_way: bool,
    /// Look for frames all the time, and never sleep
    #[arg(long)]
    pub(crate) poll: bool,
    /// As a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn frame_size(text: &str) -> Result<u64, String> {
    match units::bytes(text)? {
        bytes if (SHORTEST as u64..=LONGEST as u64).contains(&bytes) => Ok(bytes),
        _ => Err(format!("write a number from {SHORTEST} to {LONGEST}")),
    }
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct RngArgs {
    /// The device
    pub(crate) target: Target,
    /// How many bytes
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "32")]
    pub(crate) length: u64,
    /// As hexadecimal digits, 32 bytes to a line
    #[arg(long)]
    pub(crate) hex: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlkCommand {
    /// Copy from the device to a file
    Read(ReadArgs),
    /// Copy from a file to the device, and flush
    Write(WriteArgs),
    /// Make all completed writes durable
    Flush(FlushArgs),
    /// Give a range up: what it reads as afterwards is up to the device
    Discard(RangeArgs),
    /// Make a range read as zeros
    Zero(RangeArgs),
    /// Measure speed. Writing overwrites the device
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct ReadArgs {
    /// The device
    pub(crate) target: Target,
    /// First byte, a multiple of 512
    #[arg(long, value_name = "BYTES", value_parser = units::sectors, default_value = "0")]
    pub(crate) offset: u64,
    /// How many bytes, a multiple of 512 [default: to the end]
    #[arg(long, value_name = "BYTES", value_parser = units::some_sectors)]
    pub(crate) length: Option<u64>,
    /// Where to; `-` is standard output. Called FILE.partial until it is complete
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct WriteArgs {
    /// The device
    pub(crate) target: Target,
    /// First byte, a multiple of 512
    #[arg(long, value_name = "BYTES", value_parser = units::sectors, default_value = "0")]
    pub(crate) offset: u64,
    /// How many bytes, a multiple of 512 [default: to the input's end]
    #[arg(long, value_name = "BYTES", value_parser = units::some_sectors)]
    pub(crate) length: Option<u64>,
    /// Where from; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct FlushArgs {
    /// The device
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct RangeArgs {
    /// The device
    pub(crate) target: Target,
    /// First byte, a multiple of 512
    #[arg(long, value_name = "BYTES", value_parser = units::sectors, default_value = "0")]
    pub(crate) offset: u64,
    /// How many bytes, a multiple of 512 [default: to the end]
    #[arg(long, value_name = "BYTES", value_parser = units::some_sectors)]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = target::help())]
pub(crate) struct BenchArgs {
    /// The device
    pub(crate) target: Target,
    /// Kind of access
    #[arg(long, value_enum, default_value_t = Access::Randread)]
    pub(crate) rw: Access,
    /// Bytes of a request, a multiple of 512, at most 1M
    #[arg(long, value_name = "BYTES", value_parser = block_size, default_value = "4K")]
    pub(crate) block_size: u64,
    /// Requests in flight on each queue
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), default_value = "32")]
    pub(crate) depth: u16,
    /// Queues, each with a thread of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "1")]
    pub(crate) queues: u16,
    /// For how long
    #[arg(long, value_name = "S", value_parser = units::seconds, default_value = "3")]
    pub(crate) seconds: Duration,
    /// Look for completions all the time, and never sleep
    #[arg(long, conflicts_with = "poll_us")]
    pub(crate) poll: bool,
    /// Look for completions for N microseconds before sleeping
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) poll_us: u32,
    /// As a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn block_size(text: &str) -> Result<u64, String> {
    match units::some_sectors(text)? {
        bytes if bytes <= 1 << 20 => Ok(bytes),
        _ => Err("more than 1M".into()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Access {
    Randread,
    Randwrite,
    Read,
    Write,
}

impl Access {
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Randwrite | Self::Write)
    }

    pub(crate) fn random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}
