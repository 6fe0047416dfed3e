//! Network devices: a loop, a cable, a switch, a sink.

mod peer;

use super::options::{self, Options};
use super::{Host, Recipe, Type};
use crate::failure::{Failure, Result};
use peer::Peer;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use virtio_kit::device::Device;
use virtio_kit::spec::net::{Config, Duplex, F, HashTypes, LinkStatus, SPEED_UNKNOWN};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{DeviceId, Features};
use virtio_kit_devices::net::{self as device, Buffers, Loopback, Net, Sink, Switch, SwitchOptions, pair};
use virtio_kit_drivers::net::Mac;
use virtio_kit_linux::clock::MonotonicClock;
use zerocopy::FromBytes;

/// Network devices, for the table of types.
pub(crate) const TYPE: Type = Type {
    name: "net",
    id: DeviceId::NETWORK,
    a: "a network device",
    usage: "\
in-process:net?loop          a network device in this process that receives what it sends
in-process:net?pair          the same, back to back with another that answers ARP and ping, whatever the
                             address, and sends test frames back
in-process:net?switch        the same across a learning switch
in-process:net?sink          the same, whose frames go nowhere
                             more with &: pairs=4 mtu=9000 mac=02:00:00:00:00:01",
    parse: |options| Ok(Arc::new(parse(options)?)),
    unlike,
    config,
};

/// A network device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) wire: Wire,
    pub(crate) pairs: u16,
    pub(crate) mtu: Option<u16>,
    pub(crate) mac: Mac,
}

/// What a device's frames go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Loop,
    Pair,
    Switch,
    Sink,
}

/// Addresses that nobody else has: locally administered.
const OURS: Mac = [2, 0x76, 0x6b, 0x69, 0x74, 1];
const PEERS: Mac = [2, 0x76, 0x6b, 0x69, 0x74, 2];

fn parse(options: &mut Options<'_>) -> options::Result<Nic> {
    let mut wires = Vec::new();
    for (key, wire) in
        [("loop", Wire::Loop), ("pair", Wire::Pair), ("switch", Wire::Switch), ("sink", Wire::Sink)]
    {
        if options.flag(key)? {
            wires.push(wire);
        }
    }
    let pairs = options.number("pairs", 1..=256)?.map_or(1, |pairs| pairs as u16);
    let mtu = options.number("mtu", 68..=65535)?.map(|mtu| mtu as u16);
    let mac = options.value("mac", mac)?.unwrap_or(OURS);
    let wire = match wires[..] {
        [wire] => wire,
        [] => return Err("nothing to send to: add ?loop, ?pair, ?switch or ?sink".into()),
        _ => return Err("a device has one wire: loop, pair, switch or sink".into()),
    };
    Ok(Nic { wire, pairs, mtu, mac })
}

/// An address of one station: six bytes in hexadecimal, apart by colons.
fn mac(text: &str) -> std::result::Result<Mac, &'static str> {
    const HOW: &str = "write the address of one station, as 02:00:00:00:00:01";
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2 && !byte.contains('+')))
        .collect();
    let mac = bytes.and_then(|bytes| Mac::try_from(bytes).ok()).ok_or(HOW)?;
    if mac[0] & 1 == 0 && mac != [0; 6] { Ok(mac) } else { Err(HOW) }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "loop",
            Self::Pair => "pair",
            Self::Switch => "switch",
            Self::Sink => "sink",
        })
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wire.fmt(f)
    }
}

impl Nic {
    fn over(&self, backend: impl device::Backend + 'static) -> Box<dyn Device> {
        let options = device::Options { mtu: self.mtu, pairs: self.pairs, ..device::Options::new(self.mac) };
        Box::new(Net::new(backend, options))
    }

    /// The device at the other end, which answers. It has one pair of queues.
    fn peer(&self, backend: impl device::Backend + 'static) -> Result<Peer> {
        let mac = if self.mac == PEERS { OURS } else { PEERS };
        let options = device::Options { mtu: self.mtu, ..device::Options::new(mac) };
        Peer::start(Box::new(Net::new(backend, options)), mac)
    }
}

impl Recipe for Nic {
    fn build(&self, host: &mut Host) -> Result<Box<dyn Device>> {
        // As much waits at most as rings hold, so that a bounded sender loses nothing.
        let buffers = Buffers { small: 1024, large: 256 };
        Ok(match self.wire {
            Wire::Loop => self.over(Loopback::new(buffers)),
            Wire::Sink => self.over(Sink::new()),
            Wire::Pair => {
                let [ours, theirs] = pair(buffers);
                host.keep(self.peer(theirs)?);
                self.over(ours)
            }
            Wire::Switch => {
                let options = SwitchOptions { buffers, ..SwitchOptions::default() };
                let switch = Switch::new(options, Arc::new(MonotonicClock));
                let [ours, theirs] = [switch.port(), switch.port()];
                host.keep(self.peer(theirs.map_err(Failure::new)?)?);
                self.over(ours.map_err(Failure::new)?)
            }
        })
    }
}

