//! Drivers, back-ends, and the matching between them.
//!
//! A driver registers once; it is offered every device of every back-end that the system has now or installs
//! later. A back-end is whatever finds devices: a PCI bus, a list of sockets, a table of devices in this
//! program. Back-ends are installed, replaced and removed at run time, and several may be there at once.

mod device_match;
mod fixed;

pub use device_match::DeviceMatch;
pub use fixed::Fixed;

use crate::driver::Found;
use crate::transport::TransportError;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use virtio_kit_spec::DeviceId;

/// A driver: what it is called, what it can drive, and what it does with a device it is offered.
pub trait Driver: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Which devices it can drive.
    fn id_table(&self) -> &[DeviceMatch];

    /// Takes a device. On an error the device is left with FAILED set, and stays without a driver.
    fn probe(&self, device: Found) -> Result<Box<dyn Bound>, ProbeError>;
}

/// A device that a driver has taken.
pub trait Bound: Send {
    /// The device's configuration changed (link, capacity, size), or it needs a reset.
    fn config_changed(&mut self);

    /// Whether the device has said that only a reset mends it (2.1.2): the bus then removes it from its driver, which
    /// gives every request in flight back, and offers it anew.
    fn needs_reset(&self) -> bool {
        false
    }

    /// The driver must let go: every buffer goes back to its owner. What can be driven again comes back.
    fn remove(self: Box<Self>) -> Option<Found>;
}

/// Finds devices.
pub trait Backend: Send {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Tells what happened since the last call. The first call tells of every device there is.
    fn poll(&mut self, tell: &mut dyn FnMut(Event));
}

/// What a back-end has to tell. Keys are the back-end's own, and name one device each.
pub enum Event {
    /// A device is there.
    Added(u64, Found),
    /// A device is gone, or is about to be.
    Removed(u64),
    /// A device's configuration changed.
    ConfigChanged(u64),
}

/// A back-end that was installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendId(u32);

/// A driver that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverId(u32);

/// What can be said of a device on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// No driver has matched it.
    Unbound,
    /// This driver has it.
    Bound(DriverId),
    /// A driver's probe failed.
    Failed(ProbeError),
}

/// The bus: one value, owned by whoever runs the system. All operations take `&mut self`.
#[derive(Default)]
pub struct Bus {
    backends: BTreeMap<BackendId, Box<dyn Backend>>,
    drivers: BTreeMap<DriverId, Arc<dyn Driver>>,
    /// Drivers that name a device type, by type, and those that take any.
    by_type: BTreeMap<u32, Vec<DriverId>>,
    any_type: Vec<DriverId>,
    devices: BTreeMap<(BackendId, u64), Entry>,
    next: u32,
}

enum Entry {
    Unbound(Found),
    Bound(DriverId, Box<dyn Bound>),
    Failed(ProbeError),
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Installs a back-end and offers its devices to the drivers that are registered.
    pub fn install_backend(&mut self, backend: Box<dyn Backend>) -> BackendId {
        let id = BackendId(self.number());
        self.backends.insert(id, backend);
        self.poll_backend(id);
        id
    }

    /// Removes a back-end, and its devices from their drivers.
    pub fn remove_backend(&mut self, id: BackendId) -> Result<Box<dyn Backend>, BusError> {
        let backend = self.backends.remove(&id).ok_or(BusError::NoSuchBackend)?;
        let keys: Vec<_> = self.devices.range((id, 0)..=(id, u64::MAX)).map(|(&key, _)| key).collect();
        keys.into_iter().for_each(|key| self.take_away(key));
        Ok(backend)
    }

    /// Puts another back-end in the place of one: the old one's devices are removed from their drivers, then
    /// the new one's are offered.
    pub fn replace_backend(
        &mut self,
        old: BackendId,
        new: Box<dyn Backend>,
    ) -> Result<(BackendId, Box<dyn Backend>), BusError> {
        let old = self.remove_backend(old)?;
        Ok((self.install_backend(new), old))
    }

    /// Registers a driver and offers it every device that has none. Fails if no back-end is installed.
    pub fn register_driver(&mut self, driver: Arc<dyn Driver>) -> Result<DriverId, BusError> {
        if self.backends.is_empty() {
            return Err(BusError::NoBackend);
        }
        Ok(self.add_driver(driver))
    }

    /// Registers a driver before there is any back-end: it gets the devices of those installed later.
    pub fn register_driver_early(&mut self, driver: Arc<dyn Driver>) -> DriverId {
        self.add_driver(driver)
    }

    fn add_driver(&mut self, driver: Arc<dyn Driver>) -> DriverId {
        let id = DriverId(self.number());
        let mut types: Vec<Option<DeviceId>> = driver.id_table().iter().map(|m| m.device).collect();
        types.sort_unstable();
        types.dedup();
        if types.contains(&None) {
            self.any_type.push(id);
        } else {
            types.iter().flatten().for_each(|t| self.by_type.entry(t.0).or_default().push(id));
        }
        self.drivers.insert(id, driver.clone());
        let free: Vec<_> =
            self.devices.iter().filter(|(_, e)| e.suits(&*driver)).map(|(&key, _)| key).collect();
        for key in free {
            if let Some(Entry::Unbound(found)) = self.devices.remove(&key) {
                let entry = probe(id, &*driver, found);
                self.devices.insert(key, entry);
            }
        }
        id
    }

