//! Guests that reach each other.

use super::handle::Handle;
use super::{CidError, Limits, Request, Router, Vsock};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::fmt;
use portable_atomic::{AtomicU64, Ordering};
use spin::Mutex;
use virtio_kit::spec::vsock::HOST_CID;

/// Joins guests to each other, and each to a router of its own for the host. Clones are the same.
#[derive(Clone, Default)]
pub struct Hub(Arc<Guests>);

#[derive(Default)]
struct Guests {
    by_cid: Mutex<BTreeMap<u64, Handle>>,
}

impl Hub {
    /// A hub without guests.
    pub fn new() -> Self {
        Self::default()
    }

    /// The device of a guest. Its requests to the host's context id go to `host`, those to another guest there, and all
    /// others are refused. The guest is of the hub for as long as the device lives.
    pub fn device(&self, cid: u64, limits: Limits, host: Arc<dyn Router>) -> Result<Vsock, CidError> {
        let port = Arc::new(Port { guests: Arc::downgrade(&self.0), cid: AtomicU64::new(cid), host });
        let device = Vsock::new(cid, limits, port.clone())?;
        let handle = device.handle();
        {
            let mut guests = self.0.by_cid.lock();
            if guests.contains_key(&cid) {
                return Err(CidError::InUse(cid));
            }
            guests.insert(cid, handle.clone());
        }
        handle.shared().join(Membership { guests: self.0.clone(), port });
        Ok(device)
    }

    /// The guest with this context id.
    pub fn guest(&self, cid: u64) -> Option<Handle> {
        self.0.by_cid.lock().get(&cid).cloned()
    }
}

/// A guest's way to the others.
struct Port {
    guests: Weak<Guests>,
    cid: AtomicU64,
    host: Arc<dyn Router>,
}

impl Router for Port {
    fn route(&self, request: Request) {
        if request.to.cid == HOST_CID {
            return self.host.route(request);
        }
        if request.to.cid == self.cid.load(Ordering::Acquire) {
            // A guest reaches itself without a device.
            return;
        }
        let guests = self.guests.upgrade();
        let guest = guests.and_then(|guests| guests.by_cid.lock().get(&request.to.cid).cloned());
        // Dropped, it is refused.
        if let Some(guest) = guest {
            guest.forward(request);
        }
    }
}

/// A guest is of a hub for as long as it has this.
pub(super) struct Membership {
    /// The hub lives as long as a guest of it, whoever else has let go of it.
    guests: Arc<Guests>,
    port: Arc<Port>,
}

impl Membership {
    /// The guest has another context id from now on.
    pub(super) fn rename(&mut self, to: u64) -> Result<(), CidError> {
        let from = self.port.cid.load(Ordering::Acquire);
        let mut guests = self.guests.by_cid.lock();
        if to != from {
            if guests.contains_key(&to) {
                return Err(CidError::InUse(to));
            }
            if let Some(guest) = guests.remove(&from) {
                guests.insert(to, guest);
            }
            self.port.cid.store(to, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let cid = self.port.cid.load(Ordering::Acquire);
        // What the guest was known by is dropped with nothing locked.
        let guest = self.guests.by_cid.lock().remove(&cid);
        drop(guest);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({} guests)", self.0.by_cid.lock().len())
    }
}
