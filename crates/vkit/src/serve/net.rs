//! Network devices.

use super::{Common, Export};
use crate::failure::{Failure, Result};
use clap::{ArgGroup, Args};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use virtio_kit_devices::net::{
    Backend, Buffers, Loopback, MacAddress, Net, NetHandle, Options, Sink, Switch, SwitchOptions,
};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::net::Tap;

/// Most descriptors of a queue: as many as front-ends ask for.
const QUEUE_SIZE: u16 = 1024;

/// What may wait for each receive queue: a ring full of ordinary frames.
const BUFFERS: Buffers = Buffers { small: QUEUE_SIZE as usize, large: 64 };

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("behind").required(true)))]
pub(crate) struct NetArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The TAP interface behind the device, made if there is none; as many as there are sockets
    #[arg(long, value_name = "NAME", group = "behind")]
    tap: Vec<String>,
    /// A switch between the devices of all sockets
    #[arg(long, group = "behind")]
    switch: bool,
    /// What a driver sends it receives
    #[arg(long = "loop", group = "behind")]
    looped: bool,
    /// What a driver sends is counted, and it receives nothing
    #[arg(long, group = "behind")]
    sink: bool,
    /// Pairs of queues of each device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "1")]
    queues: u16,
    /// The device's Ethernet address, once for each socket [default: random ones]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac: Vec<MacAddress>,
}

/// Six bytes that are no group's address.
fn mac(text: &str) -> std::result::Result<MacAddress, &'static str> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte =
            part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or("write it as 02:00:00:00:00:01")?;
    }
    match (parts.next(), bytes[0] & 1) {
        (None, 0) if bytes != [0; 6] => Ok(bytes),
        (None, _) => Err("not an address of one device: its first byte must be even, and not all may be 0"),
        (Some(_), _) => Err("write it as 02:00:00:00:00:01"),
    }
}

/// A locally administered address.
fn random_mac() -> Result<MacAddress> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| Failure::new(format_args!("random address: {error}")))?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(bytes)
}

impl NetArgs {
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let sockets = self.common.socket.len();
        self.as_many(self.tap.len(), "--tap", !self.tap.is_empty())?;
        self.as_many(self.mac.len(), "--mac", !self.mac.is_empty())?;
        let random = || (0..sockets).map(|_| random_mac()).collect::<Result<_>>();
        let macs: Vec<MacAddress> = if self.mac.is_empty() { random()? } else { self.mac.clone() };
        if self.switch {
            return self.switched(&macs);
        }
        macs.into_iter().enumerate().map(|(number, mac)| self.single(number, mac)).collect()
    }

    fn as_many(&self, count: usize, what: &str, given: bool) -> Result<()> {
        let sockets = self.common.socket.len();
        if given && count != sockets {
            return Err(Failure::new(format_args!(
                "{count} {what} for {sockets} sockets: give one for each --socket"
            )));
        }
        Ok(())
    }

    fn single(&self, number: usize, mac: MacAddress) -> Result<Export> {
        if self.looped {
            return Ok(self.export(Loopback::new(BUFFERS), mac, "loop", Vec::new));
        }
        let Some(name) = self.tap.get(number) else {
            return Ok(self.export(Sink::new(), mac, "sink", Vec::new));
        };
        let tap = Tap::open(name, self.queues).map_err(Failure::new)?;
        let handle = tap.handle();
        Ok(self.export(tap, mac, name, move || {
            let counters = handle.counters();
            vec![("tap_refused", counters.refused), ("tap_malformed", counters.malformed)]
        }))
    }

    fn switched(&self, macs: &[MacAddress]) -> Result<Vec<Export>> {
        let mut seed = [0; 8];
        getrandom(&mut seed, GetRandomFlags::empty())
            .map_err(|error| Failure::new(format_args!("random number: {error}")))?;
        let options = SwitchOptions {
            ports: macs.len(),
            seed: u64::from_ne_bytes(seed),
            buffers: BUFFERS,
            ..SwitchOptions::default()
        };
        let switch = Switch::new(options, Arc::new(MonotonicClock));
        let export = |mac: &MacAddress| {
            let port = switch.port().map_err(Failure::new)?;
            let (index, switch) = (port.index(), switch.clone());
            let lost = move || {
                let dropped = switch.port_counters(index).map_or(0, |counters| counters.dropped);
                vec![("switch_dropped", dropped)]
            };
            Ok(self.export(port, *mac, &format!("port{index}"), lost))
        };
        macs.iter().map(export).collect()
    }

    fn export(
        &self,
        backend: impl Backend + 'static,
        mac: MacAddress,
        name: &str,
        lost: impl Fn() -> Vec<(&'static str, u64)> + 'static,
    ) -> Export {
        let options = Options { pairs: self.queues, queue_size: QUEUE_SIZE, ..Options::new(mac) };
        let device = Net::new(backend, options);
        let handle: NetHandle = device.handle();
        Export::new(device, name).counting(move || handle.counters().named().chain(lost()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_devices() {
        assert_eq!(mac("02:00:5e:10:ff:01"), Ok([2, 0, 0x5e, 0x10, 0xff, 1]));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
        let random = random_mac().unwrap();
        assert_eq!(random[0] & 3, 2);
    }
}
