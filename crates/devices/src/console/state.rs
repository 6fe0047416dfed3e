//! What all queues of a device, its registers and its owner know together.

use super::backend::{Input, Output};
use super::handle::PlugError;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::Waker;
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::device::ConfigNotice;
use virtio_kit::spec::console::{CONTROL_RX_QUEUE, port_rx_queue};

/// A console's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Width.
    pub cols: u16,
    /// Height.
    pub rows: u16,
}

/// Which of a port's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToDriver = 0,
    FromDriver = 1,
}

/// One half of a port's back-end, on its way between the port's owner and the queue that uses it.
pub(super) struct Half<T: ?Sized> {
    place: Mutex<Option<Box<T>>>,
    /// What the queue has is not what it is to have any more.
    changed: AtomicBool,
}

impl<T: ?Sized> Half<T> {
    const fn new() -> Self {
        Self { place: Mutex::new(None), changed: AtomicBool::new(false) }
    }

    /// The owner puts another half in, or none.
    fn set(&self, half: Option<Box<T>>) {
        let before = {
            let mut place = self.place.lock();
            self.changed.store(true, Ordering::Release);
            core::mem::replace(&mut *place, half)
        };
        // Without the lock: what is dropped may do anything.
        drop(before);
    }

    /// A queue begins.
    pub(super) fn take(&self) -> Option<Box<T>> {
        let mut place = self.place.lock();
        self.changed.store(false, Ordering::Release);
        place.take()
    }

    /// Another half, or none, if the owner has changed it.
    pub(super) fn changed(&self) -> Option<Option<Box<T>>> {
        if !self.changed.load(Ordering::Acquire) {
            return None;
        }
        let mut place = self.place.lock();
        self.changed.swap(false, Ordering::AcqRel).then(|| place.take())
    }

    /// A queue ends; the next one goes on with what it had.
    pub(super) fn put_back(&self, half: Option<Box<T>>) {
        let mut place = self.place.lock();
        if !self.changed.load(Ordering::Acquire) {
            *place = half;
        }
    }
}

/// A port's place, whether there is a port in it or not.
pub(super) struct Place {
    pub(super) input: Half<dyn Input>,
    pub(super) output: Half<dyn Output>,
    /// The driver has it open.
    pub(super) open: AtomicBool,
    /// Somebody is at the other end.
    pub(super) connected: AtomicBool,
    /// Nobody is there any more, and the driver is to be told once it has what came before.
    pub(super) hung_up: AtomicBool,
    /// Counts ports that were plugged in here.
    plugged: AtomicU32,
}

/// What control messages are about.
#[derive(Default)]
pub(super) struct PortControl {
    pub(super) present: bool,
    /// The driver was told of it.
    pub(super) added: bool,
    /// The driver has said that it is ready.
    pub(super) ready: bool,
    pub(super) console: bool,
    pub(super) name: Option<String>,
    pub(super) size: Option<Size>,
    /// What is still to be said, in bits of [`super::control::Due`].
    pub(super) due: u8,
}

/// All ports' control state.
pub(super) struct Control {
    /// The driver takes control messages.
    pub(super) driver_ready: bool,
    pub(super) ports: Box<[PortControl]>,
}

/// What all queues of a device, its registers and its owner know together.
pub(super) struct Shared {
    multiport: bool,
    rows_first: AtomicBool,
    /// The driver took MULTIPORT.
    agreed: AtomicBool,
    places: Box<[Place]>,
    pub(super) control: Mutex<Control>,
    /// Whether anything is due.
    pub(super) due: AtomicBool,
    /// The size in the configuration: 1 << 32 if there is one, columns, rows.
    size: AtomicU64,
    ignored: AtomicU64,
    notice: Mutex<Option<Arc<ConfigNotice>>>,
    wakers: Mutex<Vec<Waker>>,
}

const KNOWN: u64 = 1 << 32;

impl Shared {
    pub(super) fn new(ports: u16, multiport: bool) -> Arc<Self> {
        let place = |_| Place {
            input: Half::new(),
            output: Half::new(),
            open: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            plugged: AtomicU32::new(0),
        };
        let ports_control = (0..ports).map(|_| PortControl::default()).collect();
        Arc::new(Self {
            multiport,
            rows_first: AtomicBool::new(false),
            agreed: AtomicBool::new(false),
            places: (0..ports).map(place).collect(),
            control: Mutex::new(Control { driver_ready: false, ports: ports_control }),
            due: AtomicBool::new(false),
            size: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            notice: Mutex::new(None),
            wakers: Mutex::new(Vec::new()),
        })
    }

    pub(super) fn is_multiport(&self) -> bool {
        self.multiport
    }

    pub(super) fn max_ports(&self) -> u16 {
        self.places.len() as u16
    }

    /// The place of a port that exists.
    pub(super) fn place(&self, port: u16) -> &Place {
        &self.places[usize::from(port)]
    }

    pub(super) fn rows_first(&self) -> bool {
        self.rows_first.load(Ordering::Relaxed)
    }

    pub(super) fn set_rows_first(&self) {
        self.rows_first.store(true, Ordering::Relaxed);
    }

    pub(super) fn config_size(&self) -> Option<Size> {
        let size = self.size.load(Ordering::Acquire);
        (size & KNOWN != 0).then_some(Size { cols: (size >> 16) as u16, rows: size as u16 })
    }

