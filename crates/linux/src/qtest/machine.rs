//! A machine that runs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_kit::clock::Clock;
use virtio_kit::mmio::Place;
use virtio_kit::pci::access::Cam;
use virtio_kit::pci::bars::{IoBar, MemoryBar};
use virtio_kit::pci::tree::{self, Room};
use virtio_kit::pci::{self, Address, ConfigSpace, Host, Interrupts, PciTransport};
use virtio_kit::registers::{Registers, Width};
use virtio_kit::spec::device_id::PCI_VENDOR_ID;
use virtio_kit::transport::TransportError;
use virtio_kit_ring::Arena;

use super::codec::Command;
use super::firmware;
use super::interrupts::Words;
use super::link::Link;
use super::ram::{ArenaMemory, Ram};
use super::registers::{IoPorts, Mapped};
use super::{Board, Error, Options};
use crate::clock::MonotonicClock;
use crate::process;

/// Where BARs are put: behind the memory, and below the interrupt controllers.
const BARS: u64 = 0xc000_0000;
const BARS_END: u64 = 0xfe00_0000;
const PORTS: u16 = 0xc000;
const PORTS_END: u16 = 0xf000;

/// A QEMU that was started, and its PCI bus. Clones are handles to the same one.
///
/// It ends with the last handle and the last transport, and with this process whatever ends that.
#[derive(Clone)]
pub struct Machine(Arc<Running>);

struct Running {
    link: Arc<Link>,
    ram: Arc<Ram>,
    arena: Arena,
    functions: BTreeMap<Address, Placed>,
    places: Vec<Place>,
    child: Ended,
}

/// A virtio function whose BARs have addresses.
struct Placed {
    id: (u16, u16),
    bars: Vec<MemoryBar>,
    io_bars: Vec<IoBar>,
    interrupts: Arc<Words>,
}

/// A child process that is killed when it is dropped.
struct Ended(Mutex<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A child that cannot be killed has ended, and then it can be waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Machine {
    /// Starts QEMU, and gives addresses to the BARs of all virtio functions, those behind bridges too.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let folder = Folder::new().map_err(|e| Error::Io("a folder for QEMU's files", e))?;
        let memory = options.memory.clamp(8 << 20, 2 << 30).next_multiple_of(1 << 20);
        let ram = Ram::new(memory as usize).map_err(|e| Error::Io("QEMU's memory", e.into()))?;
        let ram = Arc::new(ram);
        let listener = folder.listen().map_err(|e| Error::Io("the qtest socket", e))?;
        let mut child = folder.spawn(options, &ram)?;
        let stream = accept(&listener, &mut child.0, options.limit, &folder)?;
        let link = Link::new(stream, options.limit).map_err(|e| Error::Io("the qtest socket", e))?;
        let arena = Arena::new(ArenaMemory::of(&ram)).map_err(|_| TransportError::NoMemory)?;
        let link = Arc::new(link);
        // The first answer comes when all devices are there.
        let found = match options.board {
            Board::Pc => place(&Ports(&link), &ram).map(|functions| (functions, Vec::new())),
            Board::MicroVm { .. } => firmware::places(&link).map(|places| (BTreeMap::new(), places)),
        };
        let (functions, places) = found.map_err(|error| match error {
            TransportError::Disconnected => Error::Ended(folder.said()),
            TransportError::Timeout => Error::Timeout(folder.said()),
            error => Error::Transport(error),
        })?;
        Ok(Self(Arc::new(Running { link, ram, arena, functions, places, child })))
    }

    /// The places of MMIO devices, as the machine's ACPI tables name them, or without ACPI its device tree.
    pub fn places(&self) -> &[Place] {
        &self.0.places
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.0.link
    }

    /// The modern virtio functions on the bus.
    pub fn functions(&self) -> impl Iterator<Item = Address> + '_ {
        self.0.functions.iter().filter(|(_, placed)| pci::is_modern(placed.id)).map(|(&at, _)| at)
    }

    /// All virtio functions on the bus, transitional ones too.
    pub fn all_functions(&self) -> impl Iterator<Item = Address> + '_ {
        self.0.functions.keys().copied()
    }

    /// The function in slot `device` of the bus, as the property `addr=` numbers them.
    pub fn transport(&self, device: u8) -> Result<PciTransport, TransportError> {
        self.transport_at(Address::new(0, device, 0))
    }

    /// The function at an address.
    pub fn transport_at(&self, at: Address) -> Result<PciTransport, TransportError> {
        PciTransport::open(Arc::new(self.clone()), at)
    }

    /// Memory that all functions can reach.
    pub fn arena(&self) -> &Arena {
        &self.0.arena
    }

    /// Passes on all interrupts that came in, to callbacks and tasks; whether there were any.
    pub fn poll_interrupts(&self) -> bool {
        self.0.functions.values().fold(false, |any, placed| placed.interrupts.poll() | any)
    }

    /// The process id of QEMU.
    pub fn process_id(&self) -> u32 {
        self.0.child.0.lock().unwrap_or_else(PoisonError::into_inner).id()
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine(process {}, {} MiB)", self.process_id(), self.0.ram.len() >> 20)
    }
}

