//! A bus back-end of PCI functions.

use super::config::{self, Address, Function};
use super::{ConfigWatch, Host, LegacyTransport, PciTransport, is_virtio};
use crate::bus::{Backend, Event};
use crate::driver::Found;
use crate::transport::{Transport, TransportError};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

/// Takes the virtio device of a function by whichever interface it has, the modern one first (4.1.3.1), with what
/// tells of changes of its configuration.
pub fn open(host: Arc<dyn Host>, at: Address) -> Result<(Box<dyn Transport>, ConfigWatch), TransportError> {
    match PciTransport::open(host.clone(), at) {
        Ok(modern) => {
            let watch = modern.config_watch();
            Ok((Box::new(modern), watch))
        }
        Err(error) => {
            if !super::has_legacy(&Function::new(&*host, at))? {
                return Err(error);
            }
            let legacy = LegacyTransport::open(host, at)?;
            let watch = legacy.config_watch();
            Ok((Box::new(legacy), watch))
        }
    }
}

/// A device's key on the bus: segment, bus, device and function in one number.
pub fn key(at: Address) -> u64 {
    u64::from(at.segment) << 16 | u64::from(at.bdf())
}

/// Looks through a host's buses, those behind bridges too, and offers the virtio functions there to drivers.
pub struct PciHost {
    host: Arc<dyn Host>,
    roots: Vec<(u16, u8)>,
    devices: BTreeMap<u64, (Address, ConfigWatch)>,
    failed: Vec<(Address, TransportError)>,
    scan: Rescan,
}

/// Asks a [`PciHost`], wherever it is installed, to look through its buses again: something was plugged in or out.
#[derive(Clone, Debug)]
pub struct Rescan(Arc<AtomicBool>);

impl Rescan {
    /// At the next poll. May be called in interrupt context.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl PciHost {
    /// A back-end for bus 0 of segment 0, and what is behind it.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self::with_roots(host, [(0, 0)])
    }

    /// A back-end for these root buses (segment and number), and what is behind them.
    pub fn with_roots(host: Arc<dyn Host>, roots: impl IntoIterator<Item = (u16, u8)>) -> Self {
        Self {
            host,
            roots: roots.into_iter().collect(),
            devices: BTreeMap::new(),
            failed: Vec::new(),
            scan: Rescan(Arc::new(AtomicBool::new(true))),
        }
    }

    /// By which a scan can be asked for later.
    pub fn rescan(&self) -> Rescan {
        self.scan.clone()
    }

    /// Functions of virtio's vendor that could not be opened at the last scan, and why.
    pub fn failed(&self) -> &[(Address, TransportError)] {
        &self.failed
    }

    fn found(&self) -> Vec<Address> {
        let mut found = Vec::new();
        for &(segment, bus) in &self.roots {
            let see = |at, id| {
                if is_virtio(id) {
                    found.push(at);
                }
                Ok(())
            };
            // Of a bus that cannot be read there is nothing to be told.
            let _ = config::scan_tree(&*self.host, segment, bus, see);
        }
        found
    }
}

impl Backend for PciHost {
    fn name(&self) -> &str {
        "pci"
    }

    fn poll(&mut self, tell: &mut dyn FnMut(Event)) {
        let scan = self.scan.0.swap(false, Ordering::Acquire);
        let found = if scan { self.found() } else { Vec::new() };
        if scan {
            self.failed.clear();
            self.devices.retain(|&key, (at, _)| {
                let there = found.contains(at);
                if !there {
                    tell(Event::Removed(key));
                }
                there
            });
        }
        for (&key, (_, watch)) in &self.devices {
            // A device that cannot be asked has changed in a way that its driver should hear of.
            if watch.changed().unwrap_or(true) {
                tell(Event::ConfigChanged(key));
            }
        }
        for at in found {
            if self.devices.contains_key(&key(at)) {
                continue;
            }
            match open(self.host.clone(), at) {
                Ok((transport, watch)) => {
                    self.devices.insert(key(at), (at, watch));
                    tell(Event::Added(key(at), Found::new(transport)));
                }
                Err(error) => self.failed.push((at, error)),
            }
        }
    }
}

impl fmt::Debug for PciHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciHost")
            .field("devices", &self.devices.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
