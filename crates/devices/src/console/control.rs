//! Control messages (5.3.6.2). What is to be said of a port is kept as one bit for each thing, so that it is bounded
//! whatever the driver does, and the latest holds.

use super::state::{Direction, PortControl, Shared, Size};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use virtio_kit::device::{Chain, Service, Submitted};
use virtio_kit::spec::console::{Control, ControlEvent, Resize};
use zerocopy::IntoBytes;

/// What there is to say of a port, in the order in which it is said.
pub(super) struct Due;

impl Due {
    const REMOVE: u8 = 1;
    const ADD: u8 = 2;
    const CONSOLE: u8 = 4;
    const NAME: u8 = 8;
    const RESIZE: u8 = 16;
    const OPEN: u8 = 32;
    const ALL: [(u8, ControlEvent); 6] = [
        (Self::REMOVE, ControlEvent::DEVICE_REMOVE),
        (Self::ADD, ControlEvent::DEVICE_ADD),
        (Self::CONSOLE, ControlEvent::CONSOLE_PORT),
        (Self::NAME, ControlEvent::PORT_NAME),
        (Self::RESIZE, ControlEvent::RESIZE),
        (Self::OPEN, ControlEvent::PORT_OPEN),
    ];
}

impl PortControl {
    fn when(&self, yes: bool, due: u8) -> u8 {
        if yes { due } else { 0 }
    }

    /// A port is there.
    pub(super) fn plugged(&mut self, driver_ready: bool) {
        self.ready = false;
        self.due |= self.when(driver_ready, Due::ADD);
        self.added = driver_ready;
    }

    /// The port is gone.
    pub(super) fn unplugged(&mut self) {
        // What the driver was not told of it need not be taken back.
        let told = self.added && self.due & Due::ADD == 0;
        let before = self.due & Due::REMOVE;
        *self = Self { due: before | self.when(told, Due::REMOVE), ..Self::default() };
    }

    /// The driver takes messages.
    fn driver_ready(&mut self) {
        if self.present && !self.added {
            self.added = true;
            self.due |= Due::ADD;
        }
    }

    /// The driver is ready for the port.
    fn port_ready(&mut self, connected: bool) {
        self.ready = true;
        self.due |= self.when(self.console, Due::CONSOLE)
            | self.when(self.name.is_some(), Due::NAME)
            | self.when(self.console && self.size.is_some(), Due::RESIZE)
            | self.when(connected, Due::OPEN);
    }

    pub(super) fn connected(&mut self) {
        self.due |= self.when(self.ready, Due::OPEN);
    }

    pub(super) fn resized(&mut self, size: Size) {
        self.size = Some(size);
        self.due |= self.when(self.ready && self.console, Due::RESIZE);
    }
}

/// The queue to the driver. Its buffers are taken only while there is something to say.
pub(super) struct ToDriver(pub(super) Arc<Shared>);

impl Service for ToDriver {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let shared = &*self.0;
        let mut control = shared.control.lock();
        let found = control.ports.iter_mut().enumerate().find_map(|(id, port)| {
            let first = Due::ALL.into_iter().find(|(bit, _)| port.due & bit != 0)?;
            port.due &= !first.0;
            Some((id, port, first.1))
        });
        if let Some((id, port, event)) = found {
            let connected = shared.place(id as u16).connected.load(Ordering::Acquire);
            let value: u16 = match event {
                ControlEvent::PORT_OPEN => connected.into(),
                ControlEvent::DEVICE_REMOVE => 0,
                _ => 1,
            };
            let header = Control { id: (id as u32).into(), event: event.0.into(), value: value.into() };
            let size = port.size.map_or(Resize::default(), |size| {
                let (first, second) =
                    if shared.rows_first() { (size.rows, size.cols) } else { (size.cols, size.rows) };
                Resize { cols: first.into(), rows: second.into() }
            });
            let rest = match event {
                ControlEvent::PORT_NAME => port.name.as_deref().unwrap_or_default().as_bytes(),
                ControlEvent::RESIZE => size.as_bytes(),
                _ => &[],
            };
            // A driver whose buffer is too small does not get the message, and the buffer comes back empty.
            if chain.writable_len() < Control::SIZE + rest.len() {
                shared.ignore();
            } else {
                let _ = chain.write(header.as_bytes());
                let _ = chain.write(rest);
            }
        }
        let due = control.driver_ready && control.ports.iter().any(|port| port.due != 0);
        shared.due.store(due, Ordering::Release);
        Submitted::Done(chain)
    }

    fn capacity(&self) -> usize {
        usize::from(self.0.due.load(Ordering::Acquire))
    }
}

/// The queue from the driver.
pub(super) struct FromDriver(pub(super) Arc<Shared>);

impl FromDriver {
    /// What the driver says; `None` if it has no meaning.
    fn hear(&self, message: &Control) -> Option<()> {
        let shared = &*self.0;
        let value = message.value.get() != 0;
        let id = u16::try_from(message.id.get()).ok().filter(|&id| id < shared.max_ports());
        match ControlEvent(message.event.get()) {
            // The port number of this one says nothing.
            ControlEvent::DEVICE_READY => shared.with_control(|control| {
                control.driver_ready = value;
                if value {
                    control.ports.iter_mut().for_each(PortControl::driver_ready);
                }
                Some(())
            }),
            ControlEvent::PORT_READY => {
                let connected = shared.place(id?).connected.load(Ordering::Acquire);
                shared.with_control(|control| {
                    let port = &mut control.ports[usize::from(id?)];
                    if !port.present || !port.added {
                        return None;
                    }
                    match value {
                        true => port.port_ready(connected),
                        false => port.ready = false,
                    }
                    Some(())
                })
            }
            ControlEvent::PORT_OPEN => {
                let id = id?;
                let ready = shared.with_control(|control| control.ports[usize::from(id)].ready);
                if !ready {
                    return None;
                }
                shared.place(id).open.store(value, Ordering::Release);
                // What was held back may go.
                shared.wake(id, Direction::ToDriver);
                Some(())
            }
            _ => None,
        }
    }
}

impl Service for FromDriver {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let heard = chain.read_value().ok().and_then(|message: Control| self.hear(&message));
        if heard.is_none() {
            self.0.ignore();
        }
        Submitted::Done(chain)
    }
}
