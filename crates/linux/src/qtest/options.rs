//! What a machine is made of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Options {
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

    /// Adds a modern virtio device: QEMU's name of it and its properties, such as `virtio-rng-pci,packed=on`.
    #[must_use]
    pub fn virtio(self, device: &str) -> Self {
        self.argument("-device").argument(format!("{device},disable-legacy=on"))
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
