//! One boot.

use crate::console::{NAME, Terminal};
use crate::disk::{Disk, LAYOUTS, Layout, SIZE};
use crate::line::Line;
use crate::machine::Attach;
use crate::net::Cable;
use crate::rng::Source;
use crate::scratch::Scratch;
use crate::{Error, Kernel, Machine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use virtio_kit_linux::process::spawn_tied;

/// The program that boots it.
const QEMU: &str = "qemu-system-x86_64";
/// What all machines have: a serial port, and a device by which the kernel ends them.
#[rustfmt::skip]
const COMMON: [&str; 11] = [
    "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
    "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
];
/// What QEMU ends with when the kernel says that all went well.
const SUCCESS: i32 = 33;

/// What to boot, and how.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The machine.
    pub machine: Machine,
    /// Its CPUs.
    pub cpus: u8,
    /// What disks contain: another number, another content.
    pub seed: u64,
    /// How long it may take.
    pub limit: Duration,
    /// The disks, by their rings' layouts; one for each.
    pub disks: Vec<Layout>,
    /// The layout of the entropy device, if there is one.
    pub rng: Option<Layout>,
    /// The layout of the network device, if there is one.
    pub net: Option<Layout>,
    /// The layout of the console, if there is one.
    pub console: Option<Layout>,
    /// Where a folder for the disks is made, and removed again.
    pub folder: PathBuf,
    /// More arguments for QEMU.
    pub arguments: Vec<String>,
}

/// What a boot has shown.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The devices, in the order of the kernel's lines.
    pub devices: Vec<Device>,
    /// From the start of QEMU to its end.
    pub time: Duration,
    /// All that the kernel said.
    pub said: String,
}

/// A device with which the kernel did what it should.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its type, such as `blk`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The features agreed on, as bits.
    pub features: u128,
    /// CPUs that worked with it.
    pub cpus: u8,
    /// Requests that it took.
    pub requests: u64,
    /// Interrupts while the CPUs slept; while they polled there were none.
    pub interrupts: u64,
    /// Bytes that went through it, and were found to be right from outside.
    pub bytes: u64,
    /// What the kernel measured of that.
    pub time: Duration,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, cpus, requests, interrupts, bytes, .. } = self;
        let name = format!("{kind} {name}");
        let s = if *cpus == 1 { "" } else { "s" };
        write!(f, "{name:<20}  {requests} requests, {interrupts} interrupts, on {cpus} CPU{s}; ")?;
        write!(f, "{} KiB verified from outside", bytes >> 10)
    }
}

impl Boot {
    /// A machine with some CPUs, and a device of each type, disks of each layout.
    pub fn new(machine: Machine, cpus: u8) -> Self {
        let layouts = Layout::of(machine.attach());
        Self {
            disks: layouts.to_vec(),
            rng: layouts.iter().rfind(|layout| !layout.in_order).copied(),
            console: layouts.iter().rfind(|layout| !layout.in_order).copied(),
            // The driver leaves legacy devices alone.
            net: (machine.attach() != Attach::MmioLegacy).then_some(LAYOUTS[2]),
            ..Self::bare(machine, cpus)
        }
    }

    /// A machine without devices.
    pub fn bare(machine: Machine, cpus: u8) -> Self {
        Self {
            machine,
            cpus,
            seed: 1,
            limit: Duration::from_secs(60),
            disks: Vec::new(),
            rng: None,
            net: None,
            console: None,
            folder: std::env::temp_dir(),
            arguments: Vec::new(),
        }
    }

    /// Boots the kernel and checks what it did.
    pub fn run(&self, kernel: &Kernel) -> Result<Verified, Error> {
        let scratch = Scratch::new_in(&self.folder)?;
        let attach = self.machine.attach();
        let second = self.seed.wrapping_mul(2).wrapping_add(1);
        let mut disks = Vec::new();
        for (&layout, number) in self.disks.iter().zip(1..) {
            disks.push(Disk::create(scratch.path(), layout, second.wrapping_add(2 * number), second)?);
        }
        let source = match self.rng {
            Some(layout) => Some(Source::create(scratch.path(), layout, second)?),
            None => None,
        };
        let mut cable = match self.net {
            Some(layout) => Some(Cable::create(scratch.path(), layout, second)?),
            None => None,
        };
        let mut terminal = match self.console {
            Some(layout) => Some(Terminal::create(scratch.path(), layout, second)?),
            None => None,
        };
        let mut command = Command::new(QEMU);
        command
            .args(self.machine.arguments())
            .args(COMMON)
            .args(["-smp", &self.cpus.to_string()])
            .args(disks.iter().flat_map(|disk| disk.arguments(attach, self.cpus)))
            .args(cable.iter().flat_map(|cable| cable.arguments(attach)))
            .args(terminal.iter().flat_map(|terminal| terminal.arguments(attach)))
            .args(source.iter().flat_map(|source| source.arguments(attach)))
            .arg("-kernel")
            .arg(kernel.path())
            .args(["-append", &format!("seed={second}")])
            .args(&self.arguments);
        let began = Instant::now();
        let said = say(command, self.limit)?;
        let time = began.elapsed();
        let mut devices: Vec<_> =
            disks.iter().map(|disk| self.look_at(disk, &said)).collect::<Result<_, _>>()?;
        if let Some(cable) = &mut cable {
            devices.push(look_at_cable(cable, &said)?);
        }
        if let Some(terminal) = &mut terminal {
            devices.push(look_at_terminal(terminal, &said)?);
        }
        if let Some(source) = &source {
            devices.push(self.look_at_source(source, &said)?);
        }
        Ok(Verified { devices, time, said })
    }

