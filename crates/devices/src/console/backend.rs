//! What is at the other end of a port: submit and poll.

use super::state::{Direction, Shared};
use alloc::boxed::Box;
use alloc::sync::Weak;

/// Bytes for the driver.
pub trait Input: Send {
    /// Copies bytes to the start of `to`: how many; 0 if there are none now. Then [`PortLink::input`] says when there
    /// are.
    fn poll(&mut self, to: &mut [u8]) -> usize;
}

/// Bytes from the driver.
pub trait Output: Send {
    /// Takes the start of `from`: how many bytes; 0 if none can be taken now. Then [`PortLink::output`] says when they
    /// can.
    fn submit(&mut self, from: &[u8]) -> usize;
}

/// Makes the two halves of a port.
pub trait PortBackend: Send {
    /// The port is plugged in. The halves may be used by two threads; they call `link` when something happens.
    fn start(self: Box<Self>, link: PortLink) -> (Box<dyn Input>, Box<dyn Output>);
}

/// By which a back-end tells its port what happens. Does nothing once the port is gone.
#[derive(Clone)]
pub struct PortLink {
    shared: Weak<Shared>,
    port: u16,
    plugged: u32,
}

impl PortLink {
    pub(super) fn new(shared: Weak<Shared>, port: u16, plugged: u32) -> Self {
        Self { shared, port, plugged }
    }

    /// There is input, after there was none. Hold no lock of yours: the port may poll at once.
    pub fn input(&self) {
        self.wake(Direction::ToDriver);
    }

    /// Output can be taken, after none could. Hold no lock of yours: the port may submit at once.
    pub fn output(&self) {
        self.wake(Direction::FromDriver);
    }

    fn wake(&self, direction: Direction) {
        if let Some(shared) = self.shared.upgrade() {
            shared.wake(self.port, direction);
        }
    }

    /// Somebody is there now at the other end, or nobody is any more. The driver is told; while nobody is there, what
    /// it sends is thrown away.
    pub fn set_connected(&self, connected: bool) {
        if let Some(shared) = self.shared.upgrade() {
            shared.set_connected(self.port, Some(self.plugged), connected);
        }
    }
}
