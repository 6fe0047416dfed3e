//! Socket devices: guests whose host is programs at Unix sockets, or nobody.

use super::options::{self, Options};
use super::{Host, Recipe, Type};
use crate::failure::{Failure, Result};
use serde_json::json;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_kit::DeviceId;
use virtio_kit::device::Device;
use virtio_kit::spec::vsock::{Config, F};
use virtio_kit_devices::vsock::{Limits, Listeners, Vsock};
use virtio_kit_linux::vsock::{Proxy, UnixHost};
use zerocopy::IntoBytes;

/// Socket devices, for the table of types.
pub(crate) const TYPE: Type = Type {
    name: "vsock",
    id: DeviceId::SOCKET,
    a: "a socket device",
    usage: "\
in-process:vsock?uds=PATH    a socket device in this process; programs of the host connect to PATH and send
                             `CONNECT port`, and it reaches who listens at PATH_port. More with &: cid=3",
    parse: |options| Ok(Arc::new(parse(options)?)),
    // Old ones have no features of their own, but then there is nothing to know them by.
    unlike: |offered, has_config| {
        let own = offered.intersects(F::STREAM | F::SEQPACKET);
        (!own || !has_config).then(|| "it offers neither streams nor sequenced packets".into())
    },
    config: |transport, _| {
        let mut config = Config::default();
        transport.read_config(0, config.as_mut_bytes())?;
        Ok(json!({ "guest_cid": config.guest_cid.get() }))
    },
};

/// A socket device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    cid: u64,
    /// Nobody listens without one.
    uds: Option<PathBuf>,
}

fn parse(options: &mut Options<'_>) -> options::Result<Guest> {
    let cid = options.number("cid", 3..=u32::MAX - 1)?.unwrap_or(3);
    Ok(Guest { cid: cid.into(), uds: options.file("uds")? })
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid={}", self.cid)?;
        self.uds.as_ref().map_or(Ok(()), |uds| write!(f, "&uds={}", uds.display()))
    }
}

impl Recipe for Guest {
    fn build(&self, host: &mut Host) -> Result<Box<dyn Device>> {
        let Some(path) = &self.uds else {
            let device = Vsock::new(self.cid, Limits::default(), Arc::new(Listeners::new()));
            return Ok(Box::new(device.map_err(Failure::new)?));
        };
        let programs = UnixHost::bind(path).map_err(Failure::new)?;
        let device = Vsock::new(self.cid, Limits::default(), programs.clone()).map_err(Failure::new)?;
        let proxy = Proxy::new(programs, device.handle()).and_then(Proxy::spawn);
        host.keep(proxy.map_err(|error| Failure::file(path, &error))?);
        Ok(Box::new(device))
    }
}
