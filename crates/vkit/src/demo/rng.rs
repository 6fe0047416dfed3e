//! Entropy devices: what the driver reads must be what the source gave, and pass the health tests of SP 800-90B.

use super::content::{hash, hash_all};
use super::health::Health;
use super::rows::{Layout, Outcome, Row, Work};
use super::{Act, Asked, Demo, Stage, bus, guest};
use crate::cli::TransportKind;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target::rng::Entropy;
use crate::target::{InProcess, Local, Target};
use crate::units::size;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_kit::DeviceId;
use virtio_kit_devices::rng::Source;
use virtio_kit_drivers::rng::{BlockingRng, Options, Rng, RngDriver};
use virtio_kit_guest_runner::{Boot, Machine};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::entropy::KernelSource;

pub(super) const DEMO: Demo = Demo { device: "rng", rows, work };

/// Bytes of entropy in each row.
const BYTES: u64 = 4 << 20;

/// How long a device may take for one piece.
const PATIENCE: Duration = Duration::from_secs(30);

struct RngAct {
    /// The bare-metal kernel on this machine, and otherwise in process.
    guest: Option<Machine>,
    threads: bool,
    layout: Layout,
}

fn rows(asked: &Asked<'_>) -> Vec<Box<dyn Act>> {
    let mut rows: Vec<Box<dyn Act>> = Vec::new();
    if asked.transport(TransportKind::InProcess) {
        let act = |layout: Layout| RngAct { guest: None, threads: layout.in_order, layout };
        rows.extend(asked.layouts().map(|layout| Box::new(act(layout)) as Box<dyn Act>));
    }
    if asked.transport(TransportKind::Guest) {
        rows.extend(guest::rows(asked).map(|(machine, layout)| {
            Box::new(RngAct { guest: Some(machine), threads: false, layout }) as Box<dyn Act>
        }));
    }
    rows
}

fn work(_: &Stage) -> Vec<String> {
    let size = size(BYTES);
    vec![
        format!("{size} of the kernel's entropy read through the driver, compared with what the device read"),
        "(SHA-256), and the health tests of SP 800-90B passed (repetition count, adaptive proportion);"
            .into(),
        "in the kernel 4 KiB from a file of the host's, compared with it".into(),
    ]
}

impl Act for RngAct {
    fn row(&self) -> Row {
        if let Some(machine) = self.guest {
            return guest::row("rng", machine, self.layout);
        }
        let (other, how) = match self.threads {
            false => ("in-process, 1 thread", "device on the driver's thread"),
            true => ("in-process, 2 threads", "device on a thread of its own"),
        };
        let (device, transport, layout) = ("rng", "in-process", self.layout);
        Row { device, transport, other: other.into(), how: how.into(), layout }
    }

    fn play(&self, stage: &Stage, number: u64) -> Result<Outcome> {
        if let Some(machine) = self.guest {
            let rng = guest::layout(self.layout);
            let boot = Boot { seed: number, rng, folder: stage.folder.clone(), ..Boot::bare(machine, 2) };
            return guest::play(&boot, DeviceId::ENTROPY);
        }
        let failed = |error| Failure::file(&stage.file, &error);
        // What the device gives is written down before, so that it can be looked up after.
        let mut file = File::create(&stage.file).map_err(failed)?;
        let mut piece = vec![0; 64 << 10];
        for _ in 0..BYTES / piece.len() as u64 {
            let mut done = 0;
            while done < piece.len() {
                done += KernelSource.poll(&mut piece[done..]).map_err(Failure::new)?;
            }
            file.write_all(&piece).map_err(failed)?;
        }
        let local = Local::new(DeviceId::ENTROPY, Entropy { source: Some(stage.file.clone()), limit: None });
        let target = Target::InProcess(InProcess { local, ring: self.layout, threads: self.threads });
        let options = Options::default();
        let taken: bus::Taken<Rng> =
            bus::take(&target, DeviceId::ENTROPY, 1 << 20, |give| Arc::new(RngDriver::new(options, give)))?;
        let features = taken.device.features();
        if Layout::of(features) != self.layout {
            return Err(Failure::new(format_args!("{} was negotiated", Layout::of(features))));
        }
        stage.bar.set_length(BYTES);
        let mut rng = BlockingRng::new(taken.device, Arc::new(MonotonicClock), PATIENCE);
        let mut all = vec![0; BYTES as usize];
        let mut health = Health::new();
        let began = Instant::now();
        let mut requests = 0;
        for piece in all.chunks_mut(32 << 10) {
            rng.fill(piece).map_err(|error| Failure::new(format_args!("{target}: {error}")))?;
            requests += piece.len().div_ceil(options.bytes) as u64;
            stage.bar.inc(piece.len() as u64);
        }
        let time = began.elapsed();
        all.iter().try_for_each(|&byte| health.sample(byte)).map_err(Failure::new)?;
        let file = File::open(&stage.file).map_err(failed)?;
        let given = hash_all(BYTES, |at, to| file.read_exact_at(to, at)).map_err(failed)?;
        if hash(&all) != given {
            return Err(Failure::new("what was read is not what the device's source gave"));
        }
        let features = output::feature_names(features, DeviceId::ENTROPY);
        Ok(Outcome::Verified(Work { features, bytes: BYTES, requests, time }))
    }
}
