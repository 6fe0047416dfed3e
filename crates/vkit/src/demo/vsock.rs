//! Sockets: many connections at once, of both kinds and from both ends, whose bytes have the same hash at the other end.

use super::content::random;
use super::rows::{Layout, Outcome, Row, Work};
use super::{Act, Asked, Demo, Stage, bus};
use crate::cli::TransportKind;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::{Host, InProcess, Local, Recipe, Target};
use sha2::{Digest, Sha256};
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit::device::Device;
use virtio_kit_devices::vsock as device;
use virtio_kit_drivers::vsock::{Address, Kind, Options, Socket, Vsock, VsockDriver};
use virtio_kit_linux::clock::MonotonicClock;

pub(super) const DEMO: Demo = Demo { device: "vsock", rows, work };

/// Connections of each kind from each end.
const OF_EACH: usize = 8;

/// Bytes each way on each connection.
const BYTES: usize = 256 << 10;

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(30);

const HOST: u64 = 2;
const PORT: u32 = 1024;

struct VsockAct {
    threads: bool,
    layout: Layout,
}

fn rows(asked: &Asked<'_>) -> Vec<Box<dyn Act>> {
    let act = |layout: Layout| Box::new(VsockAct { threads: layout.in_order, layout }) as Box<dyn Act>;
    match asked.transport(TransportKind::InProcess) {
        true => asked.layouts().map(act).collect(),
        false => Vec::new(),
    }
}

fn work(_: &Stage) -> Vec<String> {
    vec![
        format!(
            "{} connections at once, streams and sequenced packets, half of them from each end,",
            4 * OF_EACH
        ),
        "each with 256 KiB both ways, which have the same SHA-256 at the other end; then each is closed"
            .into(),
    ]
}

/// A socket device whose host is here.
#[derive(Clone)]
struct Hosted {
    /// Taken by whoever builds the device.
    device: Arc<Mutex<Option<device::Vsock>>>,
    guest: device::Handle,
    host: device::Listeners,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guest.fmt(f)
    }
}

impl Display for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid={}", self.guest.cid())
    }
}

impl Hosted {
    fn new() -> Result<Self> {
        let host = device::Listeners::new();
        let device = device::Vsock::new(3, device::Limits::default(), Arc::new(host.clone()));
        let device = device.map_err(Failure::new)?;
        let guest = device.handle();
        Ok(Self { device: Arc::new(Mutex::new(Some(device))), guest, host })
    }
}

impl Recipe for Hosted {
    fn build(&self, _: &mut Host) -> Result<Box<dyn Device>> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        device.map(|device| Box::new(device) as Box<dyn Device>).ok_or_else(|| Failure::new("built already"))
    }
}

impl Act for VsockAct {
    fn row(&self) -> Row {
        let (other, how) = match self.threads {
            false => ("in-process, 1 thread", "device on the driver's thread"),
            true => ("in-process, 4 threads", "each queue of the device on a thread of its own"),
        };
        let (device, transport, layout) = ("vsock", "in-process", self.layout);
        Row { device, transport, other: other.into(), how: how.into(), layout }
    }

    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome> {
        let hosted = Hosted::new()?;
        let local = Local::new(DeviceId::SOCKET, hosted.clone());
        let target = Target::InProcess(InProcess { local, ring: self.layout, threads: self.threads });
        let taken: bus::Taken<Vsock> = bus::take(&target, DeviceId::SOCKET, 4 << 20, |give| {
            Arc::new(VsockDriver::new(Options::default(), give))
        })?;
        let vsock = &taken.device;
        let features = vsock.features();
        if Layout::of(features) != self.layout {
            return Err(Failure::new(format_args!("{} was negotiated", Layout::of(features))));
        }
        stage.bar.set_length((4 * OF_EACH * BYTES * 2) as u64);
        let began = Instant::now();
        let mut talks = open(vsock, &hosted, number)?;
        let mut idle_since = Instant::now();
        while talks.iter().any(|talk| !talk.is_over()) {
            let mut moved = 0;
            for talk in &mut talks {
                moved += talk.step()?;
            }
            stage.bar.inc(moved as u64);
            let came = vsock.wait(&MonotonicClock, Duration::from_millis(u64::from(moved == 0)));
            if moved > 0 || came.map_err(Failure::new)? > 0 {
                idle_since = Instant::now();
            } else if idle_since.elapsed() > PATIENCE {
                return Err(Failure::new(format_args!("nothing happened for {PATIENCE:?}")));
            }
        }
        let time = began.elapsed();
        let (mut bytes, mut requests) = (0, 0);
        for talk in &talks {
            for way in &talk.ways {
                if way.sent.clone().finalize() != way.got.clone().finalize() {
                    return Err(Failure::new("what has come is not what was sent"));
                }
                (bytes, requests) = (bytes + way.read as u64, requests + way.pieces);
            }
        }
        let features = output::feature_names(features, DeviceId::SOCKET);
        Ok(Outcome::Verified(Work { features, bytes, requests, time }))
    }
}

