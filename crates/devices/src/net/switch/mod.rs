//! A learning switch.

mod table;

use super::backend::{ALL_OFFLOADS, Backend, Receive, Transmit};
use super::counters::{Count, counters};
use super::frame::Outgoing;
use super::inlet::Buffers;
use super::outlets::{Outlets, Place, Places, places};
use super::steering::Steering;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;
use core::time::Duration;
use spin::Mutex;
use table::{Learned, Table};
use virtio_kit::Features;
use virtio_kit::clock::Clock;
use virtio_kit::device::{Chain, DeviceError};

/// Most ports of a switch.
const MAX_PORTS: usize = 1024;

/// What a switch is to be.
#[derive(Clone, Copy, Debug)]
pub struct SwitchOptions {
    /// Most ports, at most 1024.
    pub ports: usize,
    /// Addresses that are remembered, about.
    pub addresses: usize,
    /// Addresses that are remembered of one port, so that no driver can use the table up.
    pub addresses_of_port: usize,
    /// How long an address is remembered after it was last seen, in whole seconds.
    pub max_age: Duration,
    /// Where addresses are kept in the table depends on this; a number that no driver can guess.
    pub seed: u64,
    /// How much may wait for each receive queue of each port.
    pub buffers: Buffers,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            ports: 64,
            addresses: 4096,
            addresses_of_port: 512,
            max_age: Duration::from_secs(300),
            seed: 0,
            buffers: Buffers::default(),
        }
    }
}

/// A switch between devices of this program, on as many threads as these have. It does not know VLANs: a tagged
/// frame goes where its address says.
///
/// A frame is copied once into a buffer of each port that it goes to, and from there into the driver's; what is
/// left to be done to it is done there, if that driver does not take it as it is. Frames for a port that does not
/// keep up are dropped and counted.
#[derive(Clone)]
pub struct Switch(Arc<Core>);

struct Core {
    options: SwitchOptions,
    places: Arc<Places>,
    free: Mutex<Vec<usize>>,
    table: Table,
    clock: Arc<dyn Clock>,
    tally: SwitchTally,
}

counters! {
    /// What became of a switch's frames.
    SwitchCounters, SwitchTally {
        /// Frames to one port, since their address was known.
        switched,
        /// Frames to all other ports: to a group, or to an address that is not known.
        flooded,
        /// Frames to the port that they came from, to an address that is never forwarded, or from a group.
        filtered,
        /// Addresses that were learned.
        learned,
        /// Addresses that moved to another port.
        moved,
        /// Addresses that found no place in the table.
        not_learned,
    }
}

/// What a port has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames for its device that found no place, or no queue that runs.
    pub dropped: u64,
}

/// All ports of a switch are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchFull {
    /// How many it has.
    pub ports: usize,
}

impl fmt::Display for SwitchFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} ports of the switch are taken: remove one, or make it with more", self.ports)
    }
}

impl core::error::Error for SwitchFull {}

impl Switch {
    /// A switch without devices. The clock is for forgetting addresses.
    pub fn new(options: SwitchOptions, clock: Arc<dyn Clock>) -> Self {
        let options = SwitchOptions { ports: options.ports.clamp(1, MAX_PORTS), ..options };
        let SwitchOptions { ports, addresses, addresses_of_port, max_age, seed, .. } = options;
        let max_age = max_age.as_secs().try_into().unwrap_or(i32::MAX);
        Self(Arc::new(Core {
            options,
            places: places(ports),
            free: Mutex::new((0..ports).rev().collect()),
            table: Table::new(addresses, ports, addresses_of_port, max_age, seed),
            clock,
            tally: SwitchTally::default(),
        }))
    }

    /// A free port, for a device. Dropped with its device, it is free again and its addresses are forgotten.
    pub fn port(&self) -> Result<Port, SwitchFull> {
        let index = self.0.free.lock().pop().ok_or(SwitchFull { ports: self.0.options.ports })?;
        let place = Place::new(self.0.places.clone(), index, self.0.options.buffers);
        Ok(Port { place: Some(place), index, core: self.0.clone() })
    }

