//! Driver and device in one program: the mechanism without a mechanism.
//!
//! [`InProcess`] is the driver's end, a [`Transport`]; [`DeviceEnd`] is the device's. *Inline*, one thread
//! does both: a notification runs the device, and so does waiting for it. *Apart*, somebody runs the device
//! end on other threads, one for all queues or one for each.

mod end;
mod event;

pub use end::DeviceEnd;
pub use event::{Event, SpinEvent};

use crate::clock::Clock;
use crate::device::{ConfigNotice, Device, DeviceError, Memory, QueueState, Region};
use crate::driver::QueueInterrupt;
use crate::transport::{Identity, Notifier, NotifyPosition, QueueSetup, Transport, TransportError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;
use end::Shared;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_ring::mem::{Arena, MemoryError};
use virtio_kit_spec::{F, Features, Status};

/// Ring features that work between two ends in one program.
const FEATURES: Features = F::INDIRECT_DESC
    .union(F::EVENT_IDX)
    .union(F::VERSION_1)
    .union(F::ACCESS_PLATFORM)
    .union(F::RING_PACKED)
    .union(F::IN_ORDER)
    .union(F::NOTIFICATION_DATA)
    .union(F::RING_RESET);

/// How the two ends are joined.
pub struct Options {
    /// The memory that both ends share.
    pub arena: Arena,
    /// Ring features that the device offers.
    pub ring_features: Features,
    /// Whether the driver's thread runs the device.
    pub inline: bool,
    /// The clock for bounded waits.
    pub clock: Arc<dyn Clock>,
    /// Makes the events that the two ends sleep on when they are apart.
    pub event: Box<dyn Fn() -> Arc<dyn Event> + Send>,
}

impl Options {
    /// One thread, all ring features but the choice of layout: split, any order.
    pub fn inline(arena: Arena, clock: Arc<dyn Clock>) -> Self {
        let ring_features = F::INDIRECT_DESC | F::EVENT_IDX | F::RING_RESET;
        let spin = clock.clone();
        let event = Box::new(move || Arc::new(SpinEvent::new(spin.clone())) as Arc<dyn Event>);
        Self { arena, ring_features, inline: true, clock, event }
    }
}

/// The driver's end of a device in the same program.
pub struct InProcess {
    shared: Arc<Shared>,
    arena: Arena,
    memory: Memory,
}

impl InProcess {
    /// Joins a device to a transport for its driver.
    pub fn new(device: Box<dyn Device>, options: Options) -> Result<(Self, DeviceEnd), MemoryError> {
        let Options { arena, ring_features, inline, clock, event } = options;
        let memory = Memory::new([Region::of_arena(&arena)])?;
        let shared = Shared::new(device, ring_features & FEATURES, inline, clock, &*event);
        let end = DeviceEnd::new(shared.clone());
        Ok((Self { shared, arena, memory }, end))
    }

    /// Counts changes of the device's configuration; for a bus to poll.
    pub fn config_notice(&self) -> Arc<ConfigNotice> {
        self.shared.notice()
    }
}

fn refused(error: DeviceError) -> TransportError {
    match error {
        DeviceError::Setup(what) | DeviceError::Backend(what) => TransportError::Refused(what),
        DeviceError::Os(number) => TransportError::Os(number),
        DeviceError::BadChain(_) => TransportError::Refused("a chain broke the rules"),
    }
}

impl Transport for InProcess {
    fn name(&self) -> &str {
        "in-process"
    }

    fn identity(&self) -> Identity {
        Identity::of(self.shared.machine().id())
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn allowed_features(&self) -> Features {
        // Everything of the device's type, and of the rings what works here.
        !crate::driver::RING_FEATURES | FEATURES
    }

    fn reset(&mut self) -> Result<Quiesced, TransportError> {
        let in_flight = self.shared.machine().reset();
        self.shared.forget_interrupts();
        let_go(in_flight)
    }

    fn status(&mut self) -> Result<Status, TransportError> {
        Ok(self.shared.machine().status())
    }

    fn set_status(&mut self, status: Status) -> Result<(), TransportError> {
        let mut machine = self.shared.machine();
        if status.contains(Status::DRIVER_OK) {
            machine.set_memory(self.memory.clone());
        }
        machine.set_status(status).map_err(refused)?;
        drop(machine);
        // Rings may have been filled before DRIVER_OK: the device looks at all of them (3.1.1).
        self.shared.kick_all();
        Ok(())
    }

    fn device_features(&mut self) -> Result<Features, TransportError> {
        Ok(self.shared.machine().offered())
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), TransportError> {
        self.shared.machine().set_accepted(features);
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, TransportError> {
        Ok(self.shared.machine().generation())
    }

    fn read_config(&mut self, offset: usize, to: &mut [u8]) -> Result<(), TransportError> {
        self.shared.machine().read_config(offset, to);
        Ok(())
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> Result<(), TransportError> {
        self.shared.machine().write_config(offset, from);
        Ok(())
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, TransportError> {
        Ok(self.shared.machine().max_queue_size(index))
    }

    fn enable_queue(
        &mut self,
        index: u16,
        setup: QueueSetup,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<Box<dyn Notifier>, TransportError> {
        let addrs = virtio_kit_ring::device::RingAddrs {
            desc: setup.addrs.desc.get(),
            driver: setup.addrs.driver.get(),
            device: setup.addrs.device.get(),
        };
        let state = QueueState { size: setup.size, addrs, position: None, enabled: true };
        self.shared.set_interrupt(index, interrupt)?;
        self.shared.machine().enable_queue(index, state).map_err(refused)?;
        Ok(Box::new(Line { shared: self.shared.clone(), index }))
    }

    fn reset_queue(&mut self, index: u16) -> Result<Quiesced, TransportError> {
        let mut machine = self.shared.machine();
        if index >= self.shared.queue_count() {
            return Err(TransportError::NoQueue(index));
        }
        let_go(machine.reset_queue(index).map_or(0, |stopped| stopped.in_flight.into()))
    }
}

/// The device has handed its half back, unless it kept chains.
fn let_go(in_flight: usize) -> Result<Quiesced, TransportError> {
    match in_flight {
        0 => Ok(Quiesced::on(Evidence::DeviceHalfReturned)),
        _ => Err(TransportError::Refused("the device keeps chains after it was stopped")),
    }
}

/// A queue's line between the ends.
struct Line {
    shared: Arc<Shared>,
    index: u16,
}

impl Notifier for Line {
    fn notify(&self, _: NotifyPosition) -> Result<(), TransportError> {
        self.shared.kick(self.index);
        Ok(())
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        Ok(self.shared.wait_for_device(self.index, limit))
    }
}
