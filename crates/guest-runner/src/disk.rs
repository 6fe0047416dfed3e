//! Disks, and what must be on them before and after.

use crate::machine::Attach;
use crate::{Error, pattern};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A ring layout, as QEMU's properties set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The device's name, by which the kernel's line is known.
    pub name: &'static str,
    /// Packed, or else split.
    pub packed: bool,
    /// In order.
    pub in_order: bool,
}

/// The four of them.
pub const LAYOUTS: [Layout; 4] = [
    Layout { name: "split", packed: false, in_order: false },
    Layout { name: "split+in_order", packed: false, in_order: true },
    Layout { name: "packed", packed: true, in_order: false },
    Layout { name: "packed+in_order", packed: true, in_order: true },
];

impl Layout {
    /// Those that devices attached in some way can have: legacy devices have only the first.
    pub fn of(attach: Attach) -> &'static [Self] {
        if attach == Attach::MmioLegacy { &LAYOUTS[..1] } else { &LAYOUTS }
    }

    /// As QEMU takes it.
    pub(crate) fn properties(self) -> String {
        let on = |yes| if yes { "on" } else { "off" };
        format!("packed={},in_order={}", on(self.packed), on(self.in_order))
    }
}

/// Bytes of each disk.
pub const SIZE: usize = 1 << 20;

/// A disk that the kernel is to read and write.
pub(crate) struct Disk {
    layout: Layout,
    file: PathBuf,
    /// What it contains before.
    first: u64,
    /// What the kernel is to write.
    second: u64,
}

impl Disk {
    /// Makes a disk's file. The kernel is told `second`, and has to read `first`.
    pub(crate) fn create(folder: &Path, layout: Layout, first: u64, second: u64) -> Result<Self, Error> {
        let file = folder.join(layout.name);
        let mut bytes = vec![0; SIZE];
        pattern::fill(first, 0, &mut bytes);
        fs::write(&file, bytes).map_err(|error| Error::Io("a disk's file", error))?;
        Ok(Self { layout, file, first, second })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.layout.name
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self, attach: Attach, queues: u8) -> [String; 4] {
        let node = self.layout.name.replace('+', "-");
        let file = self.file.display();
        let name = self.layout.name;
        let properties =
            format!("drive={node},serial={name},num-queues={queues},{}", self.layout.properties());
        [
            "-blockdev".into(),
            format!("driver=file,node-name={node},filename={file},discard=unmap"),
            "-device".into(),
            attach.device("blk", &properties),
        ]
    }

    /// What the kernel must have read of it at first.
    pub(crate) fn first_hash(&self) -> String {
        let mut bytes = vec![0; SIZE];
        pattern::fill(self.first, 0, &mut bytes);
        hash(&bytes)
    }

    /// Looks whether the file contains what the kernel was to write, the first `zeroed` sectors aside.
    pub(crate) fn check(&self, zeroed: usize) -> Result<(), Error> {
        let found = fs::read(&self.file).map_err(|error| Error::Io("a disk's file", error))?;
        let mut expected = vec![0; SIZE];
        pattern::fill(self.second, 0, &mut expected);
        expected[..(zeroed * pattern::SECTOR).min(SIZE)].fill(0);
        if found.len() != SIZE {
            return Err(self.wrong("the file's length has changed"));
        }
        let differs = |(_, (a, b)): &(usize, (&[u8], &[u8]))| a != b;
        let sectors = expected.chunks(pattern::SECTOR).zip(found.chunks(pattern::SECTOR)).enumerate();
        match sectors.into_iter().find(differs) {
            Some((sector, _)) => {
                Err(self
                    .wrong(format_args!("the file does not contain what was written, at sector {sector}")))
            }
            None => Ok(()),
        }
    }

    fn wrong(&self, what: impl ToString) -> Error {
        Error::Wrong { device: self.layout.name, what: what.to_string() }
    }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