    pub(super) fn set_config_size(&self, size: Option<Size>) {
        let size = size.map_or(0, |s| KNOWN | u64::from(s.cols) << 16 | u64::from(s.rows));
        self.size.store(size, Ordering::Release);
    }

    pub(super) fn attach(&self, notice: Arc<ConfigNotice>) {
        *self.notice.lock() = Some(notice);
    }

    pub(super) fn attach_wakers(&self, wakers: Vec<Waker>) {
        *self.wakers.lock() = wakers;
    }

    /// Features were agreed on. Without MULTIPORT the one port is open as soon as the driver is there.
    pub(super) fn activate(&self, multiport: bool) {
        self.agreed.store(multiport, Ordering::Release);
        self.place(0).open.store(!multiport, Ordering::Release);
    }

    /// Forgets what the driver has said.
    pub(super) fn reset(&self) {
        let mut control = self.control.lock();
        control.driver_ready = false;
        for port in &mut control.ports {
            (port.added, port.ready, port.due) = (false, false, 0);
        }
        self.due.store(false, Ordering::Release);
        self.places.iter().for_each(|place| place.open.store(false, Ordering::Release));
    }

    pub(super) fn is_open(&self, port: u16) -> bool {
        self.places.get(usize::from(port)).is_some_and(|place| place.open.load(Ordering::Acquire))
    }

    pub(super) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    pub(super) fn ignore(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a queue run. Nobody here holds a lock.
    fn wake_queue(&self, queue: usize) {
        let waker = self.wakers.lock().get(queue).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn wake(&self, port: u16, direction: Direction) {
        self.wake_queue(port_rx_queue(port.into()) as usize + direction as usize);
    }

    /// Changes what is to be said, and has it said.
    pub(super) fn with_control<R>(&self, change: impl FnOnce(&mut Control) -> R) -> R {
        let (result, due) = {
            let mut control = self.control.lock();
            let result = change(&mut control);
            let due = control.driver_ready && control.ports.iter().any(|port| port.due != 0);
            self.due.store(due, Ordering::Release);
            (result, due)
        };
        if due {
            self.wake_queue(CONTROL_RX_QUEUE.into());
        }
        result
    }

    /// Finds a number free; what is plugged in there next has the number that is returned.
    pub(super) fn reserve(&self, id: u16) -> Result<u32, PlugError> {
        let place = self.places.get(usize::from(id)).ok_or(PlugError::Beyond(id))?;
        let mut control = self.control.lock();
        let port = &mut control.ports[usize::from(id)];
        if port.present {
            return Err(PlugError::Taken(id));
        }
        port.present = true;
        Ok(place.plugged.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(super) fn plug(
        &self,
        id: u16,
        halves: (Box<dyn Input>, Box<dyn Output>),
        name: Option<String>,
        console: bool,
        connected: bool,
        size: Option<Size>,
    ) {
        let place = self.place(id);
        place.input.set(Some(halves.0));
        place.output.set(Some(halves.1));
        place.connected.store(connected, Ordering::Release);
        place.hung_up.store(false, Ordering::Release);
        self.with_control(|control| {
            let ready = control.driver_ready;
            let port = &mut control.ports[usize::from(id)];
            (port.name, port.console, port.size) = (name, console, size);
            port.plugged(ready);
        });
        self.wake(id, Direction::ToDriver);
        self.wake(id, Direction::FromDriver);
    }

    pub(super) fn unplug(&self, id: u16) -> Result<(), PlugError> {
        let place = self.places.get(usize::from(id)).ok_or(PlugError::Beyond(id))?;
        self.with_control(|control| {
            let port = &mut control.ports[usize::from(id)];
            if !port.present {
                return Err(PlugError::NoPort(id));
            }
            port.unplugged();
            Ok(())
        })?;
        place.plugged.fetch_add(1, Ordering::AcqRel);
        place.open.store(false, Ordering::Release);
        place.connected.store(false, Ordering::Release);
        place.input.set(None);
        place.output.set(None);
        self.wake(id, Direction::ToDriver);
        self.wake(id, Direction::FromDriver);
        Ok(())
    }

    pub(super) fn set_connected(&self, id: u16, plugged: Option<u32>, connected: bool) {
        let place = self.place(id);
        if plugged.is_some_and(|plugged| plugged != place.plugged.load(Ordering::Acquire)) {
            return;
        }
        if place.connected.swap(connected, Ordering::AcqRel) == connected {
            return;
        }
        place.hung_up.store(!connected, Ordering::Release);
        if connected {
            self.tell_connected(id);
        }
        // The end of a connection is told by the queue that its last bytes go through.
        self.wake(id, Direction::ToDriver);
        self.wake(id, Direction::FromDriver);
    }

    /// The driver is to know whether somebody is at the other end.
    pub(super) fn tell_connected(&self, id: u16) {
        self.with_control(|control| control.ports[usize::from(id)].connected());
    }

    pub(super) fn resize(&self, id: u16, size: Size) -> Result<(), PlugError> {
        if usize::from(id) >= self.places.len() {
            return Err(PlugError::Beyond(id));
        }
        self.with_control(|control| {
            let port = &mut control.ports[usize::from(id)];
            if !port.present {
                return Err(PlugError::NoPort(id));
            }
            port.resized(size);
            Ok(())
        })?;
        if id == 0 && self.config_size().is_some() {
            self.set_config_size(Some(size));
            let notice = self.notice.lock().clone();
            if let Some(notice) = notice {
                notice.changed();
            }
        }
        Ok(())
    }
}
