//! The command line as its users have it.

mod common;

use common::{Daemon, Folder, LIMIT, finish, pattern, run, run_with, vkit};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const NOT_OFFERED: &str = "not offered by qemu-storage-daemon";

fn rows(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_demo_verifies_every_row_that_can_run_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let child = vkit(["demo", "--size", "4M", "--json"]).env("TMPDIR", folder.path()).spawn().unwrap();
    let rows = rows(&finish(child, LIMIT).ok().text());
    let mut seen = Vec::new();
    for row in &rows {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        let (transport, layout) = (text("transport").unwrap(), text("layout").unwrap());
        let device = text("device").unwrap();
        if let Some(reason) = text("skipped") {
            assert_eq!(reason, NOT_OFFERED, "without qemu-storage-daemon this cannot be tested: {row}");
            assert_eq!(row["verified"], false);
            seen.push((device, transport, layout, false));
            continue;
        }
        assert_eq!(row["verified"], true, "{row}");
        let bytes = row["bytes"].as_u64().unwrap();
        // The kernel's disks have a size of their own.
        let in_kernel = text("work").is_some_and(|work| work.contains("a kernel without"));
        match device.as_str() {
            "blk" => assert_eq!(bytes, if in_kernel { 3 << 20 } else { 8 << 20 }),
            // As much as the health tests want at least.
            "rng" => assert!(bytes >= if in_kernel { 4096 } else { 1 << 20 }),
            "net" => assert!(bytes >= if in_kernel { 90_000 } else { 500_000 }),
            _ => assert!(bytes > 100_000),
        }
        // Frames of 64 KiB are few.
        let least = if device == "net" || in_kernel { 15 } else { 32 };
        assert!(row["requests"].as_u64().unwrap() > least && row["seconds"].as_f64().unwrap() > 0.0);
        assert!(row["ns_per_request"].as_f64().unwrap() > 0.0 && text("work").is_some());
        let features = row["features"].as_array().unwrap();
        assert_eq!(features.contains(&"RING_PACKED".into()), layout.starts_with("packed"));
        assert_eq!(features.contains(&"IN_ORDER".into()), layout.ends_with("in-order"));
        seen.push((device, transport, layout, true));
    }
    let expected_blk = [
        ("in-process", "split", true),
        ("in-process", "split in-order", true),
        ("in-process", "packed", true),
        ("in-process", "packed in-order", true),
        // With 1 queue and with 4.
        ("vhost-user", "split", true),
        ("vhost-user", "split", true),
        ("vhost-user", "split in-order", false),
        ("vhost-user", "packed", false),
        ("vhost-user", "packed in-order", false),
        // QEMU's devices without a guest, MMIO's first in version 2, then in version 1.
        ("pci", "split", true),
        ("pci", "split in-order", true),
        ("pci", "packed", true),
        ("pci", "packed in-order", true),
        ("mmio", "split", true),
        ("mmio", "split", true),
        ("mmio", "packed", true),
        // The kernel.
        ("pci", "split", true),
        ("pci", "split in-order", true),
        ("pci", "packed", true),
        ("pci", "packed in-order", true),
        ("mmio", "split", true),
        ("mmio", "split in-order", true),
        ("mmio", "packed", true),
        ("mmio", "packed in-order", true),
        ("mmio", "split", true),
    ];
    let mut expected: Vec<(String, String, String, bool)> = vec![];
    for (transport, layout, ran) in expected_blk {
        expected.push(("blk".into(), transport.into(), layout.into(), ran));
    }
    // Across the switch by TCP without and with offloads, and test frames; in order one way each.
    for (transport, layout, times) in [
        ("in-process", "split", 3),
        ("in-process", "split in-order", 2),
        ("in-process", "packed", 3),
        ("in-process", "packed in-order", 2),
        // QEMU's device, and the kernel.
        ("pci", "split", 1),
        ("pci", "packed", 1),
        ("pci", "split", 1),
        ("pci", "packed", 1),
        ("mmio", "split", 1),
        ("mmio", "packed", 1),
    ] {
        for _ in 0..times {
            expected.push(("net".into(), transport.into(), layout.into(), true));
        }
    }
    for device in ["console", "rng", "vsock"] {
        for layout in ["split", "split in-order", "packed", "packed in-order"] {
            expected.push((device.into(), "in-process".into(), layout.into(), true));
        }
        if device == "vsock" {
            continue;
        }
        // The kernel, whose last board's registers are legacy ones.
        for (transport, layout) in
            [("pci", "split"), ("pci", "packed"), ("mmio", "split"), ("mmio", "packed"), ("mmio", "split")]
        {
            expected.push((device.into(), transport.into(), layout.into(), true));
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn the_demo_writes_what_is_in_an_image_and_leaves_the_image_alone() {
    let folder = Folder::new();
    let image = folder.file("image", (1 << 20) + 100);
    let before = std::fs::read(&image).unwrap();
    let text =
        run(&format!("demo --device blk --transport in-process --layout packed --image {image}")).ok().text();
    assert!(text.contains("2 verified, 0 failed, 0 skipped"), "{text}");
    assert!(text.contains("and (b)   IN_ORDER"), "{text}");
    assert_eq!(std::fs::read(&image).unwrap(), before);
}

#[test]
fn what_cannot_run_here_is_listed_and_does_not_count_as_passed() {
    let folder = Folder::new();
    let child = vkit(["demo", "--size", "1M", "--json"]).env("PATH", folder.path()).spawn().unwrap();
    let all = rows(&finish(child, LIMIT).ok().text());
    let skipped: Vec<_> = all.iter().filter(|row| row["transport"] == "vhost-user").collect();
    assert_eq!(skipped.len(), 5);
    for row in skipped {
        assert_eq!(row["skipped"], "no qemu-storage-daemon on the PATH");
        assert_eq!(row["verified"], false);
    }
    for row in all.iter().filter(|row| row["transport"] == "pci" || row["transport"] == "mmio") {
        assert_eq!(row["skipped"], "no qemu-system-x86_64 on the PATH");
    }
    let only = ["demo", "--size", "1M", "--json", "--transport", "vhost-user"];
    let child = vkit(only).env("PATH", folder.path()).spawn().unwrap();
    finish(child, LIMIT).failed(1, "vkit: nothing of this could run here");
}

#[test]
fn a_failed_row_makes_the_exit_status_1() {
    let folder = Folder::new();
    let daemon = folder.at("qemu-storage-daemon");
    std::fs::write(&daemon, "#!/bin/sh\necho 'out of order' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();
    let line = ["demo", "--size", "1M", "--json", "--transport", "in-process", "--transport", "vhost-user"];
    let child = vkit(line).env("PATH", folder.path()).spawn().unwrap();
    let ran = finish(child, LIMIT);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(1), ""));
    for row in rows(&ran.text()) {
        let failed = row["transport"] == "vhost-user";
        assert_eq!(row["verified"], !failed, "{row}");
        let error = row["error"].as_str();
        assert_eq!(error.is_some_and(|e| e.ends_with("(exit status: 3): out of order")), failed, "{row}");
        assert!(row["skipped"].is_null());
    }
}

#[test]
fn a_signal_ends_the_demo_with_its_files_and_its_daemon() {
    let folder = Folder::new();
    let line = ["demo", "--size", "1G", "--json", "--transport", "vhost-user"];
    let child = vkit(line).env("TMPDIR", folder.path()).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let began = Instant::now();
    let mut socket = None;
    while socket.is_none() {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
        let name = folder.names().pop();
        socket = name.map(|name| folder.path().join(name).join("socket")).filter(|path| path.exists());
    }
    // Connected: the daemon runs, or is about to.
    kill_process(pid, Signal::TERM).unwrap();
    let ran = finish(child, Duration::from_secs(10));
    assert_eq!((ran.status.signal(), ran.stderr.as_str()), (Some(15), ""));
    assert_eq!(folder.names(), Vec::<String>::new());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let image = folder.path().to_str().unwrap().to_owned();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let running = lines.filter(|line| line.starts_with(b"qemu-storage-daemon") || line.starts_with(b"/"));
    let left = running.filter(|line| String::from_utf8_lossy(line).contains(&image));
    assert_eq!(left.count(), 0);
}

/// The ways in which a file is a block device of this process.
fn in_process_targets(image: &str) -> Vec<String> {
    ["", "&layout=packed", "&in_order=on&threads=on", "&layout=packed&in_order=on&queues=2"]
        .map(|options| format!("in-process:blk?image={image}{options}"))
        .into()
}

/// The same with QEMU, which does not share the file with a daemon.
fn qtest_targets(image: &str) -> Vec<String> {
    let pci =
        ["", "&packed=on", "&in_order=on", "&packed=on&in_order=on&event_idx=off", "&disable-modern=on"];
    let mmio = ["&packed=on", "&legacy=on"];
    let pci = pci.map(|options| format!("qtest:virtio-blk-pci?file={image}{options}"));
    let mmio = mmio.map(|options| format!("qtest:virtio-blk-device?file={image}{options}"));
    pci.into_iter().chain(mmio).collect()
}

#[test]
fn what_is_written_is_in_the_file_and_is_read_back() {
    let folder = Folder::new();
    let image = folder.empty("image", 20 << 20);
    let daemon = Daemon::of_file(&folder, &image, ",writable=on,num-queues=2");
    written_and_read(&folder, &image, std::slice::from_ref(&daemon.target));
    // A file that is in use has one writer.
    let own = folder.empty("own", 20 << 20);
    written_and_read(&folder, &own, &in_process_targets(&own));
}

#[test]
fn what_is_written_by_qemus_devices_is_in_the_file_and_is_read_back() {
    let folder = Folder::new();
    let image = folder.empty("image", 20 << 20);
    written_and_read(&folder, &image, &qtest_targets(&image));
}

fn written_and_read(folder: &Folder, image: &str, targets: &[String]) {
    let content = pattern((20 << 20) - 1024);
    let input = folder.at("input");
    std::fs::write(&input, &content).unwrap();
    for target in targets {
        std::fs::write(image, vec![0xee; 20 << 20]).unwrap();
        run(&format!("blk write {target} --offset 512 --input {input}")).ok();
        let mut stored = std::fs::read(image).unwrap();
        assert!(stored[..512] == [0xee; 512] && stored[512..stored.len() - 512] == content);
        assert!(stored[stored.len() - 512..] == [0xee; 512]);
        let output = folder.at("output");
        run(&format!("blk read {target} --output {output}")).ok();
        assert!(std::fs::read(&output).unwrap() == stored);
        assert!(!folder.names().iter().any(|name| name.ends_with(".partial")));
        run_with(&format!("blk write {target} --offset 5M"), &content[..3 << 20]).ok();
        run_with(&format!("blk write {target} --offset 9M --length 1K"), &content[..4096]).ok();
        stored[5 << 20..8 << 20].copy_from_slice(&content[..3 << 20]);
        stored[9 << 20..(9 << 20) + 1024].copy_from_slice(&content[..1024]);
        let read = run(&format!("blk read {target} --offset 4M --length 6M")).ok();
        assert!(read.stdout == stored[4 << 20..10 << 20]);
        run(&format!("blk zero {target} --offset 1M --length 2M")).ok();
        run(&format!("blk discard {target} --offset 12M --length 1M")).ok();
        run(&format!("blk flush {target}")).ok();
        let after = std::fs::read(image).unwrap();
        assert!(after[1 << 20..3 << 20].iter().all(|&b| b == 0));
        assert!(
            after[3 << 20..12 << 20] == stored[3 << 20..12 << 20] && after[13 << 20..] == stored[13 << 20..]
        );
    }
}

#[test]
fn a_gibibyte_is_copied_in_and_out_in_little_memory() {
    let folder = Folder::new();
    let image = folder.empty("image", 1 << 30);
    let program = env!("CARGO_BIN_EXE_vkit");
    for command in ["read", "write"] {
        // Less address space than the memory that would be too much.
        let line = format!("ulimit -v 131072; exec {program} blk {command} in-process:blk?image={image}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).stderr(std::process::Stdio::piped());
        let same = std::fs::File::open(&image).unwrap();
        shell.stdin(same).stdout(std::fs::File::options().write(true).open("/dev/null").unwrap());
        finish(shell.spawn().unwrap(), LIMIT).ok();
    }
}

#[test]
fn bench_reports_every_number_in_every_mode() {
    let folder = Folder::new();
    let image = folder.empty("image", 64 << 20);
    let daemon = Daemon::of_file(&folder, &image, ",writable=on,num-queues=2");
    let file = format!("in-process:blk?image={}", folder.empty("own", 64 << 20));
    for line in [
        format!("{} --queues 2", daemon.target),
        format!("{} --rw randwrite --poll", daemon.target),
        format!("{file} --rw read --block-size 256K --depth 4"),
        format!("{file}&threads=on&queues=2&layout=packed --queues 2 --rw write --poll-us 50"),
        "in-process:blk?null --poll".into(),
        "in-process:blk?size=1M&in_order=on --depth 1024 --block-size 512".into(),
    ] {
        let report = run(&format!("blk bench {line} --seconds 0.1 --json")).ok().json();
        for key in [
            "iops",
            "bytes_per_second",
            "p50_us",
            "p99_us",
            "p999_us",
            "requests",
            "kicks",
            "cpu_us_per_request",
        ] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{line}: {key} of {report}");
        }
        assert!(report["wakeups"].is_u64() && report["errors"] == 0);
        assert!(
            report["in_flight"].as_u64() > Some(0)
                && report["in_flight"].as_u64() <= report["depth"].as_u64()
        );
        assert!(report["p50_us"].as_f64() <= report["p99_us"].as_f64());
    }
    let text = run("blk bench in-process:blk?null --seconds 0.1").ok().text();
    assert!(text.contains("requests per second") && text.contains("latency p99.9"), "{text}");
    run("blk bench in-process:blk?null --queues 2")
        .failed(1, "vkit: in-process:blk?null: the device has 1 queue, not 2");
}

#[test]
fn info_tells_what_a_device_is() {
    let folder = Folder::new();
    let image = folder.empty("image", 10 << 20);
    let daemon = Daemon::of_file(&folder, &image, ",writable=on,num-queues=4");
    let ours = format!("in-process:blk?image={image}&queues=4&layout=packed");
    for (target, size, packed) in [(&daemon.target, 256, false), (&ours, 256, true)] {
        let info = run(&format!("info {target} --json")).ok().json();
        assert_eq!((&info["device"], &info["device_id"]), (&"block".into(), &2.into()));
        let features = info["features"].as_array().unwrap();
        assert!(features.contains(&"FLUSH".into()) && features.contains(&"VERSION_1".into()));
        assert_eq!(features.contains(&"RING_PACKED".into()), packed);
        let queues = info["queues"].as_array().unwrap();
        assert_eq!(queues.len(), 4);
        assert!(queues.iter().all(|queue| queue["max_size"] == size));
        assert_eq!((&info["config"]["bytes"], &info["config"]["queues"]), (&(10 << 20).into(), &4.into()));
        assert_eq!(info["config"]["read_only"], false);
        let text = run(&format!("info {target}")).ok().text();
        assert!(text.contains("10,485,760 (10 MiB)") && text.contains("INDIRECT_DESC"), "{text}");
    }
}

#[test]
fn devices_of_qemu_are_told_by_their_names_and_its_complaints_are_passed_on() {
    let folder = Folder::new();
    let image = folder.empty("image, with a comma", 10 << 20);
    let blk = format!("qtest:virtio-blk-pci?file={image}&num-queues=3&serial=a");
    let info = finish(vkit(["info", &blk, "--json"]).spawn().unwrap(), LIMIT).ok().json();
    assert_eq!((&info["device"], &info["transport"]), (&"block".into(), &"pci".into()));
    assert_eq!(info["queues"].as_array().unwrap().len(), 3);
    assert_eq!(info["config"]["bytes"], 10 << 20);
    let text = run("info qtest:virtio-rng-device?legacy=on").ok().text();
    assert!(text.contains("entropy") && text.contains("mmio"), "{text}");
    let net = "info qtest:virtio-net-pci?netdev=n&-netdev=user,id=n,restrict=on&packed=on";
    assert!(run(net).ok().text().contains("RING_PACKED"));
    let ran = run("info qtest:virtio-teapot-pci");
    assert_eq!(ran.code(), Some(1));
    let start = "vkit: qtest:virtio-teapot-pci: QEMU ended at once: ";
    assert!(ran.stderr.starts_with(start) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    let nowhere = folder.at("nowhere");
    run(&format!("info qtest:virtio-blk-pci?file={nowhere}"))
        .failed(1, &format!("vkit: {nowhere}: no such file or directory"));
    run("blk flush qtest:virtio-rng-pci")
        .failed(1, "vkit: qtest:virtio-rng-pci: not a block device: it is an entropy device");
    run(&format!("blk bench qtest:virtio-blk-pci?file={}&in_order=on", folder.empty("i", 1 << 20))).failed(
        1,
        &format!(
            "vkit: qtest:virtio-blk-pci?file={}: QEMU loses requests of an in-order queue when several are in \
             flight: use --depth 1",
            folder.at("i")
        ),
    );
}
