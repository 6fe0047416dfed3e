//! A driver with its device at a port of the switch.

use super::super::bus::{self, Taken};
use super::super::rows::Layout;
use super::check_layout;
use crate::failure::{Failure, Result};
use crate::net::session::OFFLOADS;
use crate::target::{Host, InProcess, Local, Recipe, Target};
use std::fmt;
use std::sync::{Arc, OnceLock};
use virtio_kit::device::Device;
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::net::{self as device, Buffers, Counters, NetHandle, Switch, SwitchOptions};
use virtio_kit_drivers::net::{Mac, Net, NetDriver, Options};
use virtio_kit_linux::clock::MonotonicClock;

/// Memory that a driver shares with its device: most of it for frames of 64 KiB.
const MEMORY: usize = 64 << 20;

/// A switch on which nothing need get lost: more waits at each port than drivers here have under way.
pub(super) fn switch() -> Switch {
    let buffers = Buffers { small: 1024, large: 128 };
    Switch::new(SwitchOptions { ports: 2, buffers, ..SwitchOptions::default() }, Arc::new(MonotonicClock))
}

/// A driver at a port.
pub(super) struct Station {
    pub(super) net: Taken<Net>,
    pub(super) mac: Mac,
    handle: Arc<OnceLock<NetHandle>>,
}

impl Station {
    /// The station of this number.
    pub(super) fn new(
        switch: &Switch,
        number: u8,
        layout: Layout,
        threads: bool,
        offloads: bool,
    ) -> Result<Self> {
        let mac = [2, 0, 0, 0, 0, number];
        let port = AtPort { switch: switch.clone(), mac, handle: Arc::default() };
        let handle = port.handle.clone();
        let local = Local::new(DeviceId::NETWORK, port);
        let target = Target::InProcess(InProcess { local, ring: layout, threads });
        let options = Options {
            buffer_len: 4096,
            without: if offloads { Features::EMPTY } else { OFFLOADS },
            ..Options::new(Arc::new(MonotonicClock))
        };
        let net =
            bus::take(&target, DeviceId::NETWORK, MEMORY, |give| Arc::new(NetDriver::new(options, give)))?;
        check_layout(net.device.features, layout)?;
        Ok(Self { net, mac, handle })
    }

    /// What the device has counted.
    pub(super) fn counters(&self) -> Counters {
        self.handle.get().map(NetHandle::counters).unwrap_or_default()
    }
}

/// Makes a device at a port.
#[derive(Clone)]
struct AtPort {
    switch: Switch,
    mac: Mac,
    handle: Arc<OnceLock<NetHandle>>,
}

impl fmt::Debug for AtPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AtPort({:?})", self.mac)
    }
}

impl fmt::Display for AtPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("switch")
    }
}

impl Recipe for AtPort {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        let port = self.switch.port().map_err(Failure::new)?;
        let net = device::Net::new(port, device::Options::new(self.mac));
        // It is built once.
        let _ = self.handle.set(net.handle());
        Ok(Box::new(net))
    }
}
