//! The devices: programs of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use virtio_kit_bench::two_cores::pin;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Qsd,
    QsdIoThread,
    RustVmm,
    Vkit,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Qsd, Self::QsdIoThread, Self::RustVmm, Self::Vkit];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qsd => "qemu-storage-daemon",
            Self::QsdIoThread => "qemu-storage-daemon iothread",
            Self::RustVmm => "vhost-user-backend",
            Self::Vkit => "vkit",
        }
    }

    fn command(self, socket: &Path) -> Result<Command, String> {
        let size = super::client::SIZE;
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        Ok(match self {
            Self::Qsd | Self::QsdIoThread => {
                let mut command = Command::new("qemu-storage-daemon");
                command
                    .args(["--blockdev", &format!("driver=null-co,node-name=n,read-zeroes=on,size={size}")]);
                let mut export = format!(
                    "type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={},writable=on",
                    socket.display()
                );
                if self == Self::QsdIoThread {
                    command.args(["--object", "iothread,id=io"]);
                    export += ",iothread=io";
                }
                command.args(["--export", &export]);
                command
            }
            Self::RustVmm => {
                let mut command = Command::new(this.with_file_name("rust_vmm_null"));
                command.arg(socket);
                command
            }
            Self::Vkit => {
                let program = this.with_file_name("vkit");
                if !program.exists() {
                    return Err(format!("{}: build it first: cargo build --release", program.display()));
                }
                let mut command = Command::new(program);
                command
                    .args(["serve", "blk", "--null", "--zeros", "--size", &size.to_string(), "--socket"])
                    .arg(socket);
                command
            }
        })
    }
}

/// A device that runs, until this is dropped.
pub(super) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts it on a core.
    pub(super) fn start(kind: Kind, core: usize) -> Result<Self, String> {
        let name = format!("virtio-kit-peers-{}-{kind:?}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let mut command = kind.command(&socket)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // A process has the cores of the thread that started it.
        pin(core);
        let child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        let daemon = Self { child, socket };
        let began = Instant::now();
        while !daemon.socket.exists() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} made no socket", kind.name()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
