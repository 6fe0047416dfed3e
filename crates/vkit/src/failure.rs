//! What ends a command: one line, and an exit status.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Says so on standard error.
    Line(String),
    /// Everything has been said: the output shows what failed.
    Shown,
    /// Nobody reads standard output any more.
    BrokenPipe,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(line: impl Display) -> Self {
        Self::Line(line.to_string())
    }

    /// Something is wrong with a file.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        Self::Line(format!("{}: {}", path.display(), reason(error)))
    }

    /// Standard output could not be written to.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Line(format!("standard output: {}", reason(error))),
        }
    }

    /// The same, with more to say before it.
    pub(crate) fn before(self, what: impl Display) -> Self {
        match self {
            Self::Line(line) => Self::Line(format!("{what}: {line}")),
            other => other,
        }
    }

    /// The same, with more to say after it.
    pub(crate) fn after(self, what: impl Display) -> Self {
        match self {
            Self::Line(line) => Self::Line(format!("{line}; {what}")),
            other => other,
        }
    }

    /// Says it.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Line(line) => {
                eprintln!("vkit: {line}");
                ExitCode::FAILURE
            }
            Self::Shown => ExitCode::FAILURE,
            Self::BrokenPipe => ExitCode::SUCCESS,
        }
    }
}

/// An error of the operating system without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.find(" (os error") {
        Some(end) => &text[..end],
        None => &text,
    };
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}
