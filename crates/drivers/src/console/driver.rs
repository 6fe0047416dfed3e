//! Registering for consoles, and taking one.

use super::control::{Console, MESSAGE_LEN, prepare};
use super::message::to_device;
use super::receive::{FillError, Receive};
use super::state::{PortState, Shared, Size, SizeCell};
use super::transmit::Transmit;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atomic_waker::AtomicWaker;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;
use virtio_kit::bus::{Bound, DeviceMatch, Driver, ProbeError};
use virtio_kit::driver::{Device, Found, Setup, Virtqueue, VqOptions};
use virtio_kit::spec::console::{CONTROL_RX_QUEUE, CONTROL_TX_QUEUE, Config, ControlEvent, F, port_rx_queue};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{AnyChain, DeviceId, Features};
use zerocopy::{IntoBytes, little_endian::U32};

/// What the driver can do: everything that it takes if the device offers it.
const FEATURES: Features = F::SIZE.union(F::MULTIPORT).union(F::EMERG_WRITE);

/// What a driver's user wants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most ports; the device may have fewer. The queues of all of them are made at the start.
    pub ports: u16,
    /// Buffers of each direction of a port, allocated when the device adds it.
    pub buffers: u16,
    /// Bytes of a buffer, at least 1.
    pub bytes: usize,
    /// The device puts rows before columns in RESIZE messages, the other way round than the document (5.3.6.2), as
    /// Linux took them for years.
    pub rows_first: bool,
    /// Features to leave alone although the driver could use them, those of the rings among them.
    pub without: Features,
}

impl Default for Options {
    fn default() -> Self {
        Self { ports: 32, buffers: 16, bytes: 4096, rows_first: false, without: Features::EMPTY }
    }
}

/// The driver, to be registered on a bus. Each device that it takes goes to `attach`.
pub struct ConsoleDriver<A> {
    options: Options,
    attach: A,
}

impl<A: Fn(Console)> ConsoleDriver<A> {
    /// A driver that hands its devices to `attach`.
    pub fn new(options: Options, attach: A) -> Self {
        Self { options, attach }
    }
}

fn queue<C: AnyChain>(setup: &mut Setup, index: u16, buffers: u16) -> Result<Virtqueue<C, ()>, ProbeError> {
    let max_size = buffers.max(1).checked_next_power_of_two().unwrap_or(1 << 15);
    Ok(setup.new_vq(index, VqOptions { max_size, ..VqOptions::default() })?)
}

/// Takes a device without a bus: what it is to its user, and what keeps it running.
pub fn open(found: Found, options: &Options) -> Result<(Console, ConsoleDevice), ProbeError> {
    // A legacy console differs in nothing but the byte order (5.3.4.1, 5.3.6.3), and this is a little-endian machine.
    let mut setup = found.without(options.without).or_legacy().negotiate(FEATURES)?;
    let features = setup.features();
    let config: Config = setup.read_config()?;
    let arena = setup.arena().ok_or(TransportError::Disconnected)?.clone();
    let multiport = features.contains(F::MULTIPORT);
    let count = match (multiport, config.max_nr_ports.get()) {
        (false, _) => 1,
        (true, 0) => return Err(ProbeError::BadConfig("it has several ports, of which there are 0")),
        (true, count) => count.min(options.ports.max(1).into()),
    };
    let bytes = options.bytes.max(1);
    let mut ports = Vec::new();
    let mut control = None;
    for id in 0..count {
        let Ok(rx) = u16::try_from(port_rx_queue(id)) else { break };
        // A device may have fewer queues than ports that it speaks of.
        let there = rx < u16::MAX && setup.max_queue_size(rx)? > 0 && setup.max_queue_size(rx + 1)? > 0;
        if id > 0 && !there {
            break;
        }
        let receive = Receive::new(queue(&mut setup, rx, options.buffers)?, options.buffers, bytes);
        let transmit = Transmit::new(queue(&mut setup, rx + 1, options.buffers)?, options.buffers, bytes);
        ports.push(PortState::new(id, receive, transmit));
        if id == 0 && multiport {
            // As many as the device has room for: what it has no buffer for, it may not say again.
            let receive = queue(&mut setup, CONTROL_RX_QUEUE, 64)?;
            let size = receive.size();
            let mut receive = Receive::new(receive, size, MESSAGE_LEN);
            let transmit = queue(&mut setup, CONTROL_TX_QUEUE, 32)?;
            let mut transmit = Transmit::new(transmit, 32, size_of::<virtio_kit::spec::console::Control>());
            transmit.prepare(&arena)?;
            receive.fill(&arena).map_err(failed)?;
            control = Some((receive, transmit));
        }
    }
    let (receive, transmit) = control.unzip();
    let shared = Arc::new(Shared {
        ports: ports.into(),
        control: transmit.map(Mutex::new),
        size: SizeCell::default(),
        needs_reset: AtomicBool::new(false),
        owner: AtomicWaker::new(),
    });
    if features.contains(F::SIZE) {
        shared.size.set(Some(Size { cols: config.cols.get(), rows: config.rows.get() }));
    }
    if !multiport {
        let port = &shared.ports[0];
        prepare(port, &arena).map_err(failed)?;
        port.turn_over();
        port.connected.store(true, Ordering::Release);
        port.console.store(true, Ordering::Release);
        if let Some(receive) = &mut *port.receive.lock() {
            receive.generation = port.generation();
        }
    }
    let device = setup.start()?;
    if let Some(control) = &shared.control {
        // The queue is empty: there is room.
        let ready = to_device(0, ControlEvent::DEVICE_READY, 1);
        control.lock().send(&ready).map_err(|error| failed(FillError::Queue(error)))?;
    }
    let console = Console::new(shared.clone(), receive, features, arena, options.rows_first);
    Ok((console, ConsoleDevice { device, shared }))
}