    /// What the kernel said of a disk, compared with the disk.
    fn look_at(&self, disk: &Disk, said: &str) -> Result<Device, Error> {
        let line = Line::find(said, "blk", disk.name())?;
        line.expect_layout(disk.name())?;
        if line.value("read")? != disk.first_hash() {
            return Err(line.wrong("what the kernel read is not what the disk contained"));
        }
        let cpus = self.machine.cpus(self.cpus);
        for key in ["queues", "cpus"] {
            if line.number(key)? != u64::from(cpus) {
                return Err(line.wrong(&format!("not {key}={cpus}")));
            }
        }
        disk.check(line.number("zeroed")? as usize)?;
        // All is read, written, and read again.
        line.device(3 * SIZE as u64)
    }

    /// What the kernel said of the entropy device, compared with its source.
    fn look_at_source(&self, source: &Source, said: &str) -> Result<Device, Error> {
        let line = Line::find(said, "rng", "rng")?;
        line.expect_layout(source.layout().name)?;
        let bytes = line.number("bytes")?;
        if bytes == 0 || Some(line.value("read")?) != source.hash(bytes).as_deref() {
            return Err(line.wrong("what the kernel read is not what came from the source"));
        }
        line.device(bytes)
    }
}

/// What the kernel said of the network device, compared with what came out of the cable.
fn look_at_cable(cable: &mut Cable, said: &str) -> Result<Device, Error> {
    let line = Line::find(said, "net", "net")?;
    line.expect_layout(cable.layout().name)?;
    let bytes = line.number("bytes")?;
    // Each frame was answered by one of the same length.
    if bytes == 0 || bytes != 2 * cable.finish() {
        return Err(line.wrong("the frames that came are not those that the kernel sent"));
    }
    line.device(bytes)
}

/// What the kernel said of the console, compared with what came out of its ports.
fn look_at_terminal(terminal: &mut Terminal, said: &str) -> Result<Device, Error> {
    let line = Line::find(said, "console", "console")?;
    line.expect_layout(terminal.layout().name)?;
    if line.value("ports")? != format!("console,{NAME}") {
        return Err(line.wrong("other ports were found"));
    }
    let bytes = line.number("bytes")?;
    // Each byte was answered by another.
    if bytes == 0 || bytes != 2 * terminal.finish() {
        return Err(line.wrong("what came out of the ports is not what the kernel sent"));
    }
    line.device(bytes)
}

/// Instructions of a block request, as the kernel's feature `compare` counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Requests in flight.
    pub depth: u64,
    /// Of this project's driver.
    pub ours: u64,
    /// Of the published crate's.
    pub theirs: u64,
}

/// Compares two drivers in one kernel, on a machine whose clock counts instructions.
pub fn compare(kernel: &Kernel, limit: Duration) -> Result<Vec<Compared>, Error> {
    let boot = Boot { limit, ..Boot::new(Machine::Microvm, 1) };
    let scratch = Scratch::new_in(&boot.folder)?;
    let mut command = Command::new(QEMU);
    command.args(Machine::Microvm.arguments()).args(COMMON).args(["-icount", "shift=0,sleep=off"]);
    for (&layout, seed) in LAYOUTS[..2].iter().zip(1..) {
        let disk = Disk::create(scratch.path(), Layout { in_order: false, ..layout }, seed, seed)?;
        command.args(disk.arguments(Machine::Microvm.attach(), 1));
    }
    command.arg("-kernel").arg(kernel.path()).args(["-append", "compare=on"]);
    let said = say(command, limit)?;
    let number = |line: &str, key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let lines = said.lines().filter(|line| line.starts_with("compare "));
    let compared = lines.filter_map(|line| {
        let (depth, ours, theirs) = (number(line, "depth")?, number(line, "ours")?, number(line, "theirs")?);
        Some(Compared { depth, ours, theirs })
    });
    match compared.collect::<Vec<_>>() {
        none if none.is_empty() => Err(Error::Silent("the comparison", said)),
        compared => Ok(compared),
    }
}

/// Whether there is a QEMU that could boot anything.
pub fn is_possible() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(QEMU).is_file())
}

/// Ends a child that is not wanted any more.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // A child that cannot be killed has ended, and then it can be waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a machine to its end; what it said, if that end is success.
fn say(mut command: Command, limit: Duration) -> Result<String, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn_tied(command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing(QEMU),
        _ => Error::Io(QEMU, error),
    })?;
    let mut child = Ended(child);
    let mut pipes: Vec<File> = Vec::new();
    pipes.extend(child.0.stdout.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe))));
    pipes.extend(child.0.stderr.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe))));
    let said = read_all(pipes, limit)?;
    let status = child.0.wait().map_err(|error| Error::Io(QEMU, error))?;
    match status.code() {
        Some(SUCCESS) => Ok(said),
        code => Err(Error::Status(code, said)),
    }
}

/// Reads pipes to their ends, as far as that comes within the limit.
fn read_all(mut pipes: Vec<File>, limit: Duration) -> Result<String, Error> {
    let deadline = Instant::now() + limit;
    let mut said = Vec::new();
    while !pipes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(limit, String::from_utf8_lossy(&said).into()));
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<_> = pipes.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Io(QEMU, error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for at in (0..ready.len()).rev().filter(|&at| ready[at]) {
            let mut bytes = [0; 4096];
            match pipes[at].read(&mut bytes) {
                Ok(0) => drop(pipes.swap_remove(at)),
                Ok(len) => said.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Io(QEMU, error)),
            }
        }
    }
    Ok(String::from_utf8_lossy(&said).into())
}
