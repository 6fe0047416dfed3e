//! Consoles of one port.

use super::{Common, Export};
use crate::console::{Escape, Typed};
use crate::failure::{Failure, Result};
use crate::output;
use clap::{ArgGroup, Args};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, kill_process};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use virtio_kit_devices::console::{Console, Port, PortBackend};
use virtio_kit_linux::console::{FdPort, PtyPort, RawMode, SocketPort};
use virtio_kit_linux::vhost_user::back_end::Listener;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("end").required(true)))]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// At this program's own terminal, of which Ctrl-] q ends it, or in a pipe; for one socket
    #[arg(long, group = "end", conflicts_with = "json")]
    stdio: bool,
    /// At a pseudo-terminal each, whose name the status line tells
    #[arg(long, group = "end")]
    pty: bool,
    /// At another Unix socket, to which one program at a time connects; as many as there are sockets
    #[arg(long, value_name = "PATH", group = "end")]
    unix: Vec<PathBuf>,
}

impl ConsoleArgs {
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let sockets = self.common.socket.len();
        if self.stdio {
            return match sockets {
                1 => Ok(vec![self.stdio()?]),
                _ => Err(Failure::new(format_args!("one terminal for {sockets} sockets: give one --socket"))),
            };
        }
        if self.pty {
            return (0..sockets).map(|_| pty()).collect();
        }
        match self.unix.len() {
            count if count == sockets => self.unix.iter().map(|path| unix(path)).collect(),
            count => Err(Failure::new(format_args!(
                "{count} --unix for {sockets} sockets: give one for each --socket"
            ))),
        }
    }

    fn stdio(&self) -> Result<Export> {
        let failed = |error: io::Error| Failure::new(format_args!("standard input: {error}"));
        let raw = RawMode::set(io::stdin()).map_err(failed)?;
        let input = match &raw {
            Some(_) => typed().map_err(failed)?,
            None => io::stdin().as_fd().try_clone_to_owned().map_err(failed)?,
        };
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        let port = FdPort::new(input, output).map_err(failed)?;
        if raw.is_some() {
            output::remark("Ctrl-] q ends\r");
        }
        // The terminal is as it was before once nobody is served any more.
        let restore = move || {
            drop(raw);
            Ok(())
        };
        Ok(single(port, "stdio").on_finish(restore))
    }
}

/// What is typed at the terminal, without the escape.
fn typed() -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let run = move || {
        let (mut escape, mut byte) = (Escape::default(), [0]);
        while matches!(io::stdin().read(&mut byte), Ok(1)) {
            match escape.typed(byte[0]) {
                Typed::Held => {}
                Typed::Send(bytes) if rustix::io::write(&writer, &bytes).is_ok() => {}
                Typed::Send(_) => return,
                Typed::Quit => break,
            }
        }
        // As whoever else wants this program to end. Nothing is to be done if that fails.
        let _ = kill_process(getpid(), Signal::TERM);
    };
    std::thread::Builder::new().name("terminal".into()).spawn(run)?;
    Ok(reader)
}

fn pty() -> Result<Export> {
    let port = PtyPort::open().map_err(|error| Failure::new(format_args!("pseudo-terminal: {error}")))?;
    let name = port.path().display().to_string();
    Ok(single(port, &name))
}

fn unix(path: &Path) -> Result<Export> {
    let listener = Listener::bind(path).map_err(Failure::new)?;
    let port = SocketPort::at(listener).map_err(|error| Failure::file(path, &error))?;
    let console = Console::multiport(1).without_multiport();
    console.handle().plug(0, Port::new(port).console().disconnected()).map_err(Failure::new)?;
    Ok(Export::new(console, path.display().to_string()))
}

fn single(port: impl PortBackend + 'static, name: &str) -> Export {
    Export::new(Console::single(port), name)
}
