//! A temporary folder and child processes, which go whatever ends the program but SIGKILL.

use crate::failure::{Failure, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a signal must not leave behind.
static LEFT: Mutex<Left> = Mutex::new(Left { folders: Vec::new(), children: Vec::new() });

struct Left {
    folders: Vec<PathBuf>,
    children: Vec<Pid>,
}

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cleans up on SIGINT, SIGTERM and SIGHUP, and then ends as they would.
pub(super) fn clean_up_on_signals() -> Result<()> {
    let failed = |error| Failure::new(format_args!("signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let thread = std::thread::Builder::new().name("signals".into());
    let waiting = thread.spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held to the end, so that nothing is made any more.
            let left = left();
            for &child in &left.children {
                let _ = kill_process(child, Signal::KILL);
                // To its end, which is near: nobody should find it running after we are gone.
                let _ = waitpid(Some(child), WaitOptions::empty());
            }
            for folder in &left.folders {
                let _ = fs::remove_dir_all(folder);
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    });
    waiting.map(|_| ()).map_err(failed)
}

/// A folder of its own. Dropped, it is removed with all that is in it.
pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let mut left = left();
        let base = std::env::temp_dir();
        for number in 0..1000 {
            let folder = base.join(format!("vkit-{}-{number}", std::process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => {
                    left.folders.push(folder.clone());
                    return Ok(Self { folder });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::file(&folder, &error)),
            }
        }
        Err(Failure::new(format_args!("{}: too many folders left by others", base.display())))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed.
        let _ = fs::remove_dir_all(&self.folder);
        left().folders.retain(|folder| folder != &self.folder);
    }
}

/// Starts a child, to be ended by a signal too.
pub(super) fn spawn(command: &mut std::process::Command) -> std::io::Result<std::process::Child> {
    let mut left = left();
    let child = command.spawn()?;
    left.children.extend(Pid::from_raw(child.id() as i32));
    Ok(child)
}

/// A child is about to be waited for: its number may mean another process afterwards.
pub(super) fn forget(child: Pid) {
    left().children.retain(|&other| other != child);
}

/// A folder for sockets must have a short name.
pub(super) fn fits_a_socket(path: &Path) -> bool {
    path.as_os_str().len() <= 107
}
