//! Terminals that pass every byte on as it is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// A terminal in raw mode. Dropped, it is as it was before; [`RawMode::restore_all`] is for ends without a drop.
#[derive(Debug)]
pub struct RawMode {
    _private: (),
}

/// The terminal that is in raw mode, and how it was before.
static RAW: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

impl RawMode {
    /// Sets a terminal to raw mode; `None` if it is none. One terminal at a time: a second one is an error.
    pub fn set(terminal: impl AsFd) -> io::Result<Option<Self>> {
        if !isatty(&terminal) {
            return Ok(None);
        }
        let mut raw = RAW.lock().unwrap_or_else(PoisonError::into_inner);
        if raw.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let before = tcgetattr(&terminal)?;
        let kept = terminal.as_fd().try_clone_to_owned()?;
        make_raw(&terminal)?;
        *raw = Some((kept, before));
        Ok(Some(Self { _private: () }))
    }

    /// Sets the terminal back to what it was, if there is one in raw mode: for panics and for threads that wait for
    /// signals.
    pub fn restore_all() {
        let before = RAW.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((terminal, before)) = before {
            // A terminal that has gone needs nothing any more.
            let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        Self::restore_all();
    }
}

pub(super) fn make_raw(terminal: impl AsFd) -> io::Result<()> {
    let mut settings = tcgetattr(&terminal)?;
    settings.make_raw();
    Ok(tcsetattr(&terminal, OptionalActions::Now, &settings)?)
}
