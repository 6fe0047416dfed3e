//! Block devices.

use super::{Common, Export};
use crate::failure::{Failure, Result, reason};
use crate::units;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;
use virtio_kit_devices::blk::{Blk, NullBackend};
use virtio_kit_linux::storage::{self, FileBackend, Qcow2Backend};

#[derive(Debug, Args)]
pub(crate) struct BlkArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The file or block device behind the device; as many as there are sockets
    #[arg(long, value_name = "FILE", required_unless_present = "null")]
    image: Vec<PathBuf>,
    /// What is in the file
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Nothing behind the device: reads touch no data, writes are forgotten
    #[arg(long, conflicts_with_all = ["image", "read_only", "direct", "discard", "format"])]
    null: bool,
    /// Reads of a device with nothing behind it are zeros
    #[arg(long, requires = "null")]
    zeros: bool,
    /// Size of a device with nothing behind it
    #[arg(long, value_name = "BYTES", value_parser = units::some_sectors, default_value = "1T", requires = "null")]
    size: u64,
    /// Let nobody write
    #[arg(long)]
    read_only: bool,
    /// Request queues of each device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), default_value = "1")]
    queues: u16,
    /// Past the page cache of this machine
    #[arg(long)]
    direct: bool,
    /// How long to wait while others have an image in use: what a killed server has left to the kernel, say
    #[arg(long, value_name = "S", value_parser = units::seconds, default_value = "10")]
    wait: Duration,
    /// Somebody else uses the image now, and gives it up before anybody uses it here: live migration
    #[arg(long, conflicts_with = "null")]
    incoming: bool,
    /// Give space up that is discarded: punch holes into the file
    #[arg(long)]
    discard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The content as it is
    Raw,
    /// An image as QEMU makes it, with what it refers to
    Qcow2,
}

impl BlkArgs {
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        if self.null {
            return Ok(self.common.socket.iter().map(|_| self.nothing()).collect());
        }
        let (images, sockets) = (self.image.len(), self.common.socket.len());
        if images != sockets {
            return Err(Failure::new(format_args!(
                "{images} images for {sockets} sockets: give one --image for each --socket"
            )));
        }
        self.image.iter().map(|image| self.file(image)).collect()
    }

    fn nothing(&self) -> Export {
        let backend = if self.zeros { NullBackend::zeros } else { NullBackend::new };
        Export::new(Blk::new(backend(self.size), self.queues), "null")
    }

    fn file(&self, image: &Path) -> Result<Export> {
        let options = storage::Options {
            read_only: self.read_only,
            direct: self.direct,
            discard: self.discard,
            ..storage::Options::default()
        };
        match self.format {
            Format::Raw => self.raw(image, options),
            Format::Qcow2 => self.qcow2(image, options),
        }
    }

    fn qcow2(&self, image: &Path, options: storage::Options) -> Result<Export> {
        let backend = Qcow2Backend::open(image, options).map_err(Failure::new)?;
        if !self.incoming {
            backend.check_unused(self.wait).map_err(Failure::new)?;
        }
        let device = Blk::new(backend.clone(), self.queues);
        let name = image.display().to_string();
        let finish = self.durable(name.clone(), move || backend.sync());
        Ok(Export::new(device, name).on_finish(finish))
    }

    /// What is written is durable in the end, or the user is told.
    fn durable(
        &self,
        name: String,
        sync: impl FnOnce() -> std::io::Result<()> + 'static,
    ) -> impl FnOnce() -> Result<()> + 'static {
        let read_only = self.read_only;
        move || match sync() {
            Err(error) if !read_only => {
                let what = format!("{name}: what was written last is not durable: {}", reason(&error));
                Err(Failure::new(what))
            }
            _ => Ok(()),
        }
    }

    fn raw(&self, image: &Path, options: storage::Options) -> Result<Export> {
        let backend = FileBackend::open(image, options).map_err(Failure::new)?;
        if !self.incoming {
            backend.check_unused(self.wait).map_err(Failure::new)?;
        }
        let device = Blk::new(backend.clone(), self.queues);
        let (resizer, measured) = (device.resizer(), backend.clone());
        let mut len = measured.measure().unwrap_or(0);
        let name = image.display().to_string();
        let (of_reload, of_finish) = (name.clone(), name.clone());
        let reload = move || match measured.measure() {
            Ok(now) if now != len => {
                tracing::info!("{of_reload}: has {now} bytes now, and had {len}");
                len = now;
                resizer.resized(now);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{of_reload}: {}", reason(&error)),
        };
        let finish = self.durable(of_finish, move || backend.sync());
        Ok(Export::new(device, name).on_reload(reload).on_finish(finish))
    }
}
