//! Linux's own driver, drivers/virtio/virtio_ring.c, built for user space; and its ring benchmarks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use virtio_kit_peers::times::Times;

/// Programs built from Linux's sources.
#[derive(Clone)]
pub(crate) struct Programs(PathBuf);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Programs {
    /// Unpacks the sources and builds the programs, if that was not done before.
    pub(crate) fn get() -> Result<Self, String> {
        let root = root();
        run(&mut Command::new(root.join("ci/install-linux-source.sh")))?;
        let source = root.join("target/linux").canonicalize().map_err(|e| e.to_string())?;
        let built = source.join("built");
        let ring = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/linux_ring.c");
        let newer = |a: &Path, b: &Path| -> Option<bool> {
            Some(a.metadata().ok()?.modified().ok()? > b.metadata().ok()?.modified().ok()?)
        };
        if newer(&built.join("linux_ring"), &ring) == Some(true) {
            return Ok(Self(built));
        }
        std::fs::create_dir_all(&built).map_err(|e| e.to_string())?;
        let ringtest = source.join("tools/virtio/ringtest");
        run(Command::new("make").arg("-s").arg("-C").arg(&ringtest))?;
        for name in ["ring", "virtio_ring_0_9", "virtio_ring_inorder"] {
            std::fs::copy(ringtest.join(name), built.join(name)).map_err(|e| format!("{name}: {e}"))?;
        }
        // The flags of tools/virtio itself. Its headers of 6.1 lack data_race, and would cut physical addresses to 32
        // bits.
        let flags = "-g -O2 -w -I. -I../include/ -I../../usr/include/ -fno-strict-overflow -fno-strict-aliasing \
                     -fno-common -U_FORTIFY_SOURCE -include ../../include/linux/kconfig.h -pthread \
                     -Ddata_race(x)=(x) -DCONFIG_PHYS_ADDR_T_64BIT";
        run(Command::new("gcc")
            .current_dir(source.join("tools/virtio"))
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(built.join("linux_ring"))
            .arg(ring.canonicalize().map_err(|e| e.to_string())?)
            .arg("../../drivers/virtio/virtio_ring.c"))?;
        Ok(Self(built))
    }

    /// A program and its arguments: chains of 3 in batches.
    pub(crate) fn ring(&self, packed: bool, batch: usize, ops: usize) -> (OsString, Vec<String>) {
        let kind = if packed { "packed" } else { "split" };
        let args = [kind, "3", "0", "0", &batch.to_string(), &ops.to_string()].map(String::from).to_vec();
        (self.0.join("linux_ring").into(), args)
    }

    /// Runs it.
    pub(crate) fn time(&self, packed: bool, batch: usize, ops: usize) -> Result<Times, String> {
        let (program, args) = self.ring(packed, batch, ops);
        let out = run(Command::new(program).args(args))?;
        // It does not know whether it was disturbed.
        out.replace('\n', " 0\n").parse()
    }

    /// One of tools/virtio/ringtest, polling, with its ends on two cores: up to 128 buffers under way, in batches of
    /// 32.
    pub(crate) fn ringtest(&self, name: &str, cores: [usize; 2], cycles: usize) -> Result<(), String> {
        let [guest, host] = cores.map(|core| core.to_string());
        let args =
            ["--host-affinity", &host, "--guest-affinity", &guest, "--batch", "32", "--outstanding", "128"];
        let cycles = ["--run-cycles", &cycles.to_string()].map(String::from);
        run(Command::new(self.0.join(name)).args(args).args(cycles)).map(|_| ())
    }
}

/// Runs a program to its end: what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !out.status.success() {
        return Err(format!("{name}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
