//! What the command line says when something is wrong: one line, the right status, in bounded time.

mod common;

use common::{Daemon, Folder, answer_features, finish, run, run_with, server, vkit};
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    for (line, expected) in [
        (
            "info nonsense",
            "vkit: invalid value 'nonsense' for '<TARGET>': not a device: write vhost-user:SOCKET, \
             in-process:blk?image=FILE or qtest:virtio-blk-pci?file=FILE (see `vkit --help`)",
        ),
        (
            "info in-process:teapot",
            "vkit: invalid value 'in-process:teapot' for '<TARGET>': no device `teapot`: there are blk, \
             net, console, rng and vsock (see `vkit --help`)",
        ),
        (
            "info qtest:teapot",
            "vkit: invalid value 'qtest:teapot' for '<TARGET>': no device `teapot`: write a name of QEMU's that \
             ends in -pci or -device, such as virtio-blk-pci (see `vkit --help`)",
        ),
        ("info", "vkit: the following required arguments were not provided: <TARGET> (see `vkit --help`)"),
        ("frobnicate", "vkit: unrecognized subcommand 'frobnicate' (see `vkit --help`)"),
        (
            "demo --size 1000",
            "vkit: invalid value '1000' for '--size <BYTES>': not a multiple of 512 (see `vkit --help`)",
        ),
        (
            "console in-process:console?size=80",
            "vkit: invalid value 'in-process:console?size=80' for '<TARGET>': `size=80`: write columns and rows, \
             as 80x24 (see `vkit --help`)",
        ),
        (
            "console in-process:console?ports=0",
            "vkit: invalid value 'in-process:console?ports=0' for '<TARGET>': `ports=0`: write a number from 1 to \
             511 (see `vkit --help`)",
        ),
        (
            "console in-process:console --port 1 --list",
            "vkit: the argument '--port <PORT>' cannot be used with '--list' (see `vkit --help`)",
        ),
        (
            "net ping in-process:net",
            "vkit: invalid value 'in-process:net' for '<TARGET>': nothing to send to: add ?loop, ?pair, ?switch or \
             ?sink (see `vkit --help`)",
        ),
        (
            "net bench in-process:net?loop&sink",
            "vkit: invalid value 'in-process:net?loop&sink' for '<TARGET>': a device has one wire: loop, pair, switch \
             or sink (see `vkit --help`)",
        ),
        (
            "net bench in-process:net?loop --size 20",
            "vkit: invalid value '20' for '--size <BYTES>': write a number from 60 to 65549 (see `vkit --help`)",
        ),
        (
            "net ping in-process:net?pair --interval -1",
            "vkit: unexpected argument '-1' found (see `vkit --help`)",
        ),
        (
            "rng in-process:rng?max_bytes=5",
            "vkit: invalid value 'in-process:rng?max_bytes=5' for '<TARGET>': max_bytes and period_ms go together \
             (see `vkit --help`)",
        ),
        (
            "rng in-process:rng --length x",
            "vkit: invalid value 'x' for '--length <BYTES>': not a number of bytes: write 4096, 4K, 64M or 1G \
             (see `vkit --help`)",
        ),
        (
            "demo --device teapot",
            "vkit: invalid value 'teapot' for '--device <TYPE>' [possible values: blk, net, console, rng, vsock] (see \
             `vkit --help`)",
        ),
        (
            "blk read in-process:blk?size=1M --offset 100",
            "vkit: invalid value '100' for '--offset <BYTES>': not a multiple of 512 (see `vkit --help`)",
        ),
        (
            "blk zero in-process:blk?size=1M --length 0",
            "vkit: invalid value '0' for '--length <BYTES>': must be more than 0 (see `vkit --help`)",
        ),
        (
            "blk bench in-process:blk?size=1M --poll --poll-us 5",
            "vkit: the argument '--poll' cannot be used with '--poll-us <N>' (see `vkit --help`)",
        ),
    ] {
        run(line).failed(2, expected);
    }
}

#[test]
fn help_is_for_standard_output_and_succeeds() {
    let help = run("--help").ok().text();
    assert!(help.contains("in-process:blk?image=FILE") && help.contains("demo"));
    assert!(run("blk read --help").ok().text().contains("--output"));
}

#[test]
fn what_is_no_listening_socket_is_named() {
    let folder = Folder::new();
    let path = folder.at("s");
    run(&format!("info vhost-user:{path}"))
        .failed(1, &format!("vkit: {path}: no such socket; start the back-end first"));
    std::fs::write(&path, "").unwrap();
    run(&format!("blk flush vhost-user:{path}"))
        .failed(1, &format!("vkit: {path}: not a stream socket; name the one the back-end listens on"));
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    run(&format!("blk bench vhost-user:{path}"))
        .failed(1, &format!("vkit: {path}: nobody listens on this socket; start the back-end again"));
}

