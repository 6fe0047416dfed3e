//! A socket device as its owner has it.

use super::shared::Shared;
use super::{Address, Counters, Error, Kind, Kinds, ListenError, Socket, SocketError};
use alloc::sync::Arc;
use core::fmt;
use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::{Features, vsock};

/// A socket device: connects and listens, and moves the packets of all its sockets.
pub struct Vsock {
    shared: Arc<Shared>,
    features: Features,
    kinds: Kinds,
}

impl Vsock {
    pub(super) fn new(shared: Arc<Shared>, features: Features) -> Self {
        Self { shared, features, kinds: Kinds::of(features) }
    }

    /// The features agreed on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Which kinds of connections there are.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The context id of this machine, as the device says. It may be another after the machine was moved.
    pub fn cid(&self) -> u64 {
        self.shared.cid()
    }

    /// How often the device has said that all connections are gone (5.10.6.7).
    pub fn resets(&self) -> u32 {
        self.shared.resets.load(Ordering::Acquire)
    }

    /// Whether the device asks to be reset (2.1, DEVICE_NEEDS_RESET).
    pub fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::Relaxed)
    }

    /// Asks for a connection, from a free port. The socket is open once the other end has accepted it.
    pub fn connect(&self, kind: Kind, to: Address) -> Result<Socket, SocketError> {
        self.connect_from(kind, None, to)
    }

    /// The same from a port of the caller's choice. Fails if there is such a connection already, or no room.
    pub fn connect_from(&self, kind: Kind, port: Option<u32>, to: Address) -> Result<Socket, SocketError> {
        if !self.kinds.has(kind) {
            return Err(vsock::Error::Unsupported(kind).into());
        }
        let end = self.shared.link.connect(kind, (self.cid(), port), to)?;
        self.shared.send()?;
        Ok(Socket::new(end, self.shared.clone()))
    }

    /// Listens at a port. Up to `backlog` connections wait to be taken; further ones are refused.
    pub fn listen(&self, kind: Kind, port: u32, backlog: usize) -> Result<Listener, ListenError> {
        if !self.kinds.has(kind) {
            return Err(ListenError::Unsupported(kind));
        }
        let listener = self.shared.listeners.listen(kind, port, backlog)?;
        Ok(Listener { listener, shared: self.shared.clone() })
    }

    /// Moves all packets that can be moved, without waiting; how many came.
    pub fn poll(&self) -> Result<usize, Error> {
        self.shared.poll()
    }

    /// The same, after waiting for packets for up to `limit` if there are none.
    pub fn wait(&self, clock: &dyn Clock, limit: Duration) -> Result<usize, Error> {
        self.shared.wait(clock, limit)
    }

    /// Moves packets for as long as the device runs: the task to spawn beside those of the sockets.
    pub fn run(&self) -> Run<'_> {
        Run { vsock: self }
    }

    /// [`run`](Self::run) in the form that hand-written futures need.
    pub fn poll_run(&self, cx: &mut Context<'_>) -> Poll<Error> {
        self.shared.poll_run(cx)
    }

    /// Connections that there are, those that are being closed among them.
    pub fn connections(&self) -> usize {
        self.shared.link.connections()
    }

    /// What has come that made no sense.
    pub fn counters(&self) -> Counters {
        self.shared.link.counters()
    }
}

impl fmt::Debug for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vsock(cid {}, {:?})", self.cid(), self.features)
    }
}

/// The future of [`Vsock::run`]: ready when the device cannot go on. Dropping it loses nothing.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Run<'v> {
    vsock: &'v Vsock,
}

impl Future for Run<'_> {
    type Output = Error;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        self.vsock.poll_run(cx)
    }
}

/// Takes connections at a port. Dropped, nobody listens there.
pub struct Listener {
    listener: vsock::Listener,
    shared: Arc<Shared>,
}

impl Listener {
    /// Where it listens.
    pub fn port(&self) -> u32 {
        self.listener.port()
    }

    /// A connection that somebody has asked for; `None` if nobody has. It is open.
    pub fn accept(&mut self) -> Option<Socket> {
        self.listener.accept().map(|end| Socket::new(end, self.shared.clone()))
    }

    /// [`accept`](Self::accept) in the form that futures need.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Socket> {
        self.listener.poll_accept(cx).map(|end| Socket::new(end, self.shared.clone()))
    }

    /// Waits for a connection for up to `limit` on this clock, and moves packets meanwhile.
    pub fn accept_within(&mut self, clock: &dyn Clock, limit: Duration) -> Result<Socket, SocketError> {
        let shared = self.shared.clone();
        super::blocking::wait(&shared, clock, limit, || Ok(self.accept()))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listener.fmt(f)
    }
}
