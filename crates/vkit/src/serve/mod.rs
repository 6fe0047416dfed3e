//! `vkit serve`: devices for front-ends such as QEMU, over vhost-user.
//!
//! A device type is one file here: its arguments, and how they become [`Export`]s.

mod blk;
mod console;
mod net;
mod rng;
mod signals;
mod stats;
mod vsock;

use crate::failure::{Failure, Result};
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use signals::{Signals, What};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use virtio_kit::device::Device;
use virtio_kit_linux::mapping;
use virtio_kit_linux::vhost_user::back_end::{BackEnd, Listener, Options, Polling, Runner, Source, Threads};

#[derive(Debug, Subcommand)]
pub(crate) enum ServeCommand {
    /// Serve block devices: files, or nothing at all
    Blk(blk::BlkArgs),
    /// Serve network devices: TAPs, or a switch between them
    Net(net::NetArgs),
    /// Serve consoles: at this terminal, at others, at sockets
    Console(console::ConsoleArgs),
    /// Serve entropy devices: the kernel's generator, or a file
    Rng(rng::RngArgs),
    /// Serve socket devices: guests reach each other and Unix sockets, and Unix sockets guests
    Vsock(vsock::VsockArgs),
}

/// What all device types have.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where front-ends connect; may be given more than once, each time for another device
    #[arg(long, value_name = "PATH", required = true)]
    socket: Vec<PathBuf>,
    /// Connect to a front-end that listens on the socket, instead of listening
    #[arg(long)]
    client: bool,
    /// Which threads run the queues
    #[arg(long, value_enum, default_value_t = ThreadsChoice::Queue)]
    threads: ThreadsChoice,
    /// Look for work for up to N microseconds before sleeping; how long adapts
    #[arg(long, value_name = "N", default_value = "32")]
    poll_us: u32,
    /// Never sleep while a queue runs
    #[arg(long, conflicts_with = "poll_us")]
    poll: bool,
    /// Print counters of each queue every N seconds; SIGUSR1 prints them at any time
    #[arg(long, value_name = "N", value_parser = crate::units::seconds)]
    stats: Option<Duration>,
    /// Status and counters as one JSON object per line, on standard output
    #[arg(long)]
    json: bool,
    /// Log more on standard error: connections, queues, messages
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ThreadsChoice {
    /// One for each queue
    Queue,
    /// One for each device
    Device,
}

/// A device that is ready to be served.
struct Export {
    device: Box<dyn Device>,
    behind: Behind,
}

/// What is behind a device.
struct Behind {
    /// What the user knows it by.
    name: String,
    /// Looks whether it has changed (SIGHUP).
    reload: Box<dyn FnMut()>,
    /// What it counts itself, by names: `--stats` and SIGUSR1 print it beside the counters of the queues.
    counters: Box<dyn Fn() -> Vec<(&'static str, u64)>>,
    /// Makes everything durable, once nobody is served any more.
    finish: Box<dyn FnOnce() -> Result<()>>,
}

impl Export {
    /// A device behind which nothing changes, counts or needs an end.
    fn new(device: impl Device + 'static, name: impl Into<String>) -> Self {
        let behind = Behind {
            name: name.into(),
            reload: Box::new(|| {}),
            counters: Box::new(Vec::new),
            finish: Box::new(|| Ok(())),
        };
        Self { device: Box::new(device), behind }
    }

    fn on_reload(mut self, reload: impl FnMut() + 'static) -> Self {
        self.behind.reload = Box::new(reload);
        self
    }

    fn counting(mut self, counters: impl Fn() -> Vec<(&'static str, u64)> + 'static) -> Self {
        self.behind.counters = Box::new(counters);
        self
    }

    fn on_finish(mut self, finish: impl FnOnce() -> Result<()> + 'static) -> Self {
        self.behind.finish = Box::new(finish);
        self
    }
}

pub(crate) fn run(command: &ServeCommand) -> Result<()> {
    match command {
        ServeCommand::Blk(args) => serve("blk", &args.common, || args.exports()),
        ServeCommand::Net(args) => serve("net", &args.common, || args.exports()),
        ServeCommand::Console(args) => serve("console", &args.common, || args.exports()),
        ServeCommand::Rng(args) => serve("rng", &args.common, || args.exports()),
        ServeCommand::Vsock(args) => serve("vsock", &args.common, || args.exports()),
    }
}

/// A device that is being served.
struct Served {
    runner: Runner,
    socket: PathBuf,
    behind: Behind,
}

fn serve(kind: &str, common: &Common, exports: impl FnOnce() -> Result<Vec<Export>>) -> Result<()> {
    log(common.verbose);
    // From here on signals are for the loop below, so that no socket is left behind.
    let signals = Signals::new()?;
    mapping::guard().map_err(|error| Failure::new(format_args!("SIGBUS: {error}")))?;
    let exports = exports()?;
    let mut all = Vec::new();
    for (export, socket) in exports.into_iter().zip(&common.socket) {
        all.push(start(common, export, socket.clone())?);
    }
    if common.json {
        let devices = all.iter().map(|served| {
            let queues = served.runner.queues().len();
            json!({ "socket": served.socket, "name": served.behind.name, "queues": queues })
        });
        let status = if common.client { "connecting" } else { "listening" };
        let devices: Vec<_> = devices.collect();
        output::json(&json!({ "status": status, "device": kind, "devices": devices }))?;
    } else {
        for Served { socket, behind, .. } in &all {
            let doing = if common.client { "connecting to" } else { "listening on" };
            output::remark(&format!("{kind} {}: {doing} {}", behind.name, socket.display()));
        }
    }
    wait(common, &signals, &mut all)?;
    end(common, all)
}

fn start(common: &Common, export: Export, socket: PathBuf) -> Result<Served> {
    let Export { device, behind } = export;
    let failed = |error: &dyn std::fmt::Display| Failure::new(format_args!("{}: {error}", socket.display()));
    let back_end = BackEnd::new(device, Options::default()).map_err(|error| failed(&error))?;
    let source = if common.client {
        Source::Connect(socket.clone())
    } else {
        Source::Listener(Listener::bind(&socket).map_err(Failure::new)?)
    };
    let threads = match common.threads {
        ThreadsChoice::Queue => Threads::PerQueue,
        ThreadsChoice::Device => Threads::One,
    };
    let polling = match common.poll {
        true => Polling::Always,
        false => Polling::UpTo(Duration::from_micros(common.poll_us.into())),
    };
    let runner =
        Runner::start(back_end, source, &behind.name, threads, polling).map_err(|error| failed(&error))?;
    Ok(Served { runner, socket, behind })
}

/// Until it is time to end.
fn wait(common: &Common, signals: &Signals, all: &mut [Served]) -> Result<()> {
    let mut due = common.stats.map(|period| Instant::now() + period);
    loop {
        match signals.wait(due) {
            Some(What::End) => return Ok(()),
            Some(What::Reload) => all.iter_mut().for_each(|served| (served.behind.reload)()),
            Some(What::Stats) => stats::print(common.json, all)?,
            None => {
                due = common.stats.map(|period| Instant::now() + period);
                stats::print(common.json, all)?;
            }
        }
    }
}

/// Ends everything, also if some of it fails.
fn end(common: &Common, all: Vec<Served>) -> Result<()> {
    let mut ended = Ok(());
    for Served { runner, behind, .. } in all {
        // What is in flight comes to its end, and the socket is gone.
        runner.stop();
        ended = ended.and((behind.finish)());
    }
    ended?;
    if common.json { output::json(&json!({ "status": "ended" })) } else { Ok(()) }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    use std::io::IsTerminal;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish();
    // There is no other.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
