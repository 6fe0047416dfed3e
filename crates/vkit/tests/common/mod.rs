//! Running the binary, and counterparts for it.
#![allow(dead_code, reason = "each test program uses some of it")]

pub(crate) mod guest;
pub(crate) mod kill;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long any command of these tests may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// Must have succeeded, without a word on standard error.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!((self.code(), self.stderr.as_str()), (Some(0), ""), "{}", self.text());
        self
    }

    /// Must have failed with this status and this one line.
    #[track_caller]
    pub(crate) fn failed(self, status: i32, line: &str) {
        assert_eq!((self.code(), self.stderr), (Some(status), format!("{line}\n")));
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// A command that is not started yet.
pub(crate) fn vkit<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vkit"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command line, split at spaces.
#[track_caller]
pub(crate) fn run(line: &str) -> Ran {
    finish(vkit(line.split(' ')).spawn().unwrap(), LIMIT)
}

/// Runs a command line with something on its standard input.
#[track_caller]
pub(crate) fn run_with(line: &str, input: &[u8]) -> Ran {
    let mut child = vkit(line.split(' ')).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A command that fails need not read all of it.
            let _ = stdin.write_all(input);
        });
        finish(child, LIMIT)
    })
}

/// Waits for a child, for so long at most.
#[track_caller]
pub(crate) fn finish(mut child: Child, limit: Duration) -> Ran {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let stdout = thread::spawn(move || all_of(out));
    let stderr = thread::spawn(move || all_of(err));
    let fd = pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
    if ended == 0 {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let stderr = String::from_utf8(stderr.join().unwrap()).unwrap();
    assert!(ended > 0, "the command did not end in time: {stderr}");
    Ran { status, stdout: stdout.join().unwrap(), stderr }
}

fn all_of(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes).unwrap();
    }
    bytes
}

/// A folder of its own, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, since sockets are in it.
        let path = std::env::temp_dir().join(format!("vt-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }

    /// A file of so many bytes, no two sectors alike.
    pub(crate) fn file(&self, name: &str, len: usize) -> String {
        let path = self.at(name);
        std::fs::write(&path, pattern(len)).unwrap();
        path
    }

    /// A file of so many zeros.
    pub(crate) fn empty(&self, name: &str, len: u64) -> String {
        let path = self.at(name);
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i * 31) ^ (i >> 9).wrapping_mul(0x9e37_79b9) >> 7) as u8).collect()
}

/// A qemu-storage-daemon. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) target: String,
}

impl Daemon {
    /// Serves the block device node `d` of these options.
    #[track_caller]
    pub(crate) fn start(folder: &Folder, options: &[&str], export: &str) -> Self {
        let socket = folder.at("daemon.sock");
        let _ = std::fs::remove_file(&socket);
        // Listening before the daemon starts: nobody has to wait for it.
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new("qemu-storage-daemon")
            .args(options)
            .arg("--export")
            .arg(format!("type=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str=0{export}"))
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("qemu-storage-daemon is needed for this test (package qemu-utils or qemu-system-common): {error}")
        });
        Self { child, target: format!("vhost-user:{socket}") }
    }

    /// Serves a file.
    #[track_caller]
    pub(crate) fn of_file(folder: &Folder, image: &str, export: &str) -> Self {
        let node = format!("driver=file,node-name=d,filename={image}");
        Self::start(folder, &["--blockdev", &node], export)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Listens at a socket in the folder and does `serve` with every connection; the target's name.
pub(crate) fn server(folder: &Folder, name: &str, serve: impl Fn(UnixStream) + Send + 'static) -> String {
    let socket = folder.at(name);
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    format!("vhost-user:{socket}")
}

/// Answers the questions for features with the given numbers, and nothing else.
pub(crate) fn answer_features(mut stream: UnixStream, features: u64, protocol: u64) {
    let mut header = [0; 12];
    while stream.read_exact(&mut header).is_ok() {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(8) as usize];
        stream.read_exact(&mut payload).unwrap();
        // GET_FEATURES, GET_PROTOCOL_FEATURES.
        let value = match word(0) {
            1 => features,
            15 => protocol,
            _ => continue,
        };
        let mut reply = Vec::new();
        // A reply of version 1, with 8 bytes.
        [word(0), 5, 8].iter().for_each(|word| reply.extend(word.to_le_bytes()));
        reply.extend(value.to_le_bytes());
        stream.write_all(&reply).unwrap();
    }
}

/// A `vkit serve` that listens. Dropped, it is killed.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) out: BufReader<ChildStdout>,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::logging(args, Stdio::inherit())
    }

    /// One whose log goes elsewhere.
    #[track_caller]
    pub(crate) fn logging(args: &[&str], log: impl Into<Stdio>) -> Self {
        let mut command = vkit(["serve"].iter().chain(args).chain(&["--json"]));
        let mut child = command.stderr(log).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        Self { child, out }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// Asks it to end, which it does.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process after a time, unless what is given back is dropped before.
pub(crate) fn stop_after(child: &Child, limit: Duration) -> Sender<()> {
    let process = pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let (over, watch) = channel();
    thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        }
    });
    over
}

/// Bytes as two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
