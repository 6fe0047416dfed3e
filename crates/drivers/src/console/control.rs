//! The console as a whole: which ports there are, and what becomes of them (5.3.6.2).

use super::message::{self, Message};
use super::receive::{FillError, Receive};
use super::state::{PortState, Shared, Size};
use super::{BadMessage, Error, Port, TakeError};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};
use core::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::spec::console::ControlEvent;
use virtio_kit::{Arena, Features};

/// Most bytes of a control message: the longest name with its header fits four times.
pub(super) const MESSAGE_LEN: usize = 1024;

/// A console that was taken: its ports, and what becomes of them.
pub struct Console {
    pub(super) shared: Arc<Shared>,
    /// Control messages from the device, with MULTIPORT.
    pub(super) control: Option<Receive>,
    pub(super) features: Features,
    pub(super) arena: Arena,
    pub(super) rows_first: bool,
    /// Answers to added ports that are still to be sent.
    ready: Box<[Option<bool>]>,
    /// The size in the configuration that was last told.
    size: Option<Size>,
}

/// What has become of a console's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The device has added this port.
    Added(u32),
    /// The device has removed this port.
    Removed(u32),
    /// The port is a console.
    Console(u32),
    /// The port has a name.
    Named(u32),
    /// Somebody is at the other end of the port.
    Opened(u32),
    /// Nobody is at the other end of the port any more.
    Closed(u32),
    /// The port has another size.
    Resized(u32, Size),
    /// The device said something without meaning, which was ignored.
    Ignored(BadMessage),
}

/// What is known of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number.
    pub id: u32,
    /// Its name, if the device gave it one.
    pub name: Option<String>,
    /// Whether it is a console.
    pub console: bool,
    /// Whether somebody is at its other end.
    pub connected: bool,
    /// Its size in characters, if the device has told it.
    pub size: Option<Size>,
}

impl Console {
    pub(super) fn new(
        shared: Arc<Shared>,
        control: Option<Receive>,
        features: Features,
        arena: Arena,
        rows_first: bool,
    ) -> Self {
        let ready = vec![None; shared.ports.len()].into();
        let size = shared.size.get();
        Self { shared, control, features, arena, rows_first, ready, size }
    }

    /// The features agreed on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// How many ports the device may have, as far as the driver goes along.
    pub fn max_ports(&self) -> u32 {
        self.shared.ports.len() as u32
    }

    /// The console's size in the configuration (5.3.4), with SIZE.
    pub fn size(&self) -> Option<Size> {
        self.shared.size.get()
    }

