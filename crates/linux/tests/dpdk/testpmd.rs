//! DPDK's testpmd.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::common::{LONG, TempDir, until};

/// A running testpmd: what comes by one of its ports it sends by the other, or, if there is one, by that.
pub struct TestPmd {
    child: Child,
    log: PathBuf,
}

impl TestPmd {
    /// Its `net_vhost` listens at `socket`. More is what else it is told: other ports, and what they need.
    pub fn start(dir: &TempDir, socket: &Path, queues: u16, more: &[String]) -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dpdk");
        assert!(top.join("ready").exists(), "DPDK is not there. Run ci/install-dpdk.sh.");
        let root = top.join("root/usr");
        let libs = root.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
        let path = format!("{0}:{0}/dpdk/pmds-23.0", libs.display());
        let log = dir.join("testpmd.log");
        let output = std::fs::File::create(&log).unwrap();
        // Both threads on whichever core is free: others use this machine too.
        let cores = std::thread::available_parallelism().unwrap().get() - 1;
        let mut command = Command::new(root.join("bin/dpdk-testpmd"));
        command
            .env("LD_LIBRARY_PATH", path)
            .env("RUNTIME_DIRECTORY", dir.path())
            .args(["--lcores", &format!("0@(0-{cores}),1@(0-{cores})")])
            .args(["--no-pci", "--no-huge", "--no-shconf", "--no-telemetry"])
            .args(["-m", "256", "--file-prefix", &format!("virtio-kit-{}", std::process::id())])
            // By their names: DPDK takes none by a path that others may write to.
            .args(["-d", "librte_mempool_ring.so.23", "-d", "librte_bus_vdev.so.23"])
            .args(["-d", "librte_net_vhost.so.23"])
            .arg("--vdev")
            .arg(format!("net_vhost0,iface={},queues={queues}", socket.display()))
            .args(more)
            .args(["--", "--total-num-mbufs=8192", "--nb-cores=1", "--forward-mode=io"])
            .args(["--disable-link-check", "--no-flush-rx"])
            .args([format!("--rxq={queues}"), format!("--txq={queues}")])
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut this = Self { child: command.spawn().unwrap(), log };
        until("testpmd listens", || {
            let ended = this.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}");
            socket.exists()
        });
        this
    }

    pub fn said(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for TestPmd {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.child.stdin.take());
        let deadline = Instant::now() + LONG;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.child.kill().unwrap();
            }
            std::thread::yield_now();
        }
        if std::thread::panicking() {
            eprintln!("testpmd said:\n{}", self.said());
        }
    }
}
