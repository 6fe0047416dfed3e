//! Consoles: ports that echo, or that end at sockets or pseudo-terminals.

use super::options::{self, Options};
use super::{Host, Recipe, Type};
use crate::failure::{Failure, Result};
use crate::output;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_kit::device::Device;
use virtio_kit::spec::console::{Config, F};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::console::{Console, Echo, Port, Size};
use virtio_kit_linux::console::{PtyPort, SocketPort};
use zerocopy::FromBytes;

/// Consoles, for the table of types.
pub(crate) const TYPE: Type = Type {
    name: "console",
    id: DeviceId::CONSOLE,
    a: "a console",
    usage: "\
in-process:console           a console in this process that says back what it is told
in-process:console?ports=3   several ports, of which port 0 is a console, called port0, port1 and so on
                             more with &: size=80x24 socket=PATH (ports at the sockets PATH0, PATH1, ...)
                             pty=on (ports at pseudo-terminals)",
    parse: |options| Ok(Arc::new(parse(options)?)),
    unlike: |_, _| None,
    config,
};

/// A console in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Without a number there is one port, and no MULTIPORT.
    pub(crate) ports: Option<u16>,
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) end: End,
}

/// What ports end at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Echo,
    Sockets(PathBuf),
    Ptys,
}

fn parse(options: &mut Options<'_>) -> options::Result<Terminal> {
    let ports = options.number("ports", 1..=511)?.map(|ports| ports as u16);
    let size = options.value("size", |value| {
        let size =
            value.split_once('x').and_then(|(cols, rows)| Some((cols.parse().ok()?, rows.parse().ok()?)));
        size.ok_or("write columns and rows, as 80x24")
    })?;
    let end = match (options.file("socket")?, options.switch("pty")?) {
        (None, false) => End::Echo,
        (Some(path), false) => End::Sockets(path),
        (None, true) => End::Ptys,
        (Some(_), true) => return Err("a port has one end: socket or pty".into()),
    };
    Ok(Terminal { ports, size, end })
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            Some(ports) => write!(f, "ports={ports}"),
            None => Ok(()),
        }
    }
}

impl Terminal {
    fn port(&self, number: u16) -> Result<Port> {
        Ok(match &self.end {
            End::Echo => Port::new(Echo),
            End::Sockets(path) => {
                let mut path = path.as_os_str().to_owned();
                path.push(number.to_string());
                let path = PathBuf::from(path);
                let port = SocketPort::listen(&path).map_err(|error| Failure::file(&path, &error))?;
                Port::new(port).disconnected()
            }
            End::Ptys => {
                let pty = PtyPort::open()
                    .map_err(|error| Failure::new(format_args!("pseudo-terminal: {error}")))?;
                output::remark(&format!("port {number} is at {}", pty.path().display()));
                Port::new(pty)
            }
        })
    }
}

impl Recipe for Terminal {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        let console = Console::multiport(self.ports.unwrap_or(1));
        let console = match self.ports {
            Some(_) => console,
            None => console.without_multiport(),
        };
        let handle = console.handle();
        for number in 0..self.ports.unwrap_or(1) {
            let port = self.port(number)?;
            let port = if number == 0 { port.console() } else { port };
            let port = if self.ports.is_some() { port.named(format!("port{number}")) } else { port };
            handle.plug(number, port).map_err(Failure::new)?;
        }
        Ok(match self.size {
            Some((cols, rows)) => Box::new(console.with_size(Size { cols, rows })),
            None => Box::new(console),
        })
    }
}

fn config(transport: &mut dyn Transport, offered: Features) -> std::result::Result<Value, TransportError> {
    let mut bytes = [0; size_of::<Config>()];
    transport.read_config(0, &mut bytes)?;
    let config = Config::read_from_bytes(&bytes).unwrap_or_default();
    let when = |feature, value: u32| if offered.contains(feature) { value.into() } else { Value::Null };
    Ok(json!({
        "cols": when(F::SIZE, config.cols.get().into()),
        "rows": when(F::SIZE, config.rows.get().into()),
        "max_ports": if offered.contains(F::MULTIPORT) { config.max_nr_ports.get() } else { 1 },
        "emergency_write": offered.contains(F::EMERG_WRITE),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> options::Result<Terminal> {
        let mut options = Options::new(text)?;
        let terminal = parse(&mut options)?;
        options.finish()?;
        Ok(terminal)
    }

    #[test]
    fn consoles_are_read_with_their_options() {
        assert_eq!(read(""), Ok(Terminal { ports: None, size: None, end: End::Echo }));
        let expected = Terminal { ports: Some(3), size: Some((80, 24)), end: End::Sockets("/tmp/p".into()) };
        assert_eq!(read("ports=3&size=80x24&socket=/tmp/p"), Ok(expected));
        assert_eq!(read("pty=on"), Ok(Terminal { ports: None, size: None, end: End::Ptys }));
        for text in
            ["ports=0", "ports=512", "size=80", "size=80x", "size=x", "socket=", "socket=a&pty=on", "y"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
