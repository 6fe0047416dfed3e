//! Interrupt lines of devices: each goes through an I/O controller to the first CPU.

use crate::x86::acpi::Tables;
use crate::x86::apic::IoApic;
use crate::x86::interrupts::Vector;
use crate::x86::{cpu, time};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use spin::Mutex;
use virtio_kit::interrupts::{InterruptLine, LineHandler};
use virtio_kit::transport::TransportError;

/// Where a PC has its first controller, should no table say so.
const FIRST: (u32, u32) = (0xfec0_0000, 0);

/// The controllers of all lines, and who is at each line: several devices may share one.
pub struct Controllers {
    controllers: Vec<IoApic>,
    lines: Mutex<BTreeMap<u32, Arc<Shared>>>,
}

/// A line, and its devices' handlers.
struct Shared {
    number: u32,
    /// Locked with interrupts off, since a handler locks it.
    users: Mutex<Vec<User>>,
    vector: Mutex<Option<Vector>>,
}

struct User {
    handler: Arc<dyn LineHandler>,
    came: Arc<AtomicBool>,
}

impl Controllers {
    /// Those that firmware names.
    pub fn new(tables: &Tables) -> Arc<Self> {
        let mut named: Vec<_> = tables.io_apics().collect();
        if named.is_empty() {
            named.push(FIRST);
        }
        // SAFETY: firmware names them, or it is where every PC has one.
        let controllers = named.into_iter().map(|(base, first)| unsafe { IoApic::new(base, first) });
        Arc::new(Self { controllers: controllers.collect(), lines: Mutex::default() })
    }

    /// A device's end of a line, by the number that firmware gives it.
    pub fn line(self: &Arc<Self>, number: u32) -> Option<Line> {
        let index = self.controllers.iter().position(|controller| controller.has(number))?;
        let new = || Arc::new(Shared { number, users: Mutex::default(), vector: Mutex::new(None) });
        let shared = self.lines.lock().entry(number).or_insert_with(new).clone();
        Some(Line { controllers: self.clone(), index, shared, came: Arc::default() })
    }
}

impl Shared {
    fn fire(&self) {
        for user in &*self.users.lock() {
            // A device lets go of the line in here, before the controller looks at it again.
            if user.handler.handle() {
                user.came.store(true, Ordering::Release);
            }
        }
    }
}

/// One device's end of a line.
pub struct Line {
    controllers: Arc<Controllers>,
    index: usize,
    shared: Arc<Shared>,
    came: Arc<AtomicBool>,
}

impl InterruptLine for Line {
    fn connect(&self, handler: Arc<dyn LineHandler>) -> Result<(), TransportError> {
        let user = User { handler, came: self.came.clone() };
        let mut vector = self.shared.vector.lock();
        {
            let _off = cpu::interrupts_off();
            self.shared.users.lock().push(user);
        }
        if vector.is_none() {
            let shared = self.shared.clone();
            let new = Vector::new(Arc::new(move || shared.fire())).ok_or(TransportError::NoMemory)?;
            self.controllers.controllers[self.index].route(self.shared.number, new.number(), 0);
            *vector = Some(new);
        }
        Ok(())
    }

    fn disconnect(&self) {
        let mut vector = self.shared.vector.lock();
        let off = cpu::interrupts_off();
        let mut users = self.shared.users.lock();
        let mine = users.iter().position(|user| Arc::ptr_eq(&user.came, &self.came));
        let mine = mine.map(|at| users.swap_remove(at));
        let last = users.is_empty();
        drop(users);
        drop(off);
        drop(mine);
        if last {
            self.controllers.controllers[self.index].mask(self.shared.number);
            *vector = None;
        }
    }

    fn wait(&self, limit: Duration) -> Result<bool, TransportError> {
        let deadline = time::now().saturating_add(limit);
        Ok(time::sleep_until(deadline, || self.came.swap(false, Ordering::Acquire)))
    }
}