    /// Unregisters a driver: it lets go of all its devices, which stay on the bus.
    pub fn unregister_driver(&mut self, id: DriverId) -> Result<Arc<dyn Driver>, BusError> {
        let driver = self.drivers.remove(&id).ok_or(BusError::NoSuchDriver)?;
        self.any_type.retain(|&d| d != id);
        self.by_type.values_mut().for_each(|all| all.retain(|&d| d != id));
        let bound = |e: &Entry| matches!(e, Entry::Bound(d, _) if *d == id);
        let keys: Vec<_> = self.devices.iter().filter(|(_, e)| bound(e)).map(|(&key, _)| key).collect();
        for key in keys {
            if let Some(Entry::Bound(_, device)) = self.devices.remove(&key)
                && let Some(found) = device.remove()
            {
                self.devices.insert(key, Entry::Unbound(found));
            }
        }
        Ok(driver)
    }

    /// Asks all back-ends for news: devices that came and went, configurations that changed.
    pub fn poll(&mut self) {
        let ids: Vec<_> = self.backends.keys().copied().collect();
        ids.into_iter().for_each(|id| self.poll_backend(id));
    }

    fn poll_backend(&mut self, id: BackendId) {
        let Some(backend) = self.backends.get_mut(&id) else { return };
        let mut events = Vec::new();
        backend.poll(&mut |event| events.push(event));
        for event in events {
            match event {
                Event::Added(key, found) => {
                    self.take_away((id, key));
                    let entry = self.offer(found);
                    self.devices.insert((id, key), entry);
                }
                Event::Removed(key) => self.take_away((id, key)),
                Event::ConfigChanged(key) => {
                    if let Some(Entry::Bound(_, device)) = self.devices.get_mut(&(id, key)) {
                        device.config_changed();
                        if device.needs_reset() {
                            self.start_over((id, key));
                        }
                    }
                }
            }
        }
    }

    /// Takes a device away and offers it again; one that does not even reset stays away.
    fn start_over(&mut self, key: (BackendId, u64)) {
        if let Some(Entry::Bound(_, device)) = self.devices.remove(&key)
            && let Some(found) = device.remove()
        {
            let entry = self.offer(found);
            self.devices.insert(key, entry);
        }
    }

    /// Offers a device to the first driver that matches, in the order of registration.
    fn offer(&self, found: Found) -> Entry {
        let identity = found.identity();
        let typed = self.by_type.get(&identity.device.0).map_or(&[][..], |v| v);
        let first = typed.iter().chain(&self.any_type).filter(|id| {
            let driver = self.drivers.get(id);
            driver.is_some_and(|d| d.id_table().iter().any(|m| m.matches(&identity)))
        });
        match first.min().and_then(|id| Some((*id, self.drivers.get(id)?))) {
            Some((id, driver)) => probe(id, &**driver, found),
            None => Entry::Unbound(found),
        }
    }

    fn take_away(&mut self, key: (BackendId, u64)) {
        if let Some(Entry::Bound(_, device)) = self.devices.remove(&key) {
            device.remove();
        }
    }

    /// Every device on the bus: its back-end, the back-end's key, and its state.
    pub fn devices(&self) -> impl Iterator<Item = (BackendId, u64, DeviceState)> + '_ {
        self.devices.iter().map(|(&(backend, key), entry)| {
            let state = match entry {
                Entry::Unbound(_) => DeviceState::Unbound,
                Entry::Bound(driver, _) => DeviceState::Bound(*driver),
                Entry::Failed(error) => DeviceState::Failed(*error),
            };
            (backend, key, state)
        })
    }
}

impl Entry {
    fn suits(&self, driver: &dyn Driver) -> bool {
        match self {
            Self::Unbound(found) => {
                let identity = found.identity();
                driver.id_table().iter().any(|m| m.matches(&identity))
            }
            _ => false,
        }
    }
}

fn probe(id: DriverId, driver: &dyn Driver, found: Found) -> Entry {
    match driver.probe(found) {
        Ok(device) => Entry::Bound(id, device),
        Err(error) => Entry::Failed(error),
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let keys: Vec<_> = self.devices.keys().copied().collect();
        keys.into_iter().for_each(|key| self.take_away(key));
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("backends", &self.backends.len())
            .field("drivers", &self.drivers.len())
            .field("devices", &self.devices.len())
            .finish()
    }
}

/// Why a driver did not take a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// The transport failed.
    Transport(TransportError),
    /// Features were not agreed on.
    Negotiate(crate::driver::NegotiateError),
    /// A virtqueue could not be made.
    Queue(crate::driver::NewVqError),
    /// The device's configuration makes no sense, or lacks what the driver needs.
    BadConfig(&'static str),
    /// No memory that the device can reach.
    Memory(virtio_kit_ring::mem::AllocError),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Negotiate(error) => error.fmt(f),
            Self::Queue(error) => error.fmt(f),
            Self::BadConfig(what) => write!(f, "the device's configuration is unusable: {what}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ProbeError {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$error> for ProbeError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )+};
}
from! {
    TransportError => Transport,
    crate::driver::NegotiateError => Negotiate,
    crate::driver::NewVqError => Queue,
    virtio_kit_ring::mem::AllocError => Memory,
}

/// Why the bus did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// No back-end is installed, so there is nothing that could find a device (ENOSYS).
    NoBackend,
    /// The back-end is not, or no longer, installed.
    NoSuchBackend,
    /// The driver is not, or no longer, registered.
    NoSuchDriver,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBackend => "no back-end is installed: install one, or register the driver early",
            Self::NoSuchBackend => "no such back-end is installed",
            Self::NoSuchDriver => "no such driver is registered",
        })
    }
}

impl core::error::Error for BusError {}
