//! A console device (5.3).
//!
//! [`Console`] is the device. Of its ports it knows a number, perhaps a name, and two halves of a back-end: an
//! [`Input`] that is polled for bytes for the driver, and an [`Output`] to which the driver's bytes are submitted.
//! What makes the halves is a [`PortBackend`]; [`Transcript`] is one in memory, [`Echo`] answers, and terminals, pseudo-terminals and
//! sockets are in `virtio-kit-linux`. A [`Handle`] adds and removes ports and resizes them while the device runs.

mod backend;
mod config;
mod control;
mod data;
mod echo;
mod handle;
mod state;
mod transcript;

pub use backend::{Input, Output, PortBackend, PortLink};
pub use echo::Echo;
pub use handle::{Handle, PlugError, Port};
pub use state::Size;
pub use transcript::Transcript;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::task::Waker;
use data::{Receive, Transmit};
use state::Shared;
use virtio_kit::device::{self, ConfigNotice, Device, DeviceError, Queue, Serving, Worker};
use virtio_kit::spec::console::{CONTROL_RX_QUEUE, CONTROL_TX_QUEUE, Config, F};
use virtio_kit::{DeviceId, Features};
use zerocopy::IntoBytes;

/// Most ports of a device: the queues of all of them have numbers below 1024.
pub const MAX_PORTS: u16 = 511;

/// A console device.
pub struct Console {
    shared: Arc<Shared>,
    /// Where emergency writes go to.
    emergency: Option<Box<dyn Output>>,
}

impl Console {
    /// A device with one port, which has no name and is always there.
    pub fn single(backend: impl PortBackend + 'static) -> Self {
        let console = Self::multiport(1).without_multiport();
        // The only port is free.
        let _ = console.handle().plug(0, Port::new(backend).console());
        console
    }

    /// A device that may have up to `ports` ports, at most [`MAX_PORTS`], and has none yet: see [`Handle::plug`].
    pub fn multiport(ports: u16) -> Self {
        Self { shared: Shared::new(ports.clamp(1, MAX_PORTS), true), emergency: None }
    }

    /// The same without MULTIPORT: only port 0 is ever seen, and it is taken to be there whether it is or not.
    pub fn without_multiport(self) -> Self {
        Self { shared: Shared::new(1, false), ..self }
    }

    /// The same with a size in its configuration, which can be changed later by [`Handle::resize`].
    pub fn with_size(self, size: Size) -> Self {
        self.shared.set_config_size(Some(size));
        self
    }

    /// The same with an output for emergency writes (5.3.4), which come one byte at a time, from a driver in
    /// whatever state. What the output does not take is lost.
    pub fn with_emergency(mut self, output: impl Output + 'static) -> Self {
        self.emergency = Some(Box::new(output));
        self
    }

    /// Has RESIZE messages carry rows before columns, the other way round than the document (5.3.6.2), for drivers
    /// that take them so: Linux's did for years.
    pub fn with_rows_first(self) -> Self {
        self.shared.set_rows_first();
        self
    }

    /// By which ports come and go while the device runs.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }
}

impl Device for Console {
    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }

    fn features(&self) -> Features {
        let when = |yes, feature| if yes { feature } else { Features::EMPTY };
        when(self.shared.config_size().is_some(), F::SIZE)
            | when(self.shared.is_multiport(), F::MULTIPORT)
            | when(self.emergency.is_some(), F::EMERG_WRITE)
    }

    fn queue_count(&self) -> u16 {
        match self.shared.is_multiport() {
            true => 2 + 2 * self.shared.max_ports(),
            false => 2,
        }
    }

    fn max_queue_size(&self, index: u16) -> u16 {
        if matches!(index, CONTROL_RX_QUEUE | CONTROL_TX_QUEUE) { 64 } else { 128 }
    }

    fn read_config(&self, offset: usize, to: &mut [u8]) {
        device::read_bytes(config::config(&self.shared).as_bytes(), offset, to);
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) {
        // The one field that a driver may write; its low byte is the character, however wide the access is.
        if offset == offset_of!(Config, emerg_wr)
            && let (Some(output), [byte, ..]) = (&mut self.emergency, from)
        {
            output.submit(&[*byte]);
        }
    }

    fn takes_early_writes(&self, offset: usize) -> bool {
        self.emergency.is_some() && offset == offset_of!(Config, emerg_wr)
    }

    fn activate(&mut self, features: Features) -> Result<(), DeviceError> {
        self.shared.activate(features.contains(F::MULTIPORT));
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let shared = self.shared.clone();
        Ok(match (self.shared.is_multiport(), index) {
            (true, CONTROL_RX_QUEUE) => Box::new(Serving::new(queue, control::ToDriver(shared))),
            (true, CONTROL_TX_QUEUE) => Box::new(Serving::new(queue, control::FromDriver(shared))),
            _ => {
                let port = if index < 2 { 0 } else { index / 2 - 1 };
                if port >= self.shared.max_ports() {
                    return Err(DeviceError::Setup("no such queue"));
                }
                match index % 2 {
                    0 => Box::new(Serving::new(queue, Receive::new(shared, port))),
                    _ => Box::new(Serving::new(queue, Transmit::new(shared, port))),
                }
            }
        })
    }

    fn reset(&mut self) {
        self.shared.reset();
    }

    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.shared.attach(notice);
    }

    fn attach_wakers(&mut self, wakers: Vec<Waker>) {
        self.shared.attach_wakers(wakers);
    }
}
