//! qemu-storage-daemon, started on a socket of ours and stopped again.

use super::scratch;
use crate::failure::{Failure, Result, reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) const NAME: &str = "qemu-storage-daemon";

/// Where the program is, if it is on the PATH.
pub(super) fn find() -> Option<PathBuf> {
    on_path(NAME)
}

/// Where a program is, if it is on the PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs =
        |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(runs)
}

/// A running daemon. Dropped, it is stopped.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Serves `image` at `socket`, with so many queues.
    pub(super) fn start(program: &Path, image: &Path, socket: &Path, queues: u16) -> Result<Self> {
        let _ = std::fs::remove_file(socket);
        if !scratch::fits_a_socket(socket) {
            let what = "too long for a socket: set TMPDIR to a shorter folder";
            return Err(Failure::new(format_args!("{}: {what}", socket.display())));
        }
        // It inherits the socket as its standard input, listening already: there is nothing to wait for.
        let listener = UnixListener::bind(socket).map_err(|error| Failure::file(socket, &error))?;
        let image = image.to_str().ok_or_else(|| Failure::new("the temporary folder's name is not UTF-8"))?;
        let address = format!("num-queues={queues},addr.type=fd,addr.str=0");
        let mut command = Command::new(program);
        command
            .args(["--blockdev", &format!("driver=file,node-name=d,filename={}", image.replace(',', ",,"))])
            .args(["--export", &format!("type=vhost-user-blk,id=e,node-name=d,writable=on,{address}")])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = scratch::spawn(&mut command);
        Ok(Self { child: child.map_err(|e| Failure::new(format_args!("{NAME}: {}", reason(&e))))? })
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Whether it has ended, or ends within so many milliseconds.
    fn ends_within(&self, milliseconds: u32) -> bool {
        let Some(fd) = self.pid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return true;
        };
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(milliseconds) * 1_000_000 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).is_ok_and(|ended| ended > 0)
    }

    /// What it had to say, if it has ended by itself.
    pub(super) fn complaint(&mut self) -> Option<String> {
        // What the driver noticed may come before the end.
        if !self.ends_within(500) {
            return None;
        }
        let status = self.child.try_wait().ok()??;
        let mut said = String::new();
        if let Some(errors) = &mut self.child.stderr {
            // Whatever could be read is what there is to say.
            let _ = errors.take(4096).read_to_string(&mut said);
        }
        let first =
            said.lines().next().unwrap_or("it says nothing").trim_start_matches("qemu-storage-daemon: ");
        Some(format!("{NAME} ended ({status}): {first}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            scratch::forget(pid);
            // Asked first, and given a moment; if it has ended already, there is nobody to ask.
            if kill_process(pid, Signal::TERM).is_ok() {
                self.ends_within(900);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
