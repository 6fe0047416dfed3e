//! What the tests of the vhost-user front-end share.

#![allow(dead_code, unreachable_pub, reason = "a module of several tests, each of which uses some of it")]

pub mod backend;
pub mod client;
pub mod served;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest that anything may take that is expected to happen.
pub const LONG: Duration = Duration::from_secs(30);

/// A folder of its own for each test, gone with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// A folder whose files are in memory if that can be: those with thousands of holes are slow to remove from a disk.
    pub fn in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() { Self::new_in(shared) } else { Self::new() }
    }

    fn new_in(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("virtio-kit-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Polls until `done`, and fails if it takes too long.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        std::thread::yield_now();
    }
}
