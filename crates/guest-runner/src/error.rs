//! Why a boot did not show what it should.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a boot did not show what it should.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The kernel's source is not where it was when this program was built.
    NoSource(PathBuf),
    /// The kernel does not build; what the compiler said.
    Build(String),
    /// There is no such program.
    Missing(&'static str),
    /// The operating system refused something.
    Io(&'static str, io::Error),
    /// The machine went on for too long; what it printed.
    Timeout(Duration, String),
    /// The machine ended otherwise than with success: its status, and what it printed.
    Status(Option<i32>, String),
    /// The kernel said nothing of a device.
    Silent(&'static str, String),
    /// The kernel said something of a device that is not so.
    Wrong {
        /// The device.
        device: &'static str,
        /// What is not so.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource(path) => {
                write!(f, "{} is not there: the kernel is built from its source", path.display())
            }
            Self::Build(said) => write!(f, "the kernel does not build: {}", said.trim()),
            Self::Missing(program) => write!(f, "no {program} on the PATH"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Timeout(limit, said) => {
                write!(f, "the kernel did not end within {} s; it said: {}", limit.as_secs(), said.trim())
            }
            Self::Status(status, said) => {
                let status = status.map_or("a signal".into(), |status| format!("status {status}"));
                write!(f, "QEMU ended with {status}; it said: {}", said.trim())
            }
            Self::Silent(device, said) => {
                write!(f, "the kernel did nothing with {device}; it said: {}", said.trim())
            }
            Self::Wrong { device, what } => write!(f, "{device}: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
