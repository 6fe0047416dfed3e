//! Saving a device, and restoring it: a snapshot, a migration, a new process.

use super::machine::{Machine, QueueState};
use super::{DeviceError, Stopped};
use alloc::vec::Vec;
use core::fmt;
use virtio_kit_spec::{Features, Status};

/// All that a driver has made of a device, with no work in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Features that the driver has accepted.
    pub accepted: Features,
    /// The status field.
    pub status: Status,
    /// The configuration generation.
    pub generation: u32,
    /// The queues, each with where its ring stands.
    pub queues: Vec<QueueState>,
}

impl Machine {
    /// Ends the work in flight, stops all queues where they are, and gives what is needed to go on from there: by
    /// [`resume`](Self::resume) here, or by [`restore`](Self::restore) in another machine. With each queue, whether its
    /// driver is to be notified.
    ///
    /// Fails if the device keeps chains; it then needs a reset.
    pub fn save(&mut self) -> Result<(State, Vec<u16>), DeviceError> {
        let (mut notify, mut kept) = (Vec::new(), false);
        for (index, slot) in (0..).zip(self.slots.iter()) {
            let Some(worker) = slot.lock().take() else { continue };
            let Stopped { position, notify: wanted, in_flight } = worker.stop();
            self.queues[usize::from(index)].position = Some(position);
            kept |= in_flight != 0;
            if wanted {
                notify.push(index);
            }
        }
        if kept {
            self.needs_reset();
            return Err(DeviceError::Backend("it keeps chains when it is stopped"));
        }
        let generation = self.notice.generation();
        let state =
            State { accepted: self.accepted, status: self.status, generation, queues: self.queues.clone() };
        Ok((state, notify))
    }

    /// Starts the queues again that [`save`](Self::save) stopped.
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        if !self.status.contains(Status::DRIVER_OK) || self.status.contains(Status::DEVICE_NEEDS_RESET) {
            return Ok(());
        }
        let started = self.start_enabled();
        if started.is_err() {
            self.needs_reset();
        }
        started
    }

    /// Makes a machine that is as it was made what another was when it was saved. The state is believed no more than a
    /// driver: on an error the machine is as it was made again. The memory must be set before; queues do not run
    /// until [`resume`](Self::resume).
    pub fn restore(&mut self, state: &State) -> Result<(), RestoreError> {
        if self.status != Status::RESET {
            return Err(RestoreError::InUse);
        }
        let restored = self.take_over(state);
        if restored.is_err() {
            self.reset();
        }
        restored
    }

    fn take_over(&mut self, state: &State) -> Result<(), RestoreError> {
        let known = Status::ACKNOWLEDGE
            | Status::DRIVER
            | Status::FEATURES_OK
            | Status::DRIVER_OK
            | Status::DEVICE_NEEDS_RESET
            | Status::FAILED;
        let status = state.status;
        let agreed = status.intersects(Status::FEATURES_OK | Status::DRIVER_OK);
        let legacy = self.is_legacy();
        let ordered = if legacy {
            !status.contains(Status::FEATURES_OK)
        } else {
            !status.contains(Status::DRIVER_OK) || status.contains(Status::FEATURES_OK)
        };
        if !known.contains(status) || !ordered {
            return Err(RestoreError::Status(status));
        }
        self.accepted = state.accepted;
        if agreed && !self.features_work() {
            return Err(RestoreError::Features(state.accepted - self.offered()));
        }
        if state.queues.len() != self.queues.len() {
            return Err(RestoreError::QueueCount(state.queues.len()));
        }
        for (index, queue) in (0..).zip(&state.queues) {
            if queue.enabled {
                self.enable_queue(index, *queue).map_err(|error| RestoreError::Queue(index, error))?;
            }
        }
        self.status = status;
        self.notice.restore(state.generation);
        if status.contains(Status::DRIVER_OK) && !status.contains(Status::DEVICE_NEEDS_RESET) {
            self.device.activate(self.accepted).map_err(RestoreError::Device)?;
            for index in 0..self.queues.len() as u16 {
                self.check_queue(index).map_err(|error| RestoreError::Queue(index, error))?;
            }
        }
        Ok(())
    }
}

/// Why a state was not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The device is in use: reset it first.
    InUse,
    /// A status field that no device shows.
    Status(Status),
    /// Features that this device does not offer, or that do not work together (then it is empty).
    Features(Features),
    /// Another number of queues than this device has.
    QueueCount(usize),
    /// A queue that cannot be as the state says.
    Queue(u16, DeviceError),
    /// The device refused what the driver had agreed on with it.
    Device(DeviceError),
    /// A register that cannot hold what the state says.
    Register(&'static str),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("the device is in use: reset it before it is restored"),
            Self::Status(status) => write!(f, "the state has a status that no device shows: {status}"),
            Self::Features(features) => {
                write!(f, "the state has features that this device does not offer: {features:?}")
            }
            Self::QueueCount(count) => {
                write!(f, "the state has {count} queues, which is not this device's number")
            }
            Self::Queue(index, error) => write!(f, "queue {index} of the state: {error}"),
            Self::Device(error) => error.fmt(f),
            Self::Register(name) => write!(f, "the state has a value that {name} cannot hold"),
        }
    }
}

impl core::error::Error for RestoreError {}
