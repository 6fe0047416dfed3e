//! Where what is read goes to.

use crate::failure::{Failure, Result};
use crate::units::thousands;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that has another name until it is complete, or something that has no such name.
pub(super) struct Sink {
    out: Box<dyn Write>,
    kind: Kind,
    arrived: u64,
}

enum Kind {
    Stdout,
    /// A device or a pipe.
    Special(PathBuf),
    File {
        partial: PathBuf,
        path: PathBuf,
    },
}

impl Sink {
    /// Opens `path`, or standard output for `-`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |path: &Path, error| Failure::file(path, &error);
        if path == Path::new("-") {
            return Ok(Self { out: Box::new(io::stdout().lock()), kind: Kind::Stdout, arrived: 0 });
        }
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(path).map_err(|e| failed(path, e))?;
            return Ok(Self { out: Box::new(file), kind: Kind::Special(path.into()), arrived: 0 });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|e| failed(&partial, e))?;
        let kind = Kind::File { partial, path: path.into() };
        Ok(Self { out: Box::new(file), kind, arrived: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes).map_err(|error| self.failed(&error));
        self.arrived += bytes.len() as u64;
        written
    }

    fn failed(&self, error: &io::Error) -> Failure {
        match &self.kind {
            Kind::Stdout => Failure::stdout(error),
            Kind::Special(path) => Failure::file(path, error),
            Kind::File { partial, .. } => Failure::file(partial, error),
        }
    }

    /// All has arrived.
    pub(super) fn complete(mut self) -> Result<()> {
        self.out.flush().map_err(|error| self.failed(&error))?;
        match &self.kind {
            Kind::File { partial, path } => fs::rename(partial, path).map_err(|e| Failure::file(path, &e)),
            _ => Ok(()),
        }
    }

    /// No more comes: keeps what has arrived, and says where it is.
    pub(super) fn abandon(self, why: Failure) -> Failure {
        let bytes = thousands(self.arrived);
        match &self.kind {
            Kind::File { partial, .. } if self.arrived == 0 => {
                // An empty file tells nothing that its absence does not.
                let _ = fs::remove_file(partial);
                why
            }
            Kind::File { partial, .. } => {
                why.after(format_args!("the first {bytes} bytes are in {}", partial.display()))
            }
            Kind::Special(path) => {
                why.after(format_args!("{} got only the first {bytes} bytes", path.display()))
            }
            Kind::Stdout => why.after(format_args!("standard output got only the first {bytes} bytes")),
        }
    }
}
