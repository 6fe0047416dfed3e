//! What a console's owner, its ports and the bus know together.

use super::receive::Receive;
use super::transmit::Transmit;
use alloc::boxed::Box;
use alloc::string::String;
use atomic_waker::AtomicWaker;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use portable_atomic::AtomicU64;
use spin::Mutex;
use virtio_kit::spec::console::ControlEvent;

/// A console's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Width.
    pub cols: u16,
    /// Height.
    pub rows: u16,
}

/// A size that may not be known, in one word.
#[derive(Default)]
pub(super) struct SizeCell(AtomicU64);

impl SizeCell {
    const KNOWN: u64 = 1 << 32;

    pub(super) fn get(&self) -> Option<Size> {
        let value = self.0.load(Ordering::Acquire);
        (value & Self::KNOWN != 0).then_some(Size { cols: (value >> 16) as u16, rows: value as u16 })
    }

    pub(super) fn set(&self, size: Option<Size>) {
        let value = size.map_or(0, |s| Self::KNOWN | u64::from(s.cols) << 16 | u64::from(s.rows));
        self.0.store(value, Ordering::Release);
    }
}

/// A port. Its queues are here while nobody has it.
pub(super) struct PortState {
    pub(super) id: u32,
    /// Counts additions and removals: odd while the port is there.
    pub(super) generation: AtomicU32,
    /// Somebody is at the other end.
    pub(super) connected: AtomicBool,
    pub(super) console: AtomicBool,
    /// The device was told that the driver is ready for the port: nothing is said of it before.
    pub(super) ready: AtomicBool,
    /// Whether the device is to know the port as open, and whether it has been told.
    pub(super) open: AtomicBool,
    pub(super) told_open: AtomicBool,
    pub(super) size: SizeCell,
    pub(super) name: Mutex<Option<String>>,
    pub(super) receive: Mutex<Option<Receive>>,
    pub(super) transmit: Mutex<Option<Transmit>>,
    /// Woken when the port is closed, opened or removed.
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
}

impl PortState {
    pub(super) fn new(id: u32, receive: Receive, transmit: Transmit) -> Self {
        Self {
            id,
            generation: AtomicU32::new(0),
            connected: AtomicBool::new(false),
            console: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            open: AtomicBool::new(false),
            told_open: AtomicBool::new(false),
            size: SizeCell::default(),
            name: Mutex::new(None),
            receive: Mutex::new(Some(receive)),
            transmit: Mutex::new(Some(transmit)),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_there(&self) -> bool {
        self.generation() % 2 == 1
    }

    /// The port comes or goes: what was known of it is forgotten.
    pub(super) fn turn_over(&self) {
        self.connected.store(false, Ordering::Release);
        self.console.store(false, Ordering::Release);
        self.ready.store(false, Ordering::Release);
        self.open.store(false, Ordering::Release);
        self.told_open.store(false, Ordering::Release);
        self.size.set(None);
        *self.name.lock() = None;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// What all parts of a console share.
pub(super) struct Shared {
    pub(super) ports: Box<[PortState]>,
    /// The way of control messages to the device, with MULTIPORT.
    pub(super) control: Option<Mutex<Transmit>>,
    /// The size in the configuration, with SIZE.
    pub(super) size: SizeCell,
    pub(super) needs_reset: AtomicBool,
    /// Woken when there is something for the console's owner that no control message tells.
    pub(super) owner: AtomicWaker,
}

impl Shared {
    pub(super) fn port(&self, id: u32) -> Option<&PortState> {
        self.ports.get(usize::try_from(id).ok()?)
    }

    /// Tells the device whether a port is open, if it does not know and there is room for the message. If not, the
    /// console's owner does it later.
    pub(super) fn tell_open(&self, port: &PortState) -> Result<(), super::Error> {
        let Some(control) = &self.control else { return Ok(()) };
        // Locked first, so that what is told last is what holds.
        let mut control = control.lock();
        let open = port.open.load(Ordering::Acquire);
        if port.ready.load(Ordering::Acquire) && port.told_open.load(Ordering::Acquire) != open {
            let message = super::message::to_device(port.id, ControlEvent::PORT_OPEN, open.into());
            if control.send(&message)? {
                port.told_open.store(open, Ordering::Release);
            }
        }
        Ok(())
    }
}
