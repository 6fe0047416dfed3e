//! By which the rest of the program reaches a guest.

use super::shared::Shared;
use super::{Address, Counters, End, Error, Kind, Request};
use alloc::sync::Arc;
use core::fmt;
use virtio_kit::spec::vsock::HOST_CID;

/// By which the rest of the program reaches a guest. Clones are for other threads.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The guest's context id.
    pub fn cid(&self) -> u64 {
        self.shared.cid()
    }

    /// Asks the guest for a connection from the host, from a free port if none is given. It opens when the guest has
    /// accepted it. Refused at once if there is no driver, or no room.
    pub fn connect(&self, kind: Kind, from: Option<u32>, port: u32) -> Result<End, Error> {
        self.shared.link.connect(kind, (HOST_CID, from), Address::new(self.cid(), port))
    }

    /// Has the guest decide about a request of somebody else.
    pub fn forward(&self, request: Request) {
        request.forward(&self.shared.link);
    }

    /// All connections are gone, and the guest is told so by an event (5.10.6.7): after its machine was moved, or what
    /// is behind its connections.
    pub fn reset_connections(&self) {
        self.shared.announce_reset();
    }

    /// The guest has another context id from now on. Its connections are gone, and it is told to look (5.10.6.7).
    pub fn set_cid(&self, cid: u64) -> Result<(), CidError> {
        check(cid)?;
        self.shared.rename(cid)?;
        self.shared.set_cid(cid);
        Ok(())
    }

    /// Connections that the guest has, those that are being closed among them.
    pub fn connections(&self) -> usize {
        self.shared.link.connections()
    }

    /// What the guest has sent that made no sense.
    pub fn counters(&self) -> Counters {
        self.shared.link.counters()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle(cid {})", self.cid())
    }
}

/// Fails if no guest may have this context id (5.10.4).
pub(super) fn check(cid: u64) -> Result<(), CidError> {
    match cid {
        0..=HOST_CID | 0xffff_ffff.. => Err(CidError::Reserved(cid)),
        _ => Ok(()),
    }
}

/// Why a guest cannot have a context id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidError {
    /// It is not for guests.
    Reserved(u64),
    /// Another guest has it.
    InUse(u64),
}

impl fmt::Display for CidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(cid) => {
                write!(f, "context id {cid} is not for guests: they have those from 3 to 4294967294")
            }
            Self::InUse(cid) => write!(f, "another guest has context id {cid}"),
        }
    }
}

impl core::error::Error for CidError {}
