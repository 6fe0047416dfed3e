//! `vkit serve`: what it says when something is wrong, its status lines, and its end.

mod common;

use common::{Folder, LIMIT, finish, run, run_with, vkit};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdout};

fn serve(line: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = vkit(format!("serve {line} --json").split(' ')).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(json(&mut out)["status"], "listening");
    (child, out)
}

fn json(out: &mut impl BufRead) -> serde_json::Value {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

#[test]
fn what_cannot_be_served_is_one_line() {
    let folder = Folder::new();
    let (socket, none) = (folder.at("s"), folder.at("none"));
    let image = folder.empty("disk", 1 << 20);
    run(&format!("serve blk --socket {socket} --image {none}")).failed(
        1,
        &format!("vkit: {none}: no such file; check the name, or create it with `truncate -s 1G {none}`"),
    );
    run(&format!("serve blk --socket {socket} --image {}", folder.path().display())).failed(
        1,
        &format!("vkit: {}: is a directory; name a regular file or a block device", folder.path().display()),
    );
    run(&format!("serve blk --socket {none}/s --image {image}"))
        .failed(1, &format!("vkit: {none}/s: no such folder; create it or choose another"));
    run(&format!("serve blk --socket {image} --image {image}"))
        .failed(1, &format!("vkit: {image}: there is something else than a socket; choose another name"));
    let _live = UnixListener::bind(&socket).unwrap();
    run(&format!("serve blk --socket {socket} --image {image}")).failed(
        1,
        &format!("vkit: {socket}: somebody serves this socket already; stop them or choose another"),
    );
    run(&format!("serve blk --socket {socket} --socket {none} --image {image}"))
        .failed(1, "vkit: 1 images for 2 sockets: give one --image for each --socket");
    assert_eq!(run(&format!("serve blk --socket {socket}")).code(), Some(2));
    assert_eq!(run(&format!("serve blk --socket {socket} --null --image {image}")).code(), Some(2));
    assert_eq!(folder.names(), ["disk", "s"]);
}

#[test]
fn a_server_tells_what_it_does_and_ends_cleanly() {
    let folder = Folder::new();
    let (first, second) = (folder.file("a", 1 << 20), folder.file("b", 2 << 20));
    for end in [Signal::TERM, Signal::INT] {
        let (one, two) = (folder.at("s1"), folder.at("s2"));
        let (child, mut out) =
            serve(&format!("blk --socket {one} --image {first} --socket {two} --image {second} --queues 2"));
        // Both devices, one after the other and more than once.
        for (socket, len) in [(&one, 1 << 20), (&two, 2 << 20), (&one, 1 << 20)] {
            let info = run(&format!("info vhost-user:{socket} --json")).ok().json();
            assert_eq!(info["config"]["bytes"], len);
        }
        let read = run(&format!("blk read vhost-user:{two}")).ok();
        assert_eq!(read.stdout, common::pattern(2 << 20));
        signal(&child, Signal::USR1);
        let lines: Vec<_> = (0..4).map(|_| json(&mut out)).collect();
        assert!(lines.iter().all(|line| line["status"] == "counters"));
        assert!(lines[2]["completed"].as_u64().unwrap() > 0 && lines[0]["completed"] == 0, "{lines:?}");
        signal(&child, end);
        assert_eq!(json(&mut out)["status"], "ended");
        let ran = finish(child, LIMIT);
        assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""));
        assert!(!Path::new(&one).exists() && !Path::new(&two).exists());
    }
}

#[test]
fn a_second_server_of_an_image_in_use_does_not_start_and_one_of_a_dead_ones_socket_does() {
    let folder = Folder::new();
    let (image, one, two) = (folder.empty("disk", 1 << 20), folder.at("s1"), folder.at("s2"));
    let (mut child, mut out) = serve(&format!("blk --socket {one} --image {image}"));
    // In use is what a front-end uses.
    let front = vkit(format!("blk bench vhost-user:{one} --seconds 60").split(' ')).spawn().unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        signal(&child, Signal::USR1);
        if json(&mut out)["running"] == true {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
    }
    let refused = run(&format!("serve blk --socket {two} --image {image} --wait 0.1"));
    refused.failed(1, &format!("vkit: {image}: somebody else has it in use; stop them, or serve a copy"));
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = finish(front, LIMIT);
    let (child, _out) = serve(&format!("blk --socket {one} --image {image}"));
    run(&format!("info vhost-user:{one}")).ok();
    signal(&child, Signal::TERM);
    assert_eq!(finish(child, LIMIT).code(), Some(0));
}

#[test]
fn an_image_that_may_not_be_written_is_offered_read_only() {
    let folder = Folder::new();
    let (image, socket) = (folder.file("disk", 1 << 20), folder.at("s"));
    let (child, _out) = serve(&format!("blk --socket {socket} --image {image} --read-only"));
    let info = run(&format!("info vhost-user:{socket} --json")).ok().json();
    assert_eq!(info["config"]["read_only"], true);
    assert_eq!(run(&format!("blk zero vhost-user:{socket}")).code(), Some(1));
    signal(&child, Signal::TERM);
    assert_eq!(finish(child, LIMIT).code(), Some(0));
    assert_eq!(std::fs::read(&image).unwrap(), common::pattern(1 << 20));
}

