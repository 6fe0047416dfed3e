//! `vkit console` and `vkit rng`, in pipes and on terminals.

mod common;

use common::{Folder, LIMIT, finish, run, run_with, vkit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Instant;

#[test]
fn what_goes_in_comes_back_from_every_port_in_every_layout() {
    let content = common::pattern(300_000);
    for options in ["", "&layout=packed", "&in_order=on", "&layout=packed&in_order=on"] {
        for port in ["", "--port 1", "--port port2"] {
            let line = format!("console in-process:console?ports=3{options} --linger 0.5 {port}");
            let back = run_with(line.trim_end(), &content).ok();
            assert!(back.stdout == content, "{line}: {} bytes", back.stdout.len());
        }
    }
    let back = run_with("console in-process:console --linger 0.5", b"one port\n").ok();
    assert_eq!(back.text(), "one port\n");
}

#[test]
fn ports_are_listed_and_one_that_is_not_there_is_named() {
    let list = run("console in-process:console?ports=2&size=80x24 --list").ok().text();
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1..], [["0", "port0", "yes", "yes", "80x24"], ["1", "port1", "no", "yes", "-"]]);
    run("console in-process:console?ports=2 --port org.example")
        .failed(1, "vkit: in-process:console?ports=2: no port org.example: there are 0 (port0), 1 (port1)");
    run("console in-process:console --port 1").failed(1, "vkit: in-process:console: no port 1: there is 0");
}

#[test]
fn info_shows_consoles_and_entropy_devices() {
    let info = run("info in-process:console?ports=3&size=80x24&layout=packed --json").ok().json();
    assert_eq!((&info["device"], &info["device_id"]), (&"console".into(), &3.into()));
    assert_eq!((&info["config"]["cols"], &info["config"]["rows"]), (&80.into(), &24.into()));
    assert_eq!(info["config"]["max_ports"], 3);
    assert_eq!(info["queues"].as_array().unwrap().len(), 8);
    let info = run("info in-process:rng --json").ok().json();
    assert_eq!((&info["device"], &info["device_id"]), (&"entropy".into(), &4.into()));
    assert!(info["config"].is_null());
}

#[test]
fn random_bytes_are_what_the_source_gave_and_no_more() {
    let folder = Folder::new();
    let source = folder.file("source", 200_000);
    let content = std::fs::read(&source).unwrap();
    for options in ["", "&layout=packed&threads=on", "&in_order=on"] {
        let target = format!("in-process:rng?source={source}{options}");
        let got = run(&format!("rng {target} --length 150000")).ok();
        assert!(got.stdout == content[..150_000]);
        let hex = run(&format!("rng {target} --length 40 --hex")).ok().text();
        let expected: String = content[..40].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, format!("{}\n{}\n", &expected[..64], &expected[64..]));
    }
    assert_eq!(run("rng in-process:rng").ok().stdout.len(), 32);
    assert_eq!(run("rng in-process:rng --length 0").ok().stdout.len(), 0);
    let missing = folder.at("missing");
    let ran = run(&format!("rng in-process:rng?source={missing}"));
    assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(1), 1));
    assert!(ran.stderr.starts_with(&format!("vkit: {missing}: ")), "{}", ran.stderr);
}

#[test]
fn random_bytes_that_nobody_reads_end_quietly() {
    let mut child = vkit(["rng", "in-process:rng", "--length", "1T"]).spawn().unwrap();
    let mut first = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    finish(child, LIMIT).ok();
}

#[test]
fn a_socket_of_a_port_talks_to_the_pipe() {
    let folder = Folder::new();
    let path = folder.at("p");
    let mut child = vkit(["console", &format!("in-process:console?ports=2&socket={path}"), "--port", "1"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(format!("{path}1")) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < LIMIT, "{error}"),
        }
        std::thread::yield_now();
    };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"to the socket").unwrap();
    let mut got = [0; 13];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"to the socket");
    stream.write_all(b"from the socket").unwrap();
    let mut got = [0; 15];
    let mut done = 0;
    while done < got.len() {
        let stdout = child.stdout.as_mut().unwrap();
        await_bytes(&*stdout);
        done += stdout.read(&mut got[done..]).unwrap();
    }
    assert_eq!(&got, b"from the socket");
    drop(stdin);
    finish(child, LIMIT).ok();
}

/// Waits until something can be read, but not for ever.
#[track_caller]
fn await_bytes(from: impl AsFd) {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&limit)), Ok(1), "nothing comes");
}

/// The command on a terminal of its own, of which this is the other end.
struct OnTerminal {
    child: Child,
    keys: File,
    slave: OwnedFd,
    shown: String,
}

impl OnTerminal {
    fn start(target: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(path).unwrap();
        let end = || slave.try_clone().unwrap();
        let child = vkit(["console", target]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let mut terminal =
            Self { child, keys: File::from(master), slave: slave.into(), shown: String::new() };
        terminal.until("Ctrl-] q ends");
        assert!(!terminal.is_as_before(), "in raw mode while it runs");
        terminal
    }

    /// Reads until this has been shown.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let mut bytes = [0; 100];
        while !self.shown.contains(text) {
            await_bytes(&self.keys);
            let got = self.keys.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..got]));
        }
    }

    fn is_as_before(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

#[test]
fn the_escape_ends_and_the_terminal_is_as_before() {
    let mut terminal = OnTerminal::start("in-process:console");
    terminal.keys.write_all(b"hello\x03\x1d\x1d").unwrap();
    terminal.until("hello\x03\x1d");
    terminal.keys.write_all(b"\x1dq").unwrap();
    let status = terminal.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(terminal.is_as_before());
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = OnTerminal::start("in-process:console?layout=packed");
        terminal.keys.write_all(b"x").unwrap();
        let pid = Pid::from_raw(terminal.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
        let status = terminal.child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert!(terminal.is_as_before(), "{signal:?}");
    }
}
