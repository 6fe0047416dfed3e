//! Socket devices.

use super::{Common, Export};
use crate::failure::{Failure, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use virtio_kit_devices::vsock::{Hub, Limits};
use virtio_kit_linux::vsock::{Proxy, UnixHost};

#[derive(Debug, Args)]
pub(crate) struct VsockArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The guest's context id, 3 or more; as many as there are sockets. All guests reach each other
    #[arg(long, value_name = "N", required = true)]
    cid: Vec<u64>,
    /// Where programs of the host connect, to send `CONNECT port`; when the guest connects to a port of the host, it
    /// reaches whoever listens at PATH_port. For sequenced packets programs connect to PATH_seqpacket. As many as there
    /// are sockets
    #[arg(long, value_name = "PATH", required = true)]
    uds: Vec<PathBuf>,
    /// Most connections of each guest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536), default_value = "256")]
    connections: u32,
    /// Bytes kept of each connection in each direction, and so the longest message
    #[arg(long, value_name = "BYTES", value_parser = crate::units::bytes, default_value = "128K")]
    buffer: u64,
}

impl VsockArgs {
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let (cids, paths, sockets) = (self.cid.len(), self.uds.len(), self.common.socket.len());
        if (cids, paths) != (sockets, sockets) {
            return Err(Failure::new(format_args!(
                "{cids} context ids and {paths} paths for {sockets} sockets: give one --cid and one --uds for each \
                 --socket"
            )));
        }
        let hub = Hub::new();
        self.cid.iter().zip(&self.uds).map(|(&cid, path)| self.guest(&hub, cid, path)).collect()
    }

    fn guest(&self, hub: &Hub, cid: u64, path: &Path) -> Result<Export> {
        let limits = Limits {
            connections: self.connections as usize,
            buffer: usize::try_from(self.buffer).unwrap_or(usize::MAX),
            ..Limits::default()
        };
        let host = UnixHost::bind(path).map_err(Failure::new)?;
        let device = hub.device(cid, limits, host.clone()).map_err(Failure::new)?;
        let guest = device.handle();
        let failed = |error| Failure::file(path, &error);
        let proxy = Proxy::new(host, guest.clone()).and_then(Proxy::spawn).map_err(failed)?;
        let mut export = Export::new(device, format!("{cid}")).on_finish(move || {
            drop(proxy);
            Ok(())
        });
        export.behind.counters = Box::new(move || {
            let seen = guest.counters();
            let count = |count: usize| count as u64;
            vec![
                ("connections", count(guest.connections())),
                ("ignored", count(seen.ignored)),
                ("refused", count(seen.refused)),
                ("broken", count(seen.broken)),
            ]
        });
        Ok(export)
    }
}
