//! What users tell a server by signals.

use crate::failure::{Failure, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Stats,
}

pub(super) struct Signals(Receiver<What>);

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let failed = |error| Failure::new(format_args!("signals: {error}"));
        let mut signals =
            signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(failed)?;
        let (to, from) = channel();
        let thread = std::thread::Builder::new().name("signals".into());
        let run = move || {
            for signal in signals.forever() {
                let what = match signal {
                    SIGHUP => What::Reload,
                    SIGUSR1 => What::Stats,
                    _ => What::End,
                };
                if to.send(what).is_err() {
                    return;
                }
            }
        };
        thread.spawn(run).map_err(failed)?;
        Ok(Self(from))
    }

    /// The next signal; `None` if there was none by then.
    pub(super) fn wait(&self, until: Option<Instant>) -> Option<What> {
        let Some(until) = until else { return Some(self.0.recv().unwrap_or(What::End)) };
        match self.0.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(what) => Some(what),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(What::End),
        }
    }
}
