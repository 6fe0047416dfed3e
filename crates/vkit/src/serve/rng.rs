//! Entropy devices.

use super::{Common, Export};
use crate::failure::{Failure, Result};
use clap::Args;
use std::path::PathBuf;
use virtio_kit_devices::rng::Rng;
use virtio_kit_linux::entropy::{FileSource, KernelSource};

#[derive(Debug, Args)]
pub(crate) struct RngArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Where the bytes come from: a character device, a pipe, a file; none is given twice [default: the kernel's
    /// generator]
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
}

impl RngArgs {
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let sockets = self.common.socket.iter();
        let Some(path) = &self.source else {
            return Ok(sockets.map(|_| Export::new(Rng::new(KernelSource), "kernel")).collect());
        };
        // Opened once, so that no two devices give the same bytes.
        let source = FileSource::open(path).map_err(Failure::new)?;
        let export = |_| {
            let source = source.try_clone().map_err(|error| Failure::file(path, &error))?;
            Ok(Export::new(Rng::new(source), path.display().to_string()))
        };
        sockets.map(export).collect()
    }
}
