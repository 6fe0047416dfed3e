//! An entropy device, whose entropy is a file of ours: what the kernel read can be told.

use crate::disk::{Layout, hash};
use crate::machine::Attach;
use crate::{Error, pattern};
use std::fs;
use std::path::{Path, PathBuf};

/// More than the kernel reads.
const SIZE: usize = 64 << 10;

/// What an entropy device takes its bytes from.
pub(crate) struct Source {
    layout: Layout,
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Source {
    pub(crate) fn create(folder: &Path, layout: Layout, seed: u64) -> Result<Self, Error> {
        let file = folder.join("entropy");
        let mut bytes = vec![0; SIZE];
        pattern::fill(!seed, 0, &mut bytes);
        fs::write(&file, &bytes).map_err(|error| Error::Io("the file of entropy", error))?;
        Ok(Self { layout, file, bytes })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self, attach: Attach) -> [String; 4] {
        let object = format!("rng-random,id=entropy,filename={}", self.file.display());
        let properties = format!("rng=entropy,{}", self.layout.properties());
        ["-object".into(), object, "-device".into(), attach.device("rng", &properties)]
    }

    /// The hash of the first so many bytes.
    pub(crate) fn hash(&self, bytes: u64) -> Option<String> {
        self.bytes.get(..usize::try_from(bytes).ok()?).map(hash)
    }
}
