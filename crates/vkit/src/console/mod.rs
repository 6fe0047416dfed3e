//! `vkit console`: a port of a console, on this terminal or in a pipe.

mod escape;

use crate::cli::ConsoleArgs;
use crate::failure::{Failure, Result, reason};
use crate::output;
use crate::target::Target;
pub(crate) use escape::{Escape, Typed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit::driver::Found;
use virtio_kit_drivers::console::{
    Console, Event, Options, Port, PortError, PortInfo, PortReader, PortWriter, open,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::console::RawMode;

/// How long a device may take to say which ports it has.
const ANNOUNCEMENT: Duration = Duration::from_secs(5);

/// How long any one wait is, so that an end is noticed.
const SLICE: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &ConsoleArgs) -> Result<()> {
    let mut target = args.target.clone();
    if let Target::InProcess(device) = &mut target {
        // Three threads wait here; the device is to sleep meanwhile, as they do.
        device.threads = true;
    }
    let failed = |error: &dyn std::fmt::Display| Failure::new(format_args!("{target}: {error}"));
    let opened = target.open(DeviceId::CONSOLE, 8 << 20)?;
    let (mut console, device) =
        open(Found::new(opened.transport), &Options::default()).map_err(|error| failed(&error))?;
    if args.list {
        return list(&mut console).map_err(|failure| failure.before(&target));
    }
    let id = find(&mut console, args.port.as_deref()).map_err(|failure| failure.before(&target))?;
    let port = console.port(id).map_err(|error| failed(&error))?;
    port.open().map_err(|error| failed(&error))?;
    let talked = talk(console, port, args.linger);
    drop(device);
    drop(opened.host);
    talked.map_err(|failure| failure.before(&target))
}

/// The port of this number or name; without one the first console, or else the first port.
fn find(console: &mut Console, wanted: Option<&str>) -> Result<u32> {
    let look = |console: &mut Console, _: Option<Event>| match wanted {
        Some(wanted) => {
            let number = wanted.parse().ok().filter(|&id| console.ports().any(|port| port.id == id));
            number.or_else(|| console.named(wanted))
        }
        None => console.ports().find(|port| port.console).map(|port| port.id),
    };
    // Whoever does not say which is served with any port, once there was time for a console to be announced.
    let patience = if wanted.is_some() { ANNOUNCEMENT } else { Duration::from_millis(300) };
    if let Some(id) = console.wait_for(&MonotonicClock, patience, look).map_err(Failure::new)? {
        return Ok(id);
    }
    if wanted.is_none() {
        let first = |console: &mut Console, _| console.ports().next().map(|port| port.id);
        if let Some(id) = console.wait_for(&MonotonicClock, ANNOUNCEMENT, first).map_err(Failure::new)? {
            return Ok(id);
        }
    }
    let ports: Vec<String> = console.ports().map(|port| title(&port)).collect();
    let there = match &ports[..] {
        [] => "the device has no port".into(),
        [one] => format!("there is {one}"),
        ports => format!("there are {}", ports.join(", ")),
    };
    Err(Failure::new(match wanted {
        Some(wanted) => format!("no port {wanted}: {there}"),
        None => there,
    }))
}

/// A port in an error: `3 (log)`.
fn title(port: &PortInfo) -> String {
    match &port.name {
        Some(name) => format!("{} ({name})", port.id),
        None => port.id.to_string(),
    }
}

fn list(console: &mut Console) -> Result<()> {
    // A device says how many ports it may have, not how many it has: until it has been silent for a moment.
    let mut silent = Instant::now();
    while silent.elapsed() < Duration::from_millis(300) {
        while console.poll().map_err(Failure::new)?.is_some() {
            silent = Instant::now();
        }
        if !console.wait(SLICE).map_err(Failure::new)? {
            thread::yield_now();
        }
    }
    output::line(&format!("{:<6}{:<32}{:<9}{:<11}size", "port", "name", "console", "connected"))?;
    for port in console.ports() {
        let yes = |yes| if yes { "yes" } else { "no" };
        let size = port.size.map_or("-".into(), |size| format!("{}x{}", size.cols, size.rows));
        let name = port.name.as_deref().unwrap_or("-");
        let (is_console, connected) = (yes(port.console), yes(port.connected));
        output::line(&format!("{:<6}{name:<32}{is_console:<9}{connected:<11}{size}", port.id))?;
    }
    Ok(())
}

/// What all three threads know.
struct Talk {
    over: AtomicBool,
    /// When the last bytes came.
    heard: Mutex<Instant>,
    /// What went wrong first.
    wrong: Mutex<Option<Failure>>,
    raw: bool,
}

impl Talk {
    fn end(&self, with: Result<()>) {
        if let Err(failure) = with {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
        self.over.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to whoever sits at the terminal, which may be in raw mode.
    fn remark(&self, text: &str) {
        if io::stderr().is_terminal() {
            eprint!("{text}{}", if self.raw { "\r\n" } else { "\n" });
        }
    }
}

fn talk(console: Console, port: Port, linger: Duration) -> Result<()> {
    let stdin = io::stdin();
    let raw = match stdin.is_terminal() {
        true => {
            restore_on_signals()?;
            restore_on_panic();
            RawMode::set(&stdin)
                .map_err(|error| Failure::new(format_args!("terminal: {}", reason(&error))))?
        }
        false => None,
    };
    let talk = Talk {
        over: AtomicBool::new(false),
        heard: Mutex::new(Instant::now()),
        wrong: Mutex::new(None),
        raw: raw.is_some(),
    };
    let id = port.id();
    if talk.raw {
        talk.remark(&format!("port {id}; Ctrl-] q ends"));
    }
    if !port.is_connected() {
        talk.remark("nobody is at the other end of the port yet");
    }
    let (reader, writer) = port.split();
    thread::scope(|scope| {
        scope.spawn(|| talk.end(watch(console, id, &talk)));
        scope.spawn(|| talk.end(show(reader, &talk)));
        talk.end(send(writer, &talk, linger));
    });
    drop(raw);
    talk.wrong.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Takes what the device says of its ports.
fn watch(mut console: Console, id: u32, talk: &Talk) -> Result<()> {
    while !talk.is_over() {
        match console.poll().map_err(Failure::new)? {
            Some(Event::Removed(gone)) if gone == id => {
                return Err(Failure::new(format_args!("the device has removed port {id}")));
            }
            Some(Event::Closed(gone)) if gone == id => talk.remark("the other end has gone"),
            Some(Event::Opened(come)) if come == id => talk.remark("somebody is at the other end now"),
            Some(_) => {}
            None if console.wait(SLICE).map_err(Failure::new)? => {}
            // A device without control messages has nothing to wait for.
            None => thread::sleep(SLICE),
        }
    }
    Ok(())
}

/// Shows what comes from the port.
fn show(mut reader: PortReader, talk: &Talk) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut bytes = [0; 4096];
    while !talk.is_over() {
        match reader.read(&mut bytes) {
            Ok(Some(got)) => {
                *talk.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                let shown = out.write_all(&bytes[..got]).and_then(|()| out.flush());
                shown.map_err(|error| Failure::stdout(&error))?;
            }
            Ok(None) => {
                reader.wait(SLICE).map_err(Failure::new)?;
            }
            // Somebody may come again; whether to wait for that is for the other threads to say.
            Err(PortError::Closed) => thread::sleep(SLICE),
            Err(error) => return Err(Failure::new(error)),
        }
    }
    Ok(())
}

/// Sends what is typed, until the end of it or the escape.
fn send(mut writer: PortWriter, talk: &Talk, linger: Duration) -> Result<()> {
    let mut escape = talk.raw.then(Escape::default);
    // Past the buffer of the standard library: what is in that does not show in `readable`.
    let stdin = io::stdin();
    let mut bytes = [0; 4096];
    while !talk.is_over() {
        if !readable(SLICE)? {
            continue;
        }
        let got = match rustix::io::read(&stdin, &mut bytes) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            // A terminal that is hung up has nothing more to say.
            Err(rustix::io::Errno::IO) => 0,
            Err(error) => {
                return Err(Failure::new(format_args!("standard input: {}", reason(&error.into()))));
            }
        };
        if got == 0 {
            return finish(&mut writer, talk, linger);
        }
        match &mut escape {
            Some(escape) => {
                for &byte in &bytes[..got] {
                    match escape.typed(byte) {
                        Typed::Send(bytes) => pass(&mut writer, &bytes, talk)?,
                        Typed::Held => {}
                        Typed::Quit => return Ok(()),
                    }
                }
            }
            None => pass(&mut writer, &bytes[..got], talk)?,
        }
    }
    Ok(())
}

/// The input has ended: what was sent has its time to arrive, and answers theirs.
fn finish(writer: &mut PortWriter, talk: &Talk, linger: Duration) -> Result<()> {
    while !talk.is_over() && !writer.is_flushed().map_err(Failure::new)? {
        writer.wait(SLICE).map_err(Failure::new)?;
    }
    let ended = Instant::now();
    while !talk.is_over() && ended.max(talk.heard()).elapsed() < linger {
        thread::sleep(SLICE.min(linger));
    }
    Ok(())
}

/// Sends all of it; while nobody is at the other end it waits.
fn pass(writer: &mut PortWriter, mut bytes: &[u8], talk: &Talk) -> Result<()> {
    while !bytes.is_empty() && !talk.is_over() {
        match writer.write(bytes) {
            Ok(Some(sent)) => bytes = &bytes[sent..],
            Ok(None) => {
                writer.wait(SLICE).map_err(Failure::new)?;
            }
            Err(PortError::Closed) => thread::sleep(SLICE),
            Err(error) => return Err(Failure::new(error)),
        }
    }
    Ok(())
}

/// Whether standard input can be read within this time.
fn readable(limit: Duration) -> Result<bool> {
    let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Failure::new(format_args!("standard input: {}", reason(&error.into())))),
    }
}

/// A signal that ends the program leaves the terminal as it was.
fn restore_on_signals() -> Result<()> {
    let failed = |error| Failure::new(format_args!("signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let waiting = thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            RawMode::restore_all();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    });
    waiting.map(|_| ()).map_err(failed)
}

/// A panic is printed on a terminal that is as it was.
fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        RawMode::restore_all();
        before(info);
    }));
}
