//! Consoles: a conversation on several ports at once, written down at the other end, with a resize, a port that goes and
//! a port that comes in the middle.

use super::content::random;
use super::rows::{Layout, Outcome, Row, Work};
use super::{Act, Asked, Demo, Stage, bus, guest};
use crate::cli::TransportKind;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::{Host, InProcess, Local, Recipe, Target};
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit::clock::Clock;
use virtio_kit::device::Device;
use virtio_kit_devices::console as device;
use virtio_kit_drivers::console::{Console, ConsoleDriver, Event, Options, Port, Size};
use virtio_kit_guest_runner::{Boot, Machine};
use virtio_kit_linux::clock::MonotonicClock;

pub(super) const DEMO: Demo = Demo { device: "console", rows, work };

const PORTS: u16 = 4;
const LINES: u64 = 2000;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct ConsoleAct {
    /// The bare-metal kernel on this machine, and otherwise in process.
    guest: Option<Machine>,
    threads: bool,
    layout: Layout,
}

fn rows(asked: &Asked<'_>) -> Vec<Box<dyn Act>> {
    let mut rows: Vec<Box<dyn Act>> = Vec::new();
    if asked.transport(TransportKind::InProcess) {
        let act = |layout: Layout| ConsoleAct { guest: None, threads: layout.in_order, layout };
        rows.extend(asked.layouts().map(|layout| Box::new(act(layout)) as Box<dyn Act>));
    }
    if asked.transport(TransportKind::Guest) {
        rows.extend(guest::rows(asked).map(|(machine, layout)| {
            Box::new(ConsoleAct { guest: Some(machine), threads: false, layout }) as Box<dyn Act>
        }));
    }
    rows
}

fn work(_: &Stage) -> Vec<String> {
    vec![
        format!(
            "{LINES} lines each way on each of {PORTS} named ports, compared with the transcript at the other end;"
        ),
        "half-way the console is resized, and a port is removed and plugged in again;".into(),
        "in the kernel 78 KiB go out on two ports, and come back inverted by the host".into(),
    ]
}

/// A console whose other end is here.
#[derive(Clone, Debug)]
struct Scripted {
    console: Arc<Ends>,
}

struct Ends {
    /// Taken by whoever builds the device.
    device: std::sync::Mutex<Option<device::Console>>,
    handle: device::Handle,
    scripts: Vec<device::Transcript>,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scripts.fmt(f)
    }
}

impl Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ports={PORTS}")
    }
}

impl Recipe for Scripted {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        let device = self.console.device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        device.map(|device| Box::new(device) as Box<dyn Device>).ok_or_else(|| Failure::new("built already"))
    }
}

impl Scripted {
    fn new() -> Result<Self> {
        let device = device::Console::multiport(PORTS);
        let handle = device.handle();
        // Little room, so that a driver that does not wait for it loses something.
        let scripts: Vec<_> = (0..PORTS).map(|_| device::Transcript::new(4096)).collect();
        let scripted =
            Self { console: Arc::new(Ends { device: std::sync::Mutex::new(Some(device)), handle, scripts }) };
        (0..PORTS).try_for_each(|id| scripted.plug(id))?;
        Ok(scripted)
    }

    fn plug(&self, id: u16) -> Result<()> {
        let port = device::Port::new(self.console.scripts[usize::from(id)].clone())
            .named(format!("org.example.{id}"));
        let port = if id == 0 { port.console() } else { port };
        self.console.handle.plug(id, port).map_err(Failure::new)
    }
}

impl Act for ConsoleAct {
    fn row(&self) -> Row {
        if let Some(machine) = self.guest {
            return guest::row("console", machine, self.layout);
        }
        let (other, how) = match self.threads {
            false => ("in-process, 1 thread", "device on the driver's thread"),
            true => ("in-process, 11 threads", "each queue of the device on a thread of its own"),
        };
        let (device, transport, layout) = ("console", "in-process", self.layout);
        Row { device, transport, other: other.into(), how: how.into(), layout }
    }

    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome> {
        if let Some(machine) = self.guest {
            let console = guest::layout(self.layout);
            let boot = Boot { seed: number, console, folder: stage.folder.clone(), ..Boot::bare(machine, 2) };
            return guest::play(&boot, DeviceId::CONSOLE);
        }
        let scripted = Scripted::new()?;
        let local = Local::new(DeviceId::CONSOLE, scripted.clone());
        let target = Target::InProcess(InProcess { local, ring: self.layout, threads: self.threads });
        let taken: bus::Taken<Console> = bus::take(&target, DeviceId::CONSOLE, 4 << 20, |give| {
            Arc::new(ConsoleDriver::new(Options::default(), give))
        })?;
        let features = taken.device.features();
        if Layout::of(features) != self.layout {
            return Err(Failure::new(format_args!("{} was negotiated", Layout::of(features))));
        }
        stage.bar.set_length(2 * u64::from(PORTS) * LINES * 40);
        let mut scene = Scene { console: taken.device, scripted, seed: number, bytes: 0, lines: 0 };
        let began = Instant::now();
        scene.all_ports_connected()?;
        scene.talk(stage, 0..LINES / 2)?;
        scene.resize()?;
        scene.unplug_and_plug(PORTS - 1)?;
        scene.talk(stage, LINES / 2..LINES)?;
        let time = began.elapsed();
        let features = output::feature_names(features, DeviceId::CONSOLE);
        Ok(Outcome::Verified(Work { features, bytes: scene.bytes, requests: scene.lines, time }))
    }
}

