//! The device's end.

use super::event::Event;
use crate::clock::Clock;
use crate::device::{ConfigNotice, Device, DeviceError, Machine, Run, Slots};
use crate::driver::QueueInterrupt;
use crate::transport::TransportError;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use core::task::Waker;
use core::time::Duration;
use spin::{Mutex, MutexGuard};
use virtio_kit_spec::{Features, Status};

/// What both ends hold.
pub(super) struct Shared {
    machine: Mutex<Machine>,
    slots: Slots,
    lines: Vec<Line>,
    notice: Arc<ConfigNotice>,
    /// Set when any queue was notified, for a device end that serves all of them.
    any: Arc<dyn Event>,
    inline: bool,
    clock: Arc<dyn Clock>,
}

/// One queue's notifications, both ways. Aligned so that no two queues' threads share cache lines.
#[repr(align(128))]
struct Line {
    interrupt: Mutex<Option<Arc<QueueInterrupt>>>,
    /// Inline: whose turn it is to run the queue, as [`KICKED`] and [`RUNNING`].
    turn: AtomicU8,
    to_device: Arc<dyn Event>,
    to_driver: Arc<dyn Event>,
}

/// There is something to run for.
const KICKED: u8 = 1;
/// Somebody runs the queue, and will see `KICKED` before the end.
const RUNNING: u8 = 2;

/// Makes a queue run when its device says so.
struct LineWaker {
    /// The device, which has the waker, is part of what this leads to.
    shared: Weak<Shared>,
    index: u16,
}

impl Wake for LineWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.kick(self.index);
        if shared.inline
            && let Some(line) = shared.line(self.index)
        {
            line.to_driver.set();
        }
    }
}

