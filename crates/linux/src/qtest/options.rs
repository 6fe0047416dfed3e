//! What a machine is made of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;

/// Which machine QEMU is, and so how its devices are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Board {
    /// A PC with a PCI bus (`q35`).
    #[default]
    Pc,
    /// No PCI bus, but places for MMIO devices, of version 1 if they are to be legacy (`microvm`).
    MicroVm {
        /// Whether the devices have only the legacy interface.
        legacy: bool,
    },
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which machine it is.
    pub board: Board,
    /// The program: `qemu-system-x86_64`, looked up as commands are.
    pub program: PathBuf,
    /// Memory in bytes, rounded up to 1 MiB; 8 MiB to 2 GiB.
    pub memory: u64,
    /// More arguments.
    pub arguments: Vec<OsString>,
    /// How long QEMU may take to start, and to answer a command.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            board: Board::default(),
            program: "qemu-system-x86_64".into(),
            memory: 64 << 20,
            arguments: Vec::new(),
            limit: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// Adds one more argument, as it is.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a modern virtio device: QEMU's name of it and its properties, such as `virtio-rng-pci,packed=on`; or
    /// on a board without PCI, such as `virtio-rng-device,packed=on`.
    #[must_use]
    pub fn virtio(self, device: &str) -> Self {
        match self.board {
            Board::Pc => self.device(&format!("{device},disable-legacy=on")),
            Board::MicroVm { .. } => self.device(device),
        }
    }

    /// Adds a device as it is: a PCI one may be transitional, or with `disable-modern=on` legacy.
    #[must_use]
    pub fn device(self, device: &str) -> Self {
        self.argument("-device").argument(device)
    }

    /// The board's arguments, with the name of its memory.
    pub(super) fn board_arguments(&self) -> Vec<String> {
        match self.board {
            Board::Pc => vec!["-machine".into(), "q35,memory-backend=m".into()],
            Board::MicroVm { legacy } => vec![
                "-machine".into(),
                "microvm,memory-backend=m,rtc=off,pit=off,pic=off".into(),
                "-global".into(),
                format!("virtio-mmio.force-legacy={legacy}"),
            ],
        }
    }

    /// Adds a raw file for devices that say `drive=NAME`. It may be discarded from.
    pub fn file(self, name: &str, path: &Path) -> Result<Self, Error> {
        // QEMU's own escape for a comma.
        let Some(text) = path.to_str().map(|text| text.replace(',', ",,")) else {
            return Err(Error::BadArgument(path.display().to_string()));
        };
        let drive = format!("driver=file,node-name={name},filename={text},discard=unmap");
        Ok(self.argument("-blockdev").argument(drive))
    }
}