    /// What was counted so far.
    pub fn counters(&self) -> SwitchCounters {
        self.0.tally.snapshot()
    }

    /// What the device at a port has lost; `None` if there is no device.
    pub fn port_counters(&self, port: usize) -> Option<PortCounters> {
        let inlet = self.0.places.see().get(port)?.clone()?;
        Some(PortCounters { dropped: inlet.dropped() })
    }

    /// Addresses that are remembered, with those that are old and not yet replaced.
    pub fn addresses(&self) -> usize {
        self.0.table.len()
    }
}

/// A port of a switch: the back-end of one device.
pub struct Port {
    place: Option<Place>,
    index: usize,
    core: Arc<Core>,
}

impl Port {
    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    fn place(&self) -> Result<&Place, DeviceError> {
        self.place.as_ref().ok_or(DeviceError::Backend("the port was removed"))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // First nothing is delivered here any more, and then somebody else may have the place.
        self.place = None;
        self.core.table.forget_port(self.index);
        self.core.free.lock().push(self.index);
    }
}

impl Backend for Port {
    fn takes(&self) -> Features {
        ALL_OFFLOADS
    }

    fn attach(&mut self, steering: Steering) {
        if let Some(place) = &mut self.place {
            place.attach(steering);
        }
    }

    fn open_transmit(&mut self, _: u16, _: &Waker) -> Result<Box<dyn Transmit>, DeviceError> {
        let outlets = self.place()?.outlets();
        Ok(Box::new(PortTransmit { outlets, index: self.index, core: self.core.clone(), now: None }))
    }

    fn open_receive(&mut self, pair: u16, waker: &Waker) -> Result<Box<dyn Receive>, DeviceError> {
        self.place()?.open_receive(pair, waker)
    }

    fn reset(&mut self) {
        if let Some(place) = &self.place {
            place.reset();
        }
    }
}

/// One transmit queue of a port.
struct PortTransmit {
    outlets: Outlets,
    index: usize,
    core: Arc<Core>,
    /// Seconds, read once for all frames of a run.
    now: Option<u32>,
}

/// Addresses that a bridge does not forward: 01:80:c2:00:00:00 to :0f.
fn is_link_local(address: [u8; 6]) -> bool {
    matches!(address, [1, 0x80, 0xc2, 0, 0, 0..=15])
}

impl PortTransmit {
    fn forward(&mut self, frame: &Outgoing) {
        let tally = &self.core.tally;
        let mut addresses = [[0; 6]; 2];
        if frame.read_at(0, addresses.as_flattened_mut()).is_err() {
            return;
        }
        let [destination, source] = addresses;
        if source[0] & 1 != 0 || source == [0; 6] || is_link_local(destination) {
            tally.filtered.one_more();
            return;
        }
        let now = *self.now.get_or_insert_with(|| self.core.clock.now().as_secs() as u32);
        match self.core.table.learn(source, self.index, now) {
            Learned::Known => {}
            Learned::New => tally.learned.one_more(),
            Learned::Moved => tally.moved.one_more(),
            Learned::Full => tally.not_learned.one_more(),
        }
        let group = destination[0] & 1 != 0;
        let known = if group { None } else { self.core.table.find(destination, now) };
        let ports = self.outlets.refresh();
        match known {
            Some(port) if port == self.index => tally.filtered.one_more(),
            Some(port) => {
                tally.switched.one_more();
                self.outlets.deliver(port, frame);
            }
            None => {
                tally.flooded.one_more();
                for port in (0..ports).filter(|&port| port != self.index) {
                    self.outlets.deliver(port, frame);
                }
            }
        }
    }
}

impl Transmit for PortTransmit {
    fn submit(&mut self, frame: Outgoing) -> Option<Chain> {
        self.forward(&frame);
        Some(frame.into_chain())
    }

    fn commit(&mut self) -> Result<(), DeviceError> {
        self.now = None;
        self.outlets.flush();
        Ok(())
    }
}
