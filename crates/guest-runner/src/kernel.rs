//! The kernel's file.

use crate::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where the kernel's source was when this program was built.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest");

/// A kernel, ready to boot.
#[derive(Clone, Debug)]
pub struct Kernel(PathBuf);

impl Kernel {
    /// A file that is one.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Builds the kernel from its source, unless that was done before and nothing changed.
    pub fn build() -> Result<Self, Error> {
        Self::build_with(&[])
    }

    /// The same, with features of its package.
    pub fn build_with(features: &[&str]) -> Result<Self, Error> {
        let source = Path::new(SOURCE).canonicalize().map_err(|_| Error::NoSource(SOURCE.into()))?;
        // One after the other: they would wait for each other anyway. Different features are different files.
        static BUILDING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _lock = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let target =
            source.join("target").join(if features.is_empty() { "plain".into() } else { features.join("-") });
        let mut cargo = Command::new(cargo());
        cargo
            .args(["build", "--release", "--quiet", "--features", &features.join(",")])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(&source)
            .stdin(Stdio::null());
        // What was meant for this program's own build is not meant for a kernel's.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
            cargo.env_remove(name);
        }
        let built = cargo.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing("cargo"),
            _ => Error::Io("cargo", error),
        })?;
        if !built.status.success() {
            return Err(Error::Build(String::from_utf8_lossy(&built.stderr).into()));
        }
        Ok(Self(target.join("release").join("virtio-kit-guest")))
    }

    /// [`build`](Self::build), once in this process.
    pub fn shared() -> Result<&'static Self, &'static Error> {
        static KERNEL: OnceLock<Result<Kernel, Error>> = OnceLock::new();
        KERNEL.get_or_init(Self::build).as_ref()
    }
}

/// The cargo that runs this, or any.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