fn failed(error: FillError) -> ProbeError {
    match error {
        FillError::Memory(error) => error.into(),
        FillError::Queue(super::Error::Transport(error)) => error.into(),
        FillError::Queue(_) => ProbeError::BadConfig("its queues break before they are used"),
    }
}

impl<A: Fn(Console) + Send + Sync> Driver for ConsoleDriver<A> {
    fn name(&self) -> &str {
        "virtio-console"
    }

    fn id_table(&self) -> &[DeviceMatch] {
        const { &[DeviceMatch::id(DeviceId::CONSOLE)] }
    }

    fn probe(&self, found: Found) -> Result<Box<dyn Bound>, ProbeError> {
        let (console, device) = open(found, &self.options)?;
        (self.attach)(console);
        Ok(Box::new(device))
    }
}

/// What keeps a console running. Dropped, the device is reset.
pub struct ConsoleDevice {
    device: Device,
    shared: Arc<Shared>,
}

impl ConsoleDevice {
    /// Puts characters out by the configuration space (5.3.4), past the queues. Fails if the device cannot.
    pub fn emergency_write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        if !self.device.features().contains(F::EMERG_WRITE) {
            return Err(NO_EMERGENCY);
        }
        for &byte in bytes {
            self.device.write_config(offset_of!(Config, emerg_wr), &U32::new(byte.into()))?;
        }
        Ok(())
    }

    /// The device as any driver has it.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }
}

const NO_EMERGENCY: TransportError = TransportError::Unsupported("the console has no emergency write");

/// Puts characters out on a console that need not be initialised (5.3.4), and may be in any state: for a program that
/// cannot do anything else any more. Fails if the device cannot.
pub fn emergency_write(transport: &mut dyn Transport, bytes: &[u8]) -> Result<(), TransportError> {
    if transport.identity().device != DeviceId::CONSOLE
        || !transport.device_features()?.contains(F::EMERG_WRITE)
    {
        return Err(NO_EMERGENCY);
    }
    for &byte in bytes {
        transport.write_config(offset_of!(Config, emerg_wr), U32::new(byte.into()).as_bytes())?;
    }
    Ok(())
}

impl Bound for ConsoleDevice {
    fn config_changed(&mut self) {
        match self.device.needs_reset() {
            Ok(false) => {}
            _ => self.shared.needs_reset.store(true, Ordering::Relaxed),
        }
        // A device that cannot be read keeps the size it had.
        if self.device.features().contains(F::SIZE)
            && let Ok(config) = self.device.read_config::<Config>()
        {
            self.shared.size.set(Some(Size { cols: config.cols.get(), rows: config.rows.get() }));
        }
        self.shared.owner.wake();
    }

    fn remove(self: Box<Self>) -> Option<Found> {
        self.device.reset().ok()
    }
}

impl fmt::Debug for ConsoleDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleDevice").field("device", &self.device).finish_non_exhaustive()
    }
}