/// A row being played.
struct Scene {
    console: Console,
    scripted: Scripted,
    seed: u64,
    bytes: u64,
    lines: u64,
}

/// A line of a conversation. No two are alike.
fn line(seed: u64, port: u16, way: &str, number: u64) -> String {
    let mut state = seed ^ u64::from(port) << 32 ^ number;
    let dots = ".".repeat(random(&mut state) as usize % 30);
    format!("{way} {port} {number} {:016x}{dots}\n", random(&mut state))
}

impl Scene {
    fn until<R>(
        &mut self,
        what: &str,
        look: impl FnMut(&mut Console, Option<Event>) -> Option<R>,
    ) -> Result<R> {
        match self.console.wait_for(&MonotonicClock, PATIENCE, look) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Failure::new(format_args!("{what}: not within {PATIENCE:?}"))),
            Err(error) => Err(Failure::new(error).before(what)),
        }
    }

    fn all_ports_connected(&mut self) -> Result<()> {
        self.until("the ports", |console, _| {
            let names = (0..PORTS).all(|id| console.named(&format!("org.example.{id}")) == Some(id.into()));
            (names && console.ports().all(|port| port.connected)).then_some(())
        })
    }

    /// Lines both ways on all ports at once.
    fn talk(&mut self, stage: &Stage, numbers: std::ops::Range<u64>) -> Result<()> {
        let failed = |id: u16, error: &dyn Display| Failure::new(format_args!("port {id}: {error}"));
        let mut ends = Vec::new();
        for id in 0..PORTS {
            let port = self.console.port(id.into()).map_err(|error| failed(id, &error))?;
            port.open().map_err(|error| failed(id, &error))?;
            let all =
                |way| numbers.clone().map(|number| line(self.seed, id, way, number)).collect::<String>();
            ends.push(Conversation::new(id, port, all("out"), all("in")));
        }
        let scripts = &self.scripted.console.scripts;
        for (script, end) in scripts.iter().zip(&ends) {
            script.type_in(end.input.as_bytes());
        }
        let deadline = MonotonicClock.now() + PATIENCE;
        while !ends.iter().all(Conversation::is_over) {
            let mut moved = 0;
            for (script, end) in scripts.iter().zip(&mut ends) {
                moved += end.turn(script)?;
            }
            stage.bar.inc(moved);
            if moved == 0 {
                if MonotonicClock.now() >= deadline {
                    return Err(Failure::new("the conversation does not go on"));
                }
                MonotonicClock.relax();
            }
        }
        for end in ends {
            self.bytes += (end.sent + end.got.len()) as u64;
            self.lines += 2 * (numbers.end - numbers.start);
        }
        Ok(())
    }

    fn resize(&mut self) -> Result<()> {
        let (cols, rows) = (100 + self.seed as u16, 40);
        self.scripted.console.handle.resize(0, device::Size { cols, rows }).map_err(Failure::new)?;
        let wanted = Size { cols, rows };
        self.until("the resize", |_, event| (event == Some(Event::Resized(0, wanted))).then_some(()))
    }

    fn unplug_and_plug(&mut self, id: u16) -> Result<()> {
        self.scripted.console.handle.unplug(id).map_err(Failure::new)?;
        self.until("the removal", |_, event| (event == Some(Event::Removed(id.into()))).then_some(()))?;
        self.scripted.plug(id)?;
        self.all_ports_connected()
    }
}

/// One port's part.
struct Conversation {
    id: u16,
    port: Port,
    output: String,
    input: String,
    sent: usize,
    arrived: Vec<u8>,
    got: Vec<u8>,
}

impl Conversation {
    fn new(id: u16, port: Port, output: String, input: String) -> Self {
        Self { id, port, output, input, sent: 0, arrived: Vec::new(), got: Vec::new() }
    }

    fn is_over(&self) -> bool {
        self.arrived.len() == self.output.len() && self.got.len() == self.input.len()
    }

    /// Moves what can be moved; an error as soon as anything is not as it should be.
    fn turn(&mut self, script: &device::Transcript) -> Result<u64> {
        let id = self.id;
        let failed = |error: &dyn Display| Failure::new(format_args!("port {id}: {error}"));
        let mut piece = [0; 1000];
        let got = self.port.read(&mut piece).map_err(|error| failed(&error))?.unwrap_or(0);
        self.got.extend(&piece[..got]);
        if !self.input.as_bytes().starts_with(&self.got) {
            return Err(failed(&"what was read is not what was typed at the other end"));
        }
        let left = &self.output.as_bytes()[self.sent..];
        let sent = self.port.write(left).map_err(|error| failed(&error))?.unwrap_or(0);
        self.sent += sent;
        let arrived = script.take();
        self.arrived.extend(&arrived);
        if !self.output.as_bytes().starts_with(&self.arrived) {
            return Err(failed(&"what arrived at the other end is not what was written"));
        }
        Ok((got + arrived.len()) as u64)
    }
}