#[test]
fn a_server_of_something_else_is_told_from_a_virtio_device() {
    let folder = Folder::new();
    let target = server(&folder, "http", |mut stream| {
        let mut request = [0; 12];
        let _ = stream.read_exact(&mut request);
        let _ = stream.write_all(&b"HTTP/1.1 400 Bad Request\r\n".repeat(20));
    });
    let ran = run(&format!("info {target}"));
    assert_eq!(ran.code(), Some(1));
    let start = format!("vkit: {}: not a vhost-user back-end, or a broken one: ", folder.at("http"));
    assert!(ran.stderr.starts_with(&start) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
}

#[test]
fn a_server_that_hangs_up_is_told_at_which_message() {
    let folder = Folder::new();
    let target = server(&folder, "s", |mut stream| {
        let mut request = [0; 12];
        let _ = stream.read_exact(&mut request);
    });
    let line = format!("vkit: {}: the back-end hung up at GET_FEATURES; see its log", folder.at("s"));
    run(&format!("blk read {target}")).failed(1, &line);
}

#[test]
fn a_silent_server_is_given_up_after_five_seconds() {
    let folder = Folder::new();
    let kept = Mutex::new(Vec::new());
    let target = server(&folder, "s", move |stream| kept.lock().unwrap().push(stream));
    let began = Instant::now();
    run(&format!("info {target}")).failed(
        1,
        &format!(
            "vkit: {}: no answer to GET_FEATURES in time; see whether the back-end serves another front-end or hangs",
            folder.at("s")
        ),
    );
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_device_of_another_type_is_refused_by_blk_and_shown_by_info() {
    let folder = Folder::new();
    // VERSION_1 and PROTOCOL_FEATURES without any protocol feature: as vhost-device-rng.
    let target = server(&folder, "s", |stream| answer_features(stream, 1 << 32 | 1 << 30, 0));
    for command in ["read", "flush", "bench"] {
        run(&format!("blk {command} {target}"))
            .failed(1, &format!("vkit: {target}: not a block device: it has no configuration space"));
    }
    let text = run(&format!("info {target}")).ok().text();
    let line = "device     unknown: it could be console or rng: say which with --device";
    assert_eq!(text.lines().next(), Some(line));
    let said = run(&format!("info {target} --json --device rng")).ok().json();
    assert_eq!((said["device"].as_str(), said["device_id"].as_u64()), (Some("entropy"), Some(4)));
    let info = run(&format!("info {target} --json")).ok().json();
    assert_eq!((info["device"].as_str(), info["device_id"].as_u64()), (Some("unknown"), None));
    assert_eq!(info["features"], serde_json::json!(["VERSION_1"]));
    // CONFIG, and a feature of network devices.
    let target = server(&folder, "t", |stream| answer_features(stream, 1 << 32 | 1 << 30 | 1 << 22, 1 << 9));
    run(&format!("blk read {target}")).failed(
        1,
        &format!("vkit: {target}: not a block device: it offers feature 22, which no block device has"),
    );
    run(&format!("rng {target}")).failed(
        1,
        &format!("vkit: {target}: not an entropy device: it offers feature 22, which no entropy device has"),
    );
    run("console in-process:rng").failed(1, "vkit: in-process:rng: not a console: it is an entropy device");
    run("rng in-process:blk?null")
        .failed(1, "vkit: in-process:blk?null: not an entropy device: it is a block device");
}

#[test]
fn what_is_beyond_the_end_is_refused_before_anything_is_done() {
    let folder = Folder::new();
    let image = folder.file("image", 1 << 20);
    let before = std::fs::read(&image).unwrap();
    let big = folder.file("big", 2 << 20);
    let target = format!("in-process:blk?image={image}");
    let end = "the device has 1,048,576 bytes";
    let reach = format!("vkit: {target}: offset 512 and length 1,048,576 reach beyond the end: {end}");
    for command in ["read --output -", "discard", "zero"] {
        let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
        let line = |range: &str| format!("blk {command} {target} {range} {rest}").trim_end().to_owned();
        run(&line("--offset 2M"))
            .failed(1, &format!("vkit: {target}: offset 2,097,152 is beyond the end: {end}"));
        run(&line("--offset 512 --length 1M")).failed(1, &reach);
    }
    run(&format!("blk write {target} --input {big}"))
        .failed(1, &format!("vkit: {target}: offset 0 and length 2,097,152 reach beyond the end: {end}"));
    assert_eq!(std::fs::read(&image).unwrap(), before);
}

#[test]
fn input_that_does_not_fit_is_refused() {
    let folder = Folder::new();
    let image = folder.empty("image", 1 << 20);
    let (odd, short) = (folder.file("odd", 1000), folder.file("short", 512));
    let target = format!("in-process:blk?image={image}");
    run(&format!("blk write {target} --input {odd}"))
        .failed(1, &format!("vkit: {odd}: its length, 1,000 bytes, is no multiple of 512"));
    run(&format!("blk write {target} --input {short} --length 1K"))
        .failed(1, &format!("vkit: {short}: has only 512 of 1,024 bytes"));
    run(&format!("blk write {target}")).failed(1, &format!("vkit: {target}: standard input: is empty"));
    run(&format!("blk write {target} --input {}", folder.at("none")))
        .failed(1, &format!("vkit: {}: no such file or directory", folder.at("none")));
    let ran = run_with(&format!("blk write {target} --offset 512K"), &vec![1; 1 << 20]);
    assert_eq!(ran.code(), Some(1));
    let line = "standard input: has more than the 524,288 bytes from the offset to the device's end";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
}

#[test]
fn a_read_only_device_is_not_written_to() {
    let folder = Folder::new();
    let image = folder.file("image", 1 << 20);
    let daemon = Daemon::of_file(&folder, &image, "");
    for target in [&format!("in-process:blk?image={image}&read_only=on"), &daemon.target] {
        let shown = target.trim_end_matches("&read_only=on");
        let line = format!("vkit: {shown}: the device is read-only");
        run_with(&format!("blk write {target}"), &[0; 512]).failed(1, &line);
        run(&format!("blk zero {target}")).failed(1, &line);
        run(&format!("blk discard {target}")).failed(1, &line);
        run(&format!("blk bench {target} --rw randwrite")).failed(1, &line);
        assert_eq!(run(&format!("blk read {target}")).ok().stdout, std::fs::read(&image).unwrap());
    }
}

#[test]
fn what_arrived_before_an_error_is_named_as_partial() {
    let folder = Folder::new();
    let image = folder.file("image", 8 << 20);
    let node = format!("driver=blkdebug,node-name=d,image.driver=file,image.filename={image}");
    let error = "inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.sector=8192";
    let daemon = Daemon::start(&folder, &["--blockdev", &format!("{node},{error}")], "");
    let out = folder.at("out");
    run(&format!("blk read {} --output {out}", daemon.target)).failed(
        1,
        &format!(
            "vkit: {}: the device reported an input/output error; the first 4,194,304 bytes are in {out}.partial",
            daemon.target
        ),
    );
    assert!(!folder.names().contains(&"out".into()));
    assert_eq!(std::fs::read(format!("{out}.partial")).unwrap(), std::fs::read(&image).unwrap()[..4 << 20]);
}

#[test]
fn a_server_that_dies_half_way_ends_the_copy_at_once() {
    let folder = Folder::new();
    let image = folder.empty("image", 1 << 30);
    // Slow enough that it is killed long before the end.
    let slow = ["--object", "throttle-group,id=t,limits.bps-total=33554432"];
    let node = format!("driver=throttle,node-name=d,throttle-group=t,file.driver=file,file.filename={image}");
    let options = [slow[0], slow[1], "--blockdev", &node];
    let mut daemon = Daemon::start(&folder, &options, ",writable=on");
    let out = folder.at("out");
    let partial = format!("{out}.partial");
    let child = vkit(["blk", "read", &daemon.target, "--output", &out]).spawn().unwrap();
    let began = Instant::now();
    while std::fs::metadata(&partial).map_or(0, |m| m.len()) == 0 {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    daemon.kill();
    let ran = finish(child, Duration::from_secs(10));
    let arrived = std::fs::metadata(&partial).unwrap().len();
    assert!(arrived > 0 && arrived < 1 << 30);
    assert_eq!(ran.code(), Some(1));
    let start = format!("vkit: {}: the device is gone; the first ", daemon.target);
    let end = format!(" bytes are in {partial}\n");
    assert!(ran.stderr.starts_with(&start) && ran.stderr.ends_with(&end), "{}", ran.stderr);

    let mut daemon = Daemon::start(&folder, &options, ",writable=on");
    let mut child = vkit(["blk", "write", &daemon.target]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than fits into all buffers on the way, so some of it has been written.
    let piece = vec![1; 1 << 20];
    for _ in 0..40 {
        stdin.write_all(&piece).unwrap();
    }
    daemon.kill();
    let ran = std::thread::scope(|scope| {
        scope.spawn(move || while stdin.write_all(&piece).is_ok() {});
        finish(child, Duration::from_secs(10))
    });
    assert_eq!(ran.code(), Some(1));
    let start = format!("vkit: {}: the device is gone; ", daemon.target);
    let end = " bytes were written, and perhaps more, and not flushed\n";
    assert!(ran.stderr.starts_with(&start) && ran.stderr.ends_with(end), "{}", ran.stderr);
}

#[test]
fn output_that_nobody_reads_ends_quietly() {
    let mut child = vkit(["blk", "read", "in-process:blk?size=64M"]).spawn().unwrap();
    let mut first = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    finish(child, common::LIMIT).ok();
}