/// One direction of a connection.
struct Way {
    written: usize,
    read: usize,
    sent: Sha256,
    got: Sha256,
    pieces: u64,
    over: bool,
    /// What is being sent: as a whole, if it is a message.
    piece: Vec<u8>,
    state: u64,
}

impl Way {
    fn new(seed: u64) -> Self {
        let (sent, got) = (Sha256::new(), Sha256::new());
        Self { written: 0, read: 0, sent, got, pieces: 0, over: false, piece: vec![], state: seed }
    }

    /// Has something to send, unless all is sent.
    fn fill(&mut self) {
        if self.piece.is_empty() {
            let len = (1 + random(&mut self.state) as usize % 9000).min(BYTES - self.written);
            let mut bytes = vec![0; len];
            for eight in bytes.chunks_mut(8) {
                eight.copy_from_slice(&random(&mut self.state).to_le_bytes()[..eight.len()]);
            }
            self.piece = bytes;
        }
    }

    fn wrote(&mut self, len: usize) {
        self.sent.update(&self.piece[..len]);
        self.piece.drain(..len);
        self.written += len;
    }

    fn came(&mut self, bytes: &[u8]) -> usize {
        self.got.update(bytes);
        (self.read, self.pieces) = (self.read + bytes.len(), self.pieces + 1);
        self.over = bytes.is_empty();
        bytes.len()
    }
}

/// A connection, with both of its ends.
struct Talk {
    guest: Socket,
    host: device::End,
    /// From the guest, and from the host.
    ways: [Way; 2],
    buffer: Vec<u8>,
}

/// Opens all connections.
fn open(vsock: &Vsock, hosted: &Hosted, number: u64) -> Result<Vec<Talk>> {
    let mut talks = Vec::new();
    for kind in [Kind::Stream, Kind::Seqpacket] {
        let mut at_host = hosted.host.listen(kind, PORT, OF_EACH).map_err(Failure::new)?;
        let mut at_guest = vsock.listen(kind, PORT, OF_EACH).map_err(Failure::new)?;
        for index in 0..OF_EACH {
            let asked = vsock.connect(kind, Address::new(HOST, PORT)).map_err(Failure::new)?;
            let heard = until(vsock, || at_host.accept())?;
            until(vsock, || asked.is_open().is_ok_and(|open| open).then_some(()))?;
            let asking = hosted.guest.connect(kind, None, PORT).map_err(Failure::new)?;
            let taken = until(vsock, || at_guest.accept())?;
            until(vsock, || asking.is_open().is_ok_and(|open| open).then_some(()))?;
            for (which, (guest, host)) in [(asked, heard), (taken, asking)].into_iter().enumerate() {
                let seed = (number << 16 | (index as u64) << 4 | which as u64) + 1;
                let ways = [Way::new(seed), Way::new(seed << 32)];
                talks.push(Talk { guest, host, ways, buffer: vec![0; 16 << 10] });
            }
        }
    }
    Ok(talks)
}

/// Moves packets until there is what is waited for.
fn until<R>(vsock: &Vsock, mut look: impl FnMut() -> Option<R>) -> Result<R> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format_args!("a connection did not open within {PATIENCE:?}")));
        }
        vsock.wait(&MonotonicClock, Duration::from_millis(1)).map_err(Failure::new)?;
    }
}

impl Talk {
    fn is_over(&self) -> bool {
        self.ways.iter().all(|way| way.over)
    }

    /// Sends and takes what can be, at both ends; how many bytes were taken.
    fn step(&mut self) -> Result<usize> {
        let Self { guest, host, ways: [out, back], buffer } = self;
        let stream = guest.kind() == Kind::Stream;
        if out.written < BYTES {
            out.fill();
            let len = match stream {
                true => guest.write(&out.piece).map_err(Failure::new)?.unwrap_or(0),
                false if guest.send(&out.piece, false).map_err(Failure::new)? => out.piece.len(),
                false => 0,
            };
            out.wrote(len);
            if out.written == BYTES {
                guest.writer().shutdown();
            }
        }
        if back.written < BYTES {
            back.fill();
            let len = match stream {
                true => host.writer().write(&back.piece).map_err(Failure::new)?.unwrap_or(0),
                false if host.writer().send(&back.piece, false).map_err(Failure::new)? => back.piece.len(),
                false => 0,
            };
            back.wrote(len);
            if back.written == BYTES {
                host.writer().close();
            }
        }
        let mut moved = 0;
        if !out.over {
            let got = match stream {
                true => host.reader().read(buffer),
                false => host.reader().receive(buffer).map(|got| got.map(|message| message.len)),
            };
            if let Some(len) = got.map_err(Failure::new)? {
                moved += out.came(&buffer[..len]);
            }
        }
        if !back.over {
            let got = match stream {
                true => guest.read(buffer),
                false => guest.receive(buffer).map(|got| got.map(|message| message.len)),
            };
            if let Some(len) = got.map_err(Failure::new)? {
                moved += back.came(&buffer[..len]);
            }
        }
        Ok(moved)
    }
}
