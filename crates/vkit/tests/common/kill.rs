//! Servers that are killed at a chosen moment.

use super::{LIMIT, vkit};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStderr};
use std::time::{Duration, Instant};

/// A `vkit serve` that is to be killed.
pub(crate) struct Victim {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Victim {
    #[track_caller]
    pub(crate) fn start(args: &[String]) -> Self {
        let mut command = vkit(["serve"].into_iter().map(String::from).chain(args.iter().cloned()));
        let mut child = command.args(["--json", "-vv"]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).unwrap()
    }

    /// How long its threads have been at work, in eighths of a millisecond or so.
    pub(crate) fn worked(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let time = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
        };
        tasks.filter_map(Result::ok).map(time).sum::<u64>() >> 17
    }

    /// Holds it at moments when nothing of it runs, until `now` is true of one. Between two of them it gets somewhere,
    /// which `progress` shows.
    pub(crate) fn hold_when(&self, now: impl Fn() -> bool, progress: impl Fn() -> u64) {
        let deadline = Instant::now() + LIMIT;
        loop {
            kill_process(self.pid(), Signal::STOP).unwrap();
            waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
            if now() {
                return;
            }
            let before = progress();
            kill_process(self.pid(), Signal::CONT).unwrap();
            while progress() == before {
                assert!(Instant::now() < deadline, "the moment never came");
                std::thread::yield_now();
            }
        }
    }

    /// Kills it; what was in its log.
    pub(crate) fn kill(&mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        rest
    }

    /// Kills it a moment after its front-end is there: whether no queue had started yet.
    pub(crate) fn kill_in_handshake(mut self, after: Duration) -> bool {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended before its front-end came");
            if line.contains("a front-end is connected") {
                break;
            }
        }
        let start = Instant::now();
        while start.elapsed() < after {
            std::hint::spin_loop();
        }
        !self.kill().contains("the queue starts")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many requests the dead server's record has in flight: looked for among this process's descriptors.
pub(crate) fn in_flight(process: &str, packed: bool, queues: u64, queue_size: u64) -> usize {
    let (header, entry) = if packed { (32, 32) } else { (16, 16) };
    let stride = (header + entry * queue_size).next_multiple_of(64);
    let mut count = 0;
    for fd in std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().filter_map(Result::ok) {
        let Ok(name) = std::fs::read_link(fd.path()) else { continue };
        if !name.to_string_lossy().contains("vhost-user-inflight") {
            continue;
        }
        // Its owner may close it at this moment, and make another.
        let Ok(record) = File::open(fd.path()) else { continue };
        for queue in 0..queues {
            for at in 0..queue_size {
                let mut flag = [0];
                let offset = queue * stride + header + at * entry;
                if record.read_at(&mut flag, offset).unwrap() == 1 && flag[0] == 1 {
                    count += 1;
                }
            }
        }
        return count;
    }
    // QEMU asks for one when its driver starts.
    0
}

/// The QEMU that is the front-end of a socket.
pub(crate) fn qemu(socket: &str) -> String {
    let is_it = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("qemu-system") && line.contains(socket)
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let mut pids = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    pids.find(is_it).expect("QEMU runs")
}
