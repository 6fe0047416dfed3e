//! What the device's ends of transports that have registers share: the machine behind the registers, its queues, and
//! what a reset waits for.

use super::machine::{Machine, QueueState, Slots};
use super::{ConfigNotice, Device, DeviceError, DeviceMemory, Monitor, RestoreError, Run, State};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use spin::{Mutex, MutexGuard};
use virtio_kit_spec::{F, Features, Status};

/// How a transport interrupts.
pub(crate) trait Signals: Send + Sync + 'static {
    /// Queue `queue` was used, and the driver wants to know.
    fn used(&self, queue: u16);
    /// The configuration changed.
    fn config(&self);
}

/// Makes a queue run when its device has work of its own: to the monitor that is as if its driver had notified it.
struct QueueWaker {
    monitor: Weak<dyn Monitor>,
    queue: u16,
}

impl Wake for QueueWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(monitor) = self.monitor.upgrade() {
            monitor.doorbell(self.queue);
        }
    }
}

/// The device behind the registers.
pub(crate) struct Engine<S> {
    machine: Mutex<Machine>,
    slots: Slots,
    pub(crate) signals: Arc<S>,
    memory: DeviceMemory,
    /// The driver runs: it may be interrupted, and queues may be run.
    live: Arc<AtomicBool>,
    /// The device keeps chains from before a reset, and so cannot say that it is reset.
    stuck: AtomicBool,
}

impl<S: Signals> Engine<S> {
    pub(crate) fn new(
        device: Box<dyn Device>,
        ring_features: Features,
        legacy: bool,
        memory: DeviceMemory,
        signals: Arc<S>,
        monitor: &Arc<dyn Monitor>,
    ) -> Result<Self, DeviceError> {
        let live = Arc::new(AtomicBool::new(false));
        let (tell, alive) = (signals.clone(), live.clone());
        let notice = Arc::new(ConfigNotice::new(move || {
            if alive.load(Ordering::Acquire) {
                tell.config();
            }
        }));
        let mut features = ring_features - F::ACCESS_PLATFORM;
        if memory.platform.is_some() {
            features |= F::ACCESS_PLATFORM;
        }
        let mut machine = if legacy {
            Machine::legacy(device, features, notice)?
        } else {
            Machine::new(device, features, notice)
        };
        let waker = |queue| Waker::from(Arc::new(QueueWaker { monitor: Arc::downgrade(monitor), queue }));
        machine.attach_wakers((0..machine.slots().len() as u16).map(waker).collect());
        let slots = machine.slots();
        let stuck = AtomicBool::new(false);
        Ok(Self { machine: Mutex::new(machine), slots, signals, memory, live, stuck })
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    pub(crate) fn queue_count(&self) -> u16 {
        self.slots.len() as u16
    }

    pub(crate) fn status(&self) -> Status {
        if self.stuck.load(Ordering::Acquire) {
            return Status::DEVICE_NEEDS_RESET;
        }
        self.machine().status()
    }

    /// The driver writes the status; whether its queues run from now on.
    pub(crate) fn set_status(&self, status: Status) -> bool {
        if self.stuck.load(Ordering::Acquire) {
            return false;
        }
        let mut machine = self.machine();
        if status == Status::RESET {
            self.live.store(false, Ordering::Release);
            if machine.reset() != 0 {
                self.stuck.store(true, Ordering::Release);
            }
            return false;
        }
        let starts = status.contains(Status::DRIVER_OK) && !machine.status().contains(Status::DRIVER_OK);
        if starts {
            self.prepare(&mut machine);
        }
        // Whatever is wrong, the driver finds the device in need of a reset.
        let _ = machine.set_status(status);
        let runs = starts && machine.status().contains(Status::DRIVER_OK);
        if starts && !runs {
            self.live.store(false, Ordering::Release);
        }
        runs
    }

    /// Hands the machine the memory that the driver means (6.1).
    fn prepare(&self, machine: &mut Machine) {
        let platform = self.memory.platform.as_ref();
        let platform = platform.filter(|_| machine.accepted().contains(F::ACCESS_PLATFORM));
        machine.set_memory(platform.unwrap_or(&self.memory.physical).clone());
        self.live.store(true, Ordering::Release);
    }

    /// Enables a queue; `false` if it cannot be as the driver wants it.
    pub(crate) fn enable_queue(&self, index: u16, state: QueueState) -> bool {
        self.machine().enable_queue(index, state).is_ok()
    }

    /// Stops a queue and forgets it; `false` if the device keeps chains of it.
    pub(crate) fn reset_queue(&self, index: u16) -> bool {
        self.machine().reset_queue(index).is_none_or(|stopped| stopped.in_flight == 0)
    }

    pub(crate) fn is_enabled(&self, index: u16) -> bool {
        self.machine().queue(index).is_some_and(|queue| queue.enabled)
    }

    /// Runs a queue once, and interrupts if the driver wants it; `None` if it is not started, or is run already.
    pub(crate) fn run(&self, index: u16) -> Option<Result<Run, DeviceError>> {
        let mut slot = self.slots.get(usize::from(index))?.try_lock()?;
        let run = slot.as_mut()?.run();
        match run {
            // With the queue still locked, so that a reset is not followed by an interrupt from before it.
            Ok(run) if run.notify => self.signals.used(index),
            Ok(_) => {}
            Err(_) => {
                drop(slot);
                let mut machine = self.machine();
                if machine.status().contains(Status::DRIVER_OK) {
                    machine.needs_reset();
                    // What was completed before is worth a look.
                    self.signals.used(index);
                }
            }
        }
        Some(run)
    }

    /// Asks the driver to notify; `false` if there is work already.
    pub(crate) fn arm(&self, index: u16) -> bool {
        let slot = self.slots.get(usize::from(index));
        let Some(mut slot) = slot.and_then(|slot| slot.try_lock()) else { return true };
        slot.as_mut().is_none_or(|worker| worker.restart())
    }

    /// Asks the driver not to notify.
    pub(crate) fn disarm(&self, index: u16) {
        let slot = self.slots.get(usize::from(index));
        if let Some(Some(worker)) = slot.and_then(|slot| slot.try_lock()).as_deref_mut() {
            worker.disable();
        }
    }

    /// Waits, for a bounded time, until pending work of a queue is done.
    pub(crate) fn wait(&self, index: u16) -> Result<(), DeviceError> {
        let slot = self.slots.get(usize::from(index));
        match slot.and_then(|slot| slot.try_lock()).as_deref_mut() {
            Some(Some(worker)) => worker.wait(),
            _ => Ok(()),
        }
    }

    /// Stops all queues, with interrupts for what was completed last.
    pub(crate) fn save(&self) -> Result<State, DeviceError> {
        if self.stuck.load(Ordering::Acquire) {
            return Err(DeviceError::Backend("it keeps chains from before a reset"));
        }
        let (state, notify) = self.machine().save()?;
        notify.into_iter().for_each(|queue| self.signals.used(queue));
        Ok(state)
    }

    pub(crate) fn restore(&self, state: &State) -> Result<(), RestoreError> {
        let mut machine = self.machine();
        let platform = self.memory.platform.as_ref();
        let platform = platform.filter(|_| state.accepted.contains(F::ACCESS_PLATFORM));
        machine.set_memory(platform.unwrap_or(&self.memory.physical).clone());
        machine.restore(state)?;
        self.live.store(machine.status().contains(Status::DRIVER_OK), Ordering::Release);
        Ok(())
    }

    pub(crate) fn resume(&self) -> Result<(), DeviceError> {
        self.machine().resume()
    }
}
