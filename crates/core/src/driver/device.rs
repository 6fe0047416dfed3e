//! A running device.

use super::setup::{self, Found, Open};
use super::virtqueue::Virtqueue;
use crate::registers::Window;
use crate::transport::{Identity, QueueSetup, TransportError};
use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;
use virtio_kit_ring::driver::{Evidence, Quiesced};
use virtio_kit_ring::{AnyChain, Arena};
use virtio_kit_spec::{F, Features, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A device with DRIVER_OK set. Queues run apart from it; this handle is for everything else.
///
/// Dropped, it resets the device.
pub struct Device {
    /// `None` once it was reset.
    open: Option<Open>,
}

impl Device {
    pub(super) fn new(open: Open) -> Self {
        Self { open: Some(open) }
    }

    fn open(&mut self) -> Result<&mut Open, TransportError> {
        self.open.as_mut().ok_or(TransportError::Disconnected)
    }

    /// The features agreed on.
    pub fn features(&self) -> Features {
        self.open.as_ref().map_or(Features::EMPTY, |o| o.features)
    }

    /// What the device is.
    pub fn identity(&self) -> Identity {
        self.open.as_ref().map_or(Identity::of(virtio_kit_spec::DeviceId(0)), |o| o.transport.identity())
    }

    /// Name of the mechanism.
    pub fn transport_name(&self) -> &str {
        self.open.as_ref().map_or("", |o| o.transport.name())
    }

    /// Memory that the device can reach.
    pub fn arena(&self) -> Option<&Arena> {
        self.open.as_ref().map(|o| o.transport.arena())
    }

    /// Reads the start of the configuration space, all of it from one moment (2.5).
    pub fn read_config<C: FromBytes + IntoBytes>(&mut self) -> Result<C, TransportError> {
        setup::read_config(&mut *self.open()?.transport)
    }

    /// Reads some fields of the configuration space: see
    /// [`Setup::read_config_fields`](super::Setup::read_config_fields).
    pub fn read_config_fields<C: FromBytes + IntoBytes>(
        &mut self,
        fields: &[Range<usize>],
    ) -> Result<C, TransportError> {
        setup::read_config_fields(&mut *self.open()?.transport, fields)
    }

    /// Writes one field of the configuration space.
    pub fn write_config<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: &V,
    ) -> Result<(), TransportError> {
        setup::write_config(&mut *self.open()?.transport, offset, value)
    }

    /// The shared memory region with this id (2.10); `None` if the device has none.
    pub fn shared_memory(&mut self, id: u8) -> Result<Option<Window>, TransportError> {
        self.open()?.transport.shared_memory(id)
    }

    /// Whether the device asks to be reset (2.1, DEVICE_NEEDS_RESET).
    pub fn needs_reset(&mut self) -> Result<bool, TransportError> {
        Ok(self.open()?.transport.status()?.contains(Status::DEVICE_NEEDS_RESET))
    }

    /// Resets one queue (2.6.1): the device lets go of it, and so the queue can be shut down. Other queues go
    /// on. Not every transport can.
    pub fn reset_vq<C: AnyChain, T>(&mut self, vq: &Virtqueue<C, T>) -> Result<Quiesced, TransportError> {
        let quiesced = self.open()?.transport.reset_queue(vq.index())?;
        vq.interrupt().quiesce(&quiesced);
        Ok(quiesced)
    }

    /// Enables a queue again that was reset and shut down, as good as new (2.6.1.2).
    pub fn enable_vq<C: AnyChain, T>(&mut self, vq: &mut Virtqueue<C, T>) -> Result<(), TransportError> {
        let setup = QueueSetup { size: vq.size(), addrs: vq.ring().addrs() };
        let interrupt = vq.interrupt().clone();
        if !vq.ring().is_stopped() || vq.in_flight() != 0 {
            return Err(TransportError::Unsupported("the queue is in use"));
        }
        let transport = &mut self.open()?.transport;
        // First, so that the device does not find in the ring what its last life left there.
        vq.revive();
        match transport.enable_queue(vq.index(), setup, interrupt) {
            Ok(notifier) => {
                vq.attach(notifier);
                Ok(())
            }
            Err(error) => {
                vq.shutdown(Quiesced::on(Evidence::NeverEnabled));
                Err(error)
            }
        }
    }

    /// Frees a virtqueue that is unused or empty; otherwise it comes back in the error.
    ///
    /// The device must let go of it: by a queue reset if it can, or because it was reset before.
    pub fn free_vq<C: AnyChain, T>(&mut self, mut vq: Virtqueue<C, T>) -> Result<(), FreeVqError<C, T>> {
        if vq.in_flight() != 0 {
            return Err(FreeVqError { kind: FreeVqErrorKind::InUse(vq.in_flight()), vq: Box::new(vq) });
        }
        let quiesced = match vq.quiesced() {
            Some(quiesced) => quiesced,
            None => match self.reset_vq(&vq) {
                Ok(quiesced) => quiesced,
                Err(error) => {
                    return Err(FreeVqError { kind: FreeVqErrorKind::Transport(error), vq: Box::new(vq) });
                }
            },
        };
        if let Ok(open) = self.open() {
            open.queues.retain(|(index, _)| *index != vq.index());
        }
        vq.shutdown(quiesced);
        Ok(())
    }

    /// Resets the device: it lets go of every queue, whose owners are told. What is left can be negotiated
    /// with anew, by another driver perhaps.
    pub fn reset(mut self) -> Result<Found, TransportError> {
        self.quiesce()?;
        match self.open.take() {
            Some(open) => Ok(Found::new(open.transport)),
            None => Err(TransportError::Disconnected),
        }
    }

    /// Resets the device and tells the queues' owners; they are told even if the device does not answer and
    /// only the arena's retirement makes their buffers safe.
    fn quiesce(&mut self) -> Result<(), TransportError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let reset = open.transport.reset();
        let quiesced = match &reset {
            Ok(quiesced) => Quiesced::on(quiesced.evidence()),
            Err(_) => {
                open.transport.arena().retire();
                Quiesced::on(Evidence::ArenaRetired)
            }
        };
        open.queues.drain(..).for_each(|(_, interrupt)| interrupt.quiesce(&quiesced));
        let reset = reset.map(|_| ());
        if reset.is_err() {
            // Not asked again: nothing that it said later could be believed.
            self.open = None;
        }
        reset
    }

    /// Whether single queues can be reset.
    pub fn can_reset_queues(&self) -> bool {
        self.features().contains(F::RING_RESET)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // There is nobody to tell; the queues' owners learn of it by their interrupt halves.
        let _ = self.quiesce();
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?}, {:?} over {})", self.identity(), self.features(), self.transport_name())
    }
}

/// A virtqueue that was not freed, given back.
pub struct FreeVqError<C, T> {
    /// Why.
    pub kind: FreeVqErrorKind,
    /// The queue, unchanged.
    pub vq: Box<Virtqueue<C, T>>,
}

/// Why a virtqueue was not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeVqErrorKind {
    /// This many chains are in flight.
    InUse(u16),
    /// The device would not let go of it.
    Transport(TransportError),
}

impl<C, T> fmt::Display for FreeVqError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FreeVqErrorKind::InUse(count) => write!(f, "{count} chains are in flight"),
            FreeVqErrorKind::Transport(error) => error.fmt(f),
        }
    }
}

impl<C, T> fmt::Debug for FreeVqError<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreeVqError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<C, T> core::error::Error for FreeVqError<C, T> {}