impl Shared {
    pub(super) fn new(
        device: Box<dyn Device>,
        ring_features: Features,
        inline: bool,
        clock: Arc<dyn Clock>,
        event: &dyn Fn() -> Arc<dyn Event>,
    ) -> Arc<Self> {
        let notice = Arc::new(ConfigNotice::default());
        let mut machine = Machine::new(device, ring_features, notice.clone());
        let slots = machine.slots();
        let line = |_| Line {
            interrupt: Mutex::new(None),
            turn: AtomicU8::new(0),
            to_device: event(),
            to_driver: event(),
        };
        let lines = (0..slots.len()).map(line).collect();
        let any = event();
        Arc::new_cyclic(|shared| {
            let waker = |index| Waker::from(Arc::new(LineWaker { shared: shared.clone(), index }));
            machine.attach_wakers((0..slots.len() as u16).map(waker).collect());
            Self { machine: Mutex::new(machine), slots, lines, notice, any, inline, clock }
        })
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    pub(super) fn notice(&self) -> Arc<ConfigNotice> {
        self.notice.clone()
    }

    pub(super) fn queue_count(&self) -> u16 {
        self.lines.len() as u16
    }

    fn line(&self, index: u16) -> Option<&Line> {
        self.lines.get(usize::from(index))
    }

    pub(super) fn set_interrupt(
        &self,
        index: u16,
        interrupt: Arc<QueueInterrupt>,
    ) -> Result<(), TransportError> {
        let line = self.line(index).ok_or(TransportError::NoQueue(index))?;
        *line.interrupt.lock() = Some(interrupt);
        Ok(())
    }

    pub(super) fn forget_interrupts(&self) {
        self.lines.iter().for_each(|line| *line.interrupt.lock() = None);
    }

    /// The driver notifies queue `index`, or the device wakes it.
    pub(super) fn kick(&self, index: u16) {
        let Some(line) = self.line(index) else { return };
        if self.inline {
            self.run_kicked(index);
        } else {
            line.to_device.set();
            self.any.set();
        }
    }

    pub(super) fn kick_all(&self) {
        (0..self.queue_count()).for_each(|index| self.kick(index));
    }

    /// Runs a queue for as long as it is notified or woken. If it is being run, by another thread or further up
    /// this one (a callback notified, another device woke it), whoever runs it goes on instead.
    fn run_kicked(&self, index: u16) {
        let Some(line) = self.line(index) else { return };
        if line.turn.fetch_or(KICKED | RUNNING, Ordering::AcqRel) & RUNNING == 0 {
            self.run_turn(line, index);
        }
    }

    /// Runs a queue until nothing more is to be run for, and ends the turn.
    fn run_turn(&self, line: &Line, index: u16) {
        loop {
            line.turn.fetch_and(!KICKED, Ordering::AcqRel);
            // A device that holds all it can takes no more for now: waiting for it goes on from here.
            while let Some(Ok(run)) = self.run(index)
                && !self.arm(index)
                && run.taken + run.completed > 0
            {}
            if line.turn.compare_exchange(RUNNING, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Asks the driver to notify; `false` if there is work already.
    fn arm(&self, index: u16) -> bool {
        let Some(mut slot) = self.slots[usize::from(index)].try_lock() else { return true };
        slot.as_mut().is_none_or(|worker| worker.restart())
    }

    /// Asks the driver not to notify.
    fn disarm(&self, index: u16) {
        if let Some(Some(worker)) = self.slots[usize::from(index)].try_lock().as_deref_mut() {
            worker.disable();
        }
    }

    /// Runs queue `index` once and tells the driver; `None` if it is not started, or is being run already.
    pub(super) fn run(&self, index: u16) -> Option<Result<Run, DeviceError>> {
        let mut slot = self.slots.get(usize::from(index))?.try_lock()?;
        let run = slot.as_mut()?.run();
        drop(slot);
        match run {
            Ok(run) if run.notify => self.interrupt(index),
            Ok(_) => {}
            Err(_) => {
                self.machine().needs_reset();
                self.interrupt(index);
            }
        }
        Some(run)
    }

    fn interrupt(&self, index: u16) {
        let Some(line) = self.line(index) else { return };
        // Inline, who waits runs the queue, and has to be told only if somebody else did.
        if !self.inline {
            line.to_driver.set();
        }
        let interrupt = line.interrupt.lock().clone();
        if let Some(interrupt) = interrupt {
            interrupt.dispatch();
        }
    }

    /// The driver waits for queue `index`. Inline, the device works meanwhile.
    pub(super) fn wait_for_device(&self, index: u16, limit: Duration) -> bool {
        let Some(line) = self.line(index) else { return false };
        if !self.inline {
            return line.to_driver.wait(limit);
        }
        let deadline = self.clock.now().saturating_add(limit);
        loop {
            if line.turn.fetch_or(RUNNING, Ordering::AcqRel) & RUNNING == 0 {
                let run = self.run(index);
                if line.turn.compare_exchange(RUNNING, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    self.run_turn(line, index);
                    return true;
                }
                match run {
                    Some(Ok(run)) if run.completed > 0 => return true,
                    Some(Ok(run)) if run.pending > 0 => {
                        if let Some(worker) = &mut *self.slots[usize::from(index)].lock() {
                            // What fails here fails again, and is reported, at the next run.
                            let _ = worker.wait();
                        }
                    }
                    Some(Ok(_)) => self.clock.relax(),
                    Some(Err(_)) | None => return false,
                }
            } else {
                self.clock.relax();
            }
            // Somebody else may have run the queue, woken by another device.
            if line.to_driver.wait(Duration::ZERO) {
                return true;
            }
            if self.clock.now() >= deadline {
                return false;
            }
        }
    }
}

/// The device's end: whoever holds it runs the device. Clones are for other threads.
#[derive(Clone)]
pub struct DeviceEnd {
    shared: Arc<Shared>,
}

impl DeviceEnd {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        self.shared.queue_count()
    }

    /// The device status field as it stands (2.1).
    pub fn status(&self) -> Status {
        self.shared.machine().status()
    }

    /// Runs queue `index` once; `None` if it is not started.
    pub fn run(&self, index: u16) -> Option<Result<Run, DeviceError>> {
        self.shared.run(index)
    }

    /// Serves queue `index` until `stop` is set: polls while there is work and for `spin` after, then sleeps
    /// until it is notified.
    pub fn serve(&self, index: u16, spin: Duration, stop: &AtomicBool) {
        let Some(line) = self.shared.line(index) else { return };
        let clock = &*self.shared.clock;
        let mut idle_since = clock.now();
        // A fresh ring asks to be notified.
        let mut armed = true;
        // The ring could not be armed, since chains wait in it.
        let mut chains_wait = false;
        while !stop.load(Ordering::Relaxed) {
            match self.shared.run(index) {
                Some(Ok(run)) if run.taken + run.completed > 0 => {
                    if core::mem::take(&mut armed) {
                        self.shared.disarm(index);
                    }
                    chains_wait = false;
                    idle_since = clock.now();
                    continue;
                }
                Some(Ok(run)) if run.pending > 0 => {
                    core::hint::spin_loop();
                    continue;
                }
                _ => {}
            }
            if clock.now().saturating_sub(idle_since) < spin {
                core::hint::spin_loop();
                continue;
            }
            // Chains that still wait after another run are not wanted yet; the device wakes the queue when it
            // wants them.
            armed = self.shared.arm(index);
            if armed || core::mem::replace(&mut chains_wait, true) {
                line.to_device.wait(Duration::from_millis(100));
                chains_wait = false;
            }
        }
    }
}

impl fmt::Debug for DeviceEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceEnd({} queues)", self.queue_count())
    }
}
