//! Where what is written comes from.

use crate::failure::{Failure, Result, reason};
use crate::units::{SECTOR, thousands};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// A file or standard input, read from the start.
pub(super) struct Source {
    from: Box<dyn Read>,
    name: String,
    /// Bytes that it has, if that is known beforehand.
    pub(super) length: Option<u64>,
}

impl Source {
    /// Opens `path`, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Self::stdin().map_err(|e| Failure::new(format_args!("standard input: {}", reason(&e))));
        }
        let failed = |error| Failure::file(path, &error);
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(Failure::new(format_args!("{}: is a directory", path.display())));
        }
        let length = found.is_file().then_some(found.len());
        Ok(Self { from: Box::new(file), name: path.display().to_string(), length })
    }

    /// Standard input, which has a known length if it is a file.
    fn stdin() -> io::Result<Self> {
        let mut file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let found = file.metadata()?;
        let length = if found.is_file() {
            // Somebody may have read some of it already.
            Some(found.len().saturating_sub(file.stream_position()?))
        } else {
            None
        };
        Ok(Self { from: Box::new(file), name: "standard input".into(), length })
    }

    /// Fills `to` as far as there is anything; a multiple of 512 bytes.
    pub(super) fn fill(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < to.len() {
            match self.from.read(&mut to[got..]) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(reason(&error))),
            }
        }
        if !(got as u64).is_multiple_of(SECTOR) {
            let rest = got as u64 % SECTOR;
            return Err(
                self.failed(format_args!("its length is no multiple of 512: {rest} bytes are left over"))
            );
        }
        Ok(got)
    }

    /// How much of it there is to write, if that is known: `wanted`, or all.
    pub(super) fn expect(&self, wanted: Option<u64>) -> Result<Option<u64>> {
        match (wanted, self.length) {
            (Some(wanted), Some(length)) if length < wanted => Err(self.short(length, wanted)),
            (None, Some(length)) if !length.is_multiple_of(SECTOR) => {
                let length = thousands(length);
                Err(self.failed(format_args!("its length, {length} bytes, is no multiple of 512")))
            }
            (None, Some(0)) => Err(self.empty()),
            (wanted, length) => Ok(wanted.or(length)),
        }
    }

    /// There is nothing in it.
    pub(super) fn empty(&self) -> Failure {
        self.failed("is empty")
    }

    /// It ended too early.
    pub(super) fn short(&self, got: u64, wanted: u64) -> Failure {
        let (got, wanted) = (thousands(got), thousands(wanted));
        self.failed(format_args!("has only {got} of {wanted} bytes"))
    }

    /// There is more of it than there is room.
    pub(super) fn long(&self, room: u64) -> Failure {
        let room = thousands(room);
        self.failed(format_args!("has more than the {room} bytes from the offset to the device's end"))
    }

    fn failed(&self, what: impl std::fmt::Display) -> Failure {
        Failure::new(format_args!("{}: {what}", self.name))
    }
}
