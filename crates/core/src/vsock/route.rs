//! Where requests go.

use super::connection::{Connection, Phase};
use super::end::End;
use super::{Address, Error, Kind, Link};
use alloc::sync::Arc;
use core::fmt;

/// Decides about the connections that the remote end of a link asks for.
pub trait Router: Send + Sync {
    /// Somebody asks. May accept at once, keep the request, hand it on to another link, or drop it, which refuses it.
    fn route(&self, request: Request);
}

/// A connection that somebody asks for. Dropped, it is refused.
pub struct Request {
    connection: Arc<Connection>,
    decided: bool,
    /// Who asks.
    pub from: Address,
    /// Whom they ask.
    pub to: Address,
}

impl Request {
    pub(super) fn new(connection: Arc<Connection>, from: Address, to: Address) -> Self {
        Self { connection, decided: false, from, to }
    }

    /// What is asked for.
    pub fn kind(&self) -> Kind {
        self.connection.kind
    }

    /// Accepts it: the near end of the connection.
    pub fn accept(mut self) -> End {
        self.decided = true;
        self.connection.with(|state, wakes| {
            if state.phase == Phase::Connecting {
                state.phase = Phase::Open;
                state.tell(0, wakes);
            }
        });
        End::new(self.connection.clone(), 1, self.to, self.from)
    }

    /// Hands it on: the remote end of `link` decides. The connection then joins the two, and nothing but its pipes is
    /// between them.
    pub fn forward(mut self, link: &Link) {
        self.decided = link.ask(self.connection.clone(), 1, self.from, self.to);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.decided {
            self.connection.end(Error::Refused);
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({}, {} to {})", self.kind(), self.from, self.to)
    }
}