#[test]
fn entropy_is_the_kernels_or_a_files_of_which_no_two_devices_give_the_same() {
    let folder = Folder::new();
    let (one, two) = (folder.at("s1"), folder.at("s2"));
    let (child, mut out) = serve(&format!("rng --socket {one}"));
    let bytes = run(&format!("rng vhost-user:{one} --length 4K")).ok().stdout;
    assert_eq!(bytes.len(), 4096);
    assert_ne!(run(&format!("rng vhost-user:{one} --length 4K")).ok().stdout, bytes);
    signal(&child, Signal::TERM);
    assert_eq!(json(&mut out)["status"], "ended");
    assert_eq!(finish(child, LIMIT).ok().stdout, b"");
    let source = folder.file("source", 64);
    let (child, _out) = serve(&format!("rng --socket {one} --socket {two} --source {source}"));
    // What the first driver has asked for and not used is gone.
    let first = run(&format!("rng vhost-user:{one} --length 32")).ok().stdout;
    assert_eq!(first, common::pattern(64)[..32]);
    let none = run(&format!("rng vhost-user:{two} --length 64"));
    assert_eq!((none.code(), none.stderr.lines().count()), (Some(1), 1), "{none:?}");
    signal(&child, Signal::TERM);
    let ended = finish(child, LIMIT);
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr.contains("the queue ends"), "{}", ended.stderr);
    let none = folder.at("none");
    run(&format!("serve rng --socket {one} --source {none}"))
        .failed(1, &format!("vkit: {none}: No such file or directory (os error 2)"));
}

#[test]
fn network_devices_that_cannot_be_are_one_line() {
    let folder = Folder::new();
    let (one, two) = (folder.at("s1"), folder.at("s2"));
    run(&format!("serve net --socket {one} --socket {two} --tap a"))
        .failed(1, "vkit: 1 --tap for 2 sockets: give one for each --socket");
    run(&format!("serve net --socket {one} --loop --mac 02:00:00:00:00:01 --mac 02:00:00:00:00:02"))
        .failed(1, "vkit: 2 --mac for 1 sockets: give one for each --socket");
    run(&format!("serve net --socket {one} --tap a/b"))
        .failed(1, "vkit: `a/b` is no name of an interface: use 1 to 15 bytes without / and spaces");
    run(&format!("serve net --socket {one} --tap lo"))
        .failed(1, "vkit: lo: another kind of interface than a TAP; choose another name");
    for wrong in ["", " --loop --sink", " --sink --mac 01:00:5e:00:00:01", " --sink --queues 0"] {
        let ran = run(&format!("serve net --socket {one}{wrong}"));
        assert_eq!((ran.code(), ran.stderr.lines().count()), (Some(2), 1), "{ran:?}");
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn network_devices_are_served_and_counted() {
    let folder = Folder::new();
    let (one, two) = (folder.at("s1"), folder.at("s2"));
    for (kind, names) in [("switch", ["port0", "port1"]), ("loop", ["loop"; 2]), ("sink", ["sink"; 2])] {
        let line = format!("serve net --socket {one} --socket {two} --queues 2 --json --{kind}");
        let mut child = vkit(line.split(' ')).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let status = json(&mut out);
        for (device, name) in status["devices"].as_array().unwrap().iter().zip(names) {
            assert_eq!((&device["name"], &device["queues"]), (&name.into(), &5.into()));
        }
        signal(&child, Signal::USR1);
        for _ in 0..2 {
            let own = json(&mut out);
            assert_eq!((&own["status"], &own["device"]["sent"]), (&"counters".into(), &0.into()));
            (0..5).for_each(|_| assert_eq!(json(&mut out)["status"], "counters"));
        }
        signal(&child, Signal::TERM);
        assert_eq!(json(&mut out)["status"], "ended");
        finish(child, LIMIT).ok();
        assert_eq!(folder.names(), [""; 0]);
    }
}

#[test]
fn a_console_is_at_a_socket_or_a_pseudo_terminal() {
    let folder = Folder::new();
    let (socket, end) = (folder.at("s"), folder.at("end"));
    // A dead one is taken out of the way.
    drop(UnixListener::bind(&end).unwrap());
    let (child, mut out) = serve(&format!("console --socket {socket} --unix {end}"));
    let mut there = std::os::unix::net::UnixStream::connect(&end).unwrap();
    there.write_all(b"from there\n").unwrap();
    let got = run_with(&format!("console vhost-user:{socket} --linger 0.5"), b"from the driver\n").ok();
    assert_eq!(got.text(), "from there\n");
    let mut bytes = [0; 16];
    there.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the driver\n");
    signal(&child, Signal::TERM);
    assert_eq!(json(&mut out)["status"], "ended");
    finish(child, LIMIT).ok();
    assert_eq!(folder.names(), [""; 0]);

    let mut child = vkit(["serve", "console", "--socket", &socket, "--pty", "--json"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let status = json(&mut out);
    let path = status["devices"][0]["name"].as_str().unwrap();
    let mut terminal = std::fs::File::options().read(true).write(true).open(path).unwrap();
    terminal.write_all(b"typed").unwrap();
    let got = run_with(&format!("console vhost-user:{socket} --linger 0.5"), b"shown").ok();
    assert_eq!(got.text(), "typed");
    let mut bytes = [0; 5];
    terminal.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"shown");
    signal(&child, Signal::TERM);
    assert_eq!(json(&mut out)["status"], "ended");
    finish(child, LIMIT).ok();
}

#[test]
fn a_console_is_in_a_pipe() {
    let folder = Folder::new();
    let socket = folder.at("s");
    let mut command = vkit(["serve", "console", "--socket", &socket, "--stdio"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"from the pipe\n").unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    while !Path::new(&socket).exists() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    let got = run_with(&format!("console vhost-user:{socket} --linger 0.5"), b"from the driver\n").ok();
    assert_eq!(got.text(), "from the pipe\n");
    signal(&child, Signal::TERM);
    let ran = finish(child, LIMIT).ok();
    assert_eq!(ran.text(), "from the driver\n");
    let two = format!("serve console --socket {socket} --socket {socket}2 --stdio");
    run(&two).failed(1, "vkit: one terminal for 2 sockets: give one --socket");
}
