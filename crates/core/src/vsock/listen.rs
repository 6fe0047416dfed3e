//! Listening at ports.

use super::end::End;
use super::route::{Request, Router};
use super::{Kind, ListenError, PORT_ANY};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use core::fmt;
use core::task::{Context, Poll, Waker};
use spin::Mutex;

/// Who listens where: a [`Router`] that hands each request to the listener at its port, and refuses others. Clones are
/// the same.
#[derive(Clone, Default)]
pub struct Listeners(Arc<Table>);

#[derive(Default)]
struct Table {
    ports: Mutex<BTreeMap<(Kind, u32), Arc<Backlog>>>,
}

struct Backlog {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    ends: VecDeque<End>,
    waker: Option<Waker>,
}

/// Takes connections at a port. Dropped, nobody listens there, and connections that nobody took are closed.
pub struct Listener {
    table: Weak<Table>,
    kind: Kind,
    port: u32,
    backlog: Arc<Backlog>,
}

impl Listeners {
    /// Nobody listens anywhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens at a port. Up to `backlog` connections, at least one, wait to be taken; further ones are refused.
    pub fn listen(&self, kind: Kind, port: u32, backlog: usize) -> Result<Listener, ListenError> {
        if port == PORT_ANY {
            return Err(ListenError::Reserved);
        }
        let mut ports = self.0.ports.lock();
        if ports.contains_key(&(kind, port)) {
            return Err(ListenError::InUse(port));
        }
        let backlog = Arc::new(Backlog { most: backlog.max(1), waiting: Mutex::default() });
        ports.insert((kind, port), backlog.clone());
        Ok(Listener { table: Arc::downgrade(&self.0), kind, port, backlog })
    }

    /// Whether somebody listens there.
    pub fn has(&self, kind: Kind, port: u32) -> bool {
        self.0.ports.lock().contains_key(&(kind, port))
    }
}

impl Router for Listeners {
    fn route(&self, request: Request) {
        let backlog = self.0.ports.lock().get(&(request.kind(), request.to.port)).cloned();
        // Dropped, it is refused.
        let Some(backlog) = backlog else { return };
        if backlog.waiting.lock().ends.len() >= backlog.most {
            return;
        }
        // Not locked: who is told of the answer may come back. Two at the same moment may be one too many.
        let end = request.accept();
        let waker = {
            let mut waiting = backlog.waiting.lock();
            waiting.ends.push_back(end);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Listener {
    /// What it takes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it listens.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// A connection that somebody has asked for; `None` if nobody has. It is open.
    pub fn accept(&mut self) -> Option<End> {
        self.backlog.waiting.lock().ends.pop_front()
    }

    /// [`accept`](Self::accept) in the form that futures need.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut waiting = self.backlog.waiting.lock();
        match waiting.ends.pop_front() {
            Some(end) => Poll::Ready(end),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.ports.lock().remove(&(self.kind, self.port));
        }
        // Closed with nothing locked.
        let ends = core::mem::take(&mut self.backlog.waiting.lock().ends);
        drop(ends);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({}, port {})", self.kind, self.port)
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listeners({} ports)", self.0.ports.lock().len())
    }
}