    /// Whether the device has said that it needs a reset: nothing more can be expected of it.
    pub fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::Relaxed)
    }

    /// The ports that are there.
    pub fn ports(&self) -> impl Iterator<Item = PortInfo> + '_ {
        self.shared.ports.iter().filter(|port| port.is_there()).map(|port| PortInfo {
            id: port.id,
            name: port.name.lock().clone(),
            console: port.console.load(Ordering::Acquire),
            connected: port.connected.load(Ordering::Acquire),
            size: port.size.get().or_else(|| if port.id == 0 { self.size() } else { None }),
        })
    }

    /// The first port of this name.
    pub fn named(&self, name: &str) -> Option<u32> {
        let named = |port: &&PortState| port.is_there() && port.name.lock().as_deref() == Some(name);
        self.shared.ports.iter().find(named).map(|port| port.id)
    }

    /// Takes a port. It is not opened by that: [`Port::open`] does.
    pub fn port(&self, id: u32) -> Result<Port, TakeError> {
        Port::take(&self.shared, id)
    }

    /// What the device said next, if it said anything. Answers what is to be answered. Never blocks.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        let size = self.shared.size.get();
        if size != self.size {
            self.size = size;
            if let Some(size) = size {
                return Ok(Some(Event::Resized(0, size)));
            }
        }
        let Some(control) = &mut self.control else { return Ok(None) };
        let mut bytes = [0; MESSAGE_LEN];
        let event = match control.read_message(&mut bytes)? {
            Some(len) => Some(match message::parse(&bytes[..len], self.rows_first) {
                Ok((id, message)) => self.heard(id, message)?,
                Err(bad) => Event::Ignored(bad),
            }),
            None => None,
        };
        if event.is_none() {
            self.answer()?;
        }
        Ok(event)
    }

    /// A message was understood.
    fn heard(&mut self, id: u32, message: Message<'_>) -> Result<Event, Error> {
        let Some(port) = self.shared.port(id) else { return Ok(Event::Ignored(BadMessage::UnknownPort(id))) };
        if message == Message::Add {
            return self.added(id);
        }
        if !port.is_there() {
            return Ok(Event::Ignored(BadMessage::NotAdded(id)));
        }
        Ok(match message {
            Message::Add | Message::Remove => {
                port.turn_over();
                self.ready[id as usize] = None;
                if let Some(receive) = &mut *port.receive.lock() {
                    receive.discard()?;
                }
                Event::Removed(id)
            }
            Message::Console => {
                port.console.store(true, Ordering::Release);
                // A console port is open from then on (5.3.6.2.2).
                port.open.store(true, Ordering::Release);
                port.told_open.store(false, Ordering::Release);
                Event::Console(id)
            }
            Message::Open(open) => {
                port.connected.store(open, Ordering::Release);
                port.wake();
                if open { Event::Opened(id) } else { Event::Closed(id) }
            }
            Message::Name(name) => {
                *port.name.lock() = Some(name.into());
                Event::Named(id)
            }
            Message::Resize(size) => {
                port.size.set(Some(size));
                Event::Resized(id, size)
            }
        })
    }

    /// The device adds a port: it gets its buffers, and the device an answer.
    fn added(&mut self, id: u32) -> Result<Event, Error> {
        let Some(port) = self.shared.port(id) else { return Ok(Event::Ignored(BadMessage::UnknownPort(id))) };
        if port.is_there() {
            return Ok(Event::Ignored(BadMessage::Duplicate(id)));
        }
        match prepare(port, &self.arena) {
            Ok(()) => {
                port.turn_over();
                if let Some(receive) = &mut *port.receive.lock() {
                    receive.generation = port.generation();
                }
                self.ready[id as usize] = Some(true);
                Ok(Event::Added(id))
            }
            Err(FillError::Memory(_)) => {
                self.ready[id as usize] = Some(false);
                Ok(Event::Ignored(BadMessage::NoMemory(id)))
            }
            Err(FillError::Queue(error)) => Err(error),
        }
    }

    /// Sends what is to be sent. Only when everything that the device has said was heard, and one added port at a
    /// time: a device drops what it has to say if there is no buffer for it.
    fn answer(&mut self) -> Result<(), Error> {
        let Some(control) = &self.shared.control else { return Ok(()) };
        if let Some(id) = self.ready.iter().position(Option::is_some) {
            let mut control = control.lock();
            if control.is_flushed()? {
                let value = self.ready[id] == Some(true);
                let message = message::to_device(id as u32, ControlEvent::PORT_READY, value.into());
                if control.send(&message)? {
                    self.ready[id] = None;
                }
            }
            return Ok(());
        }
        for port in &self.shared.ports {
            if port.open.load(Ordering::Acquire) != port.told_open.load(Ordering::Acquire) {
                self.shared.tell_open(port)?;
            }
        }
        Ok(())
    }

    /// Waits until the device may have said something, for up to `limit`; `false` if it has not. A device without
    /// MULTIPORT never does.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        let sending = self.ready.iter().any(Option::is_some);
        if sending && let Some(control) = &self.shared.control {
            // The next answer goes when the last one was taken.
            return control.lock().wait(limit);
        }
        self.control.as_mut().map_or(Ok(false), |control| control.wait(limit))
    }

    /// What the device said next, as a future.
    pub async fn next(&mut self) -> Result<Event, Error> {
        core::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) in the form that hand-written futures need.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        loop {
            self.shared.owner.register(cx.waker());
            if let Some(event) = self.poll()? {
                return Poll::Ready(Ok(event));
            }
            if self.ready.iter().any(Option::is_some)
                && let Some(control) = &self.shared.control
            {
                core::task::ready!(control.lock().poll_reclaim(cx))?;
                continue;
            }
            let Some(control) = &mut self.control else { return Poll::Pending };
            core::task::ready!(control.poll_come(cx))?;
        }
    }

    /// Takes what the device says until `look` finds what it looks for, for up to `limit` on this clock. `None` if
    /// the time is over.
    pub fn wait_for<R>(
        &mut self,
        clock: &dyn Clock,
        limit: Duration,
        mut look: impl FnMut(&mut Self, Option<Event>) -> Option<R>,
    ) -> Result<Option<R>, Error> {
        let deadline = clock.now().saturating_add(limit);
        let mut found = look(self, None);
        while found.is_none() {
            let event = self.poll()?;
            found = look(self, event);
            let left = deadline.saturating_sub(clock.now());
            if left.is_zero() {
                break;
            }
            if event.is_none() && found.is_none() && !self.wait(left)? {
                clock.relax();
            }
        }
        Ok(found)
    }
}

/// Gives a port its buffers.
pub(super) fn prepare(port: &PortState, arena: &Arena) -> Result<(), FillError> {
    if let Some(transmit) = &mut *port.transmit.lock() {
        transmit.prepare(arena).map_err(FillError::Memory)?;
    }
    if let Some(receive) = &mut *port.receive.lock() {
        receive.fill(arena)?;
    }
    Ok(())
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("max_ports", &self.max_ports()).finish_non_exhaustive()
    }
}