/// What shows that a back-end with these features is no network device.
fn unlike(offered: Features, _: bool) -> Option<String> {
    // Every network device that exists says at least one of these, and a type without features says none.
    let usual = F::MRG_RXBUF | F::STATUS | F::CTRL_VQ | F::GUEST_ANNOUNCE;
    (!offered.intersects(usual)).then(|| "it offers no feature of a network device".into())
}

fn config(transport: &mut dyn Transport, offered: Features) -> std::result::Result<Value, TransportError> {
    // What comes after the last field that a feature gives a meaning need not be there.
    let len = match () {
        () if offered.intersects(F::RSS | F::HASH_REPORT) => 24,
        () if offered.contains(F::SPEED_DUPLEX) => 17,
        () if offered.contains(F::MTU) => 12,
        () if offered.contains(F::MQ) => 10,
        () if offered.contains(F::STATUS) => 8,
        () if offered.contains(F::MAC) => 6,
        () => return Ok(Value::Null),
    };
    let mut bytes = [0; size_of::<Config>()];
    match transport.read_config(0, &mut bytes[..len]) {
        Ok(()) => {}
        // A back-end over vhost-user that leaves all this to who is in front of it.
        Err(TransportError::Unsupported(_)) => return Ok(Value::Null),
        Err(error) => return Err(error),
    }
    let config = Config::read_from_bytes(&bytes).unwrap_or_default();
    let has = |feature| offered.intersects(feature);
    let status = LinkStatus::from_bits_retain(config.status.get());
    let when = |feature, value: Value| if has(feature) { value } else { Value::Null };
    let speed = Some(config.speed.get()).filter(|&speed| speed != SPEED_UNKNOWN);
    let duplex = match Duplex(config.duplex) {
        Duplex::HALF => "half".into(),
        Duplex::FULL => "full".into(),
        _ => Value::Null,
    };
    let types = HashTypes::from_bits_retain(config.supported_hash_types.get());
    let names: Vec<&str> = types.iter_names().map(|(name, _)| name).collect();
    Ok(json!({
        "mac": when(F::MAC, display(&config.mac).into()),
        "link_up": when(F::STATUS, status.contains(LinkStatus::LINK_UP).into()),
        "mtu": when(F::MTU, config.mtu.get().into()),
        "queue_pairs": if has(F::MQ | F::RSS) { config.max_virtqueue_pairs.get() } else { 1 },
        "megabits_per_second": when(F::SPEED_DUPLEX, speed.into()),
        "duplex": when(F::SPEED_DUPLEX, duplex),
        "rss_max_key": when(F::RSS | F::HASH_REPORT, config.rss_max_key_size.into()),
        "rss_max_table": when(F::RSS, config.rss_max_indirection_table_length.get().into()),
        "hash_types": when(F::RSS | F::HASH_REPORT, names.into()),
    }))
}

/// An address as people write it.
pub(crate) fn display(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> options::Result<Nic> {
        let mut options = Options::new(text)?;
        let nic = parse(&mut options)?;
        options.finish()?;
        Ok(nic)
    }

    #[test]
    fn network_devices_are_read_with_their_options() {
        let plain = |wire| Nic { wire, pairs: 1, mtu: None, mac: OURS };
        assert_eq!(read("loop"), Ok(plain(Wire::Loop)));
        assert_eq!(read("sink=on&pair=off"), Ok(plain(Wire::Sink)));
        let expected = Nic { wire: Wire::Switch, pairs: 2, mtu: Some(9000), mac: [2, 0, 0, 0, 0xab, 1] };
        assert_eq!(read("switch&pairs=2&mtu=9000&mac=02:00:00:00:AB:01"), Ok(expected));
        for text in [
            "",
            "loop&sink",
            "loop=yes",
            "pair&pairs=0",
            "pair&mtu=67",
            "pair&mac=1",
            "pair&mac=01:00:00:00:00:00",
            "pair&mac=00:00:00:00:00:00",
            "pair&mac=02:00:00:00:00:0g",
            "pair&mac=02:00:00:00:00:+1",
            "pair&mac=02:00:00:00:00:01:02",
            "pair&x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_block_device_is_told_from_a_network_device() {
        // qemu-storage-daemon and DPDK's net_vhost, as they are.
        assert!(TYPE.unlike(Features::from_low(0x1_7500_7e46), true).is_some());
        assert_eq!(TYPE.unlike(Features::from_low(0xd_7c66_e7cb), true), None);
        assert!(TYPE.unlike(virtio_kit::F::VERSION_1, false).is_some());
    }
}