/// Numbers the buses, and gives addresses to the BARs of virtio functions.
fn place(ports: &Ports<'_>, ram: &Arc<Ram>) -> Result<BTreeMap<Address, Placed>, TransportError> {
    let mut room = Room { memory: BARS..BARS_END, ports: PORTS..PORTS_END };
    let placed = tree::place(ports, 0, 0, &mut room, |id| id.0 == PCI_VENDOR_ID)?;
    let functions = placed.into_iter().enumerate().map(|(n, placed)| {
        let tree::Placed { at, id, bars, io_bars } = placed;
        let interrupts = Arc::new(Words::new(ram.clone(), n)?);
        Ok((at, Placed { id, bars, io_bars, interrupts }))
    });
    functions.collect()
}

/// Configuration space by the two ports of a PC.
struct Ports<'l>(&'l Link);

/// The two commands of an access: selecting a register, and the port at which it is then.
fn select(at: Address, offset: u16) -> (Command, u16) {
    let (register, port) = Cam::<()>::select(at, offset);
    (Command::Out(Cam::<()>::ADDRESS, Width::U32, register), port)
}

impl ConfigSpace for Ports<'_> {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Ok(u32::MAX);
        }
        let (select, port) = select(at, offset);
        Ok(self.0.run(&[select, Command::In(port, width)])? as u32)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        if at.segment != 0 || offset > 0xff {
            return Err(TransportError::Unsupported("extended configuration space"));
        }
        let (select, port) = select(at, offset);
        self.0.run(&[select, Command::Out(port, width, value)])?;
        Ok(())
    }
}

impl ConfigSpace for Machine {
    fn read(&self, at: Address, offset: u16, width: Width) -> Result<u32, TransportError> {
        Ports(&self.0.link).read(at, offset, width)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) -> Result<(), TransportError> {
        Ports(&self.0.link).write(at, offset, width, value)
    }
}

impl Host for Machine {
    fn map_bar(&self, at: Address, bar: u8) -> Result<Arc<dyn Registers>, TransportError> {
        const NONE: TransportError = TransportError::Unsupported("a BAR that is not there");
        let placed = self.0.functions.get(&at).ok_or(NONE)?;
        let link = self.0.link.clone();
        if let Some(found) = placed.bars.iter().find(|found| found.number == bar) {
            return Ok(Arc::new(Mapped { link, start: found.address, len: found.len }));
        }
        let found = placed.io_bars.iter().find(|found| found.number == bar).ok_or(NONE)?;
        Ok(Arc::new(IoPorts { link, start: found.port, len: found.len }))
    }

    fn arena(&self, _: Address) -> Arena {
        self.0.arena.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(MonotonicClock)
    }

    fn interrupts(&self, at: Address) -> Option<Arc<dyn Interrupts>> {
        Some(self.0.functions.get(&at)?.interrupts.clone())
    }
}

/// What QEMU opens by its name, gone as soon as it runs.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("virtio-kit-qtest-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn listen(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(self.file("qtest"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// What QEMU wrote to its standard error.
    fn said(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn spawn(&self, options: &Options, ram: &Ram) -> Result<Ended, Error> {
        let bios = self.file("bios");
        write_bios(&bios).map_err(|e| Error::Io("QEMU's firmware", e))?;
        let log = File::create(self.file("log")).map_err(|e| Error::Io("QEMU's log", e))?;
        let size = ram.len();
        let backend = format!("memory-backend-file,id=m,size={size},mem-path={},share=on", ram.path());
        let socket = format!("unix:{}", self.file("qtest").display());
        let mut command = Process::new(&options.program);
        command
            .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-no-user-config"])
            .args(options.board_arguments())
            .args(["-object", &backend, "-m", &format!("{size}B")])
            .args(["-qtest", &socket, "-qtest-log", "/dev/null"])
            .arg("-bios")
            .arg(bios)
            .args(&options.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // A QEMU without its driver would halt for ever.
        match process::spawn_tied(command) {
            Ok(child) => Ok(Ended(Mutex::new(child))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::Missing(options.program.clone()))
            }
            Err(error) => Err(Error::Io("QEMU", error)),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is only litter.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Firmware that halts: `cli; hlt; jmp` back to `hlt`, at the address at which a PC starts.
fn write_bios(path: &Path) -> io::Result<()> {
    let mut image = vec![0xf4; 1 << 16];
    image[0xfff0..0xfff5].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd, 0x90]);
    fs::write(path, image)
}

/// Waits for QEMU to connect.
fn accept(
    listener: &UnixListener,
    child: &mut Mutex<Child>,
    limit: Duration,
    folder: &Folder,
) -> Result<UnixStream, Error> {
    let child = child.get_mut().unwrap_or_else(PoisonError::into_inner);
    let deadline = MonotonicClock.now().saturating_add(limit);
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::Io("the qtest socket", error)),
        }
        if child.try_wait().map_err(|e| Error::Io("QEMU", e))?.is_some() {
            return Err(Error::Ended(folder.said()));
        }
        if MonotonicClock.now() >= deadline {
            return Err(Error::Timeout(folder.said()));
        }
        // In short turns, since a child's end does not show on the socket.
        let turn = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&turn)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Io("the qtest socket", error.into())),
        }
    }
}
