//! `vkit net ping` and `vkit net bench`: in this process, and over devices that others have made.

mod common;

use common::{Folder, LIMIT, finish, run, vkit};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

const LAYOUTS: [&str; 4] = ["", "&layout=packed", "&in_order=on", "&layout=packed&in_order=on&threads=on"];

#[test]
fn every_wire_is_pinged_in_every_layout() {
    for layout in LAYOUTS {
        for (wire, other) in [("loop", "loop"), ("pair", "station"), ("switch", "station")] {
            let line = format!("net ping in-process:net?{wire}{layout} --count 20 --interval 0 --json");
            let report = run(&line).ok().json();
            let number = |key: &str| report[key].as_f64().unwrap();
            assert_eq!(report["other"], other, "{line}");
            assert_eq!([number("sent"), number("received")], [20.0; 2], "{line}: {report}");
            let times = ["min_us", "median_us", "p99_us", "max_us"].map(number);
            assert!(times[0] > 0.0 && times.is_sorted(), "{line}: {report}");
        }
    }
}

#[test]
fn every_wire_carries_test_frames_of_every_kind_in_every_layout() {
    for layout in LAYOUTS {
        for (wire, options) in [
            ("loop", "--size 60"),
            ("loop&mtu=9000", "--size 9014 --poll"),
            ("loop&pairs=2", "--pairs 2"),
            ("pair", "--depth 1"),
            ("pair", "--offloads --size 30000"),
            ("switch", "--offloads"),
            ("switch", "--size 1000"),
        ] {
            let line = format!("net bench in-process:net?{wire}{layout} --count 1000 {options} --json");
            let report = run(&line).ok().json();
            let number = |key: &str| report[key].as_u64().unwrap();
            assert_eq!([number("sent"), number("received")], [1000; 2], "{line}: {report}");
            assert_eq!([number("lost"), number("corrupt")], [0; 2], "{line}: {report}");
            // One that is cut is many packets.
            assert_eq!(number("packets") > 1000, options.contains("30000"), "{line}: {report}");
        }
        let line = format!("net bench in-process:net?sink{layout} --count 1000 --one-way --json");
        assert_eq!(run(&line).ok().json()["sent"], 1000);
    }
}

#[test]
fn bench_ends_after_its_time_and_prints_for_people() {
    let text = run("net bench in-process:net?loop --seconds 0.2").ok().text();
    let first = "frames of 1,514 bytes there and back, offloads off, 1 x 64 under way, sleeping, 0.2 s\n";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("each with its number and checksum"), "{text}");
    let text = run("net ping in-process:net?pair --interval 0").ok().text();
    assert!(
        text.starts_with("from 10.0.2.15 (02:76:6b:69:74:01) to 10.0.2.2 (02:76:6b:69:74:02) by ICMP, 56")
    );
    assert!(text.contains("5 sent, 5 back, 0 lost, 0 corrupt"), "{text}");
}

#[test]
fn info_shows_network_devices() {
    let line = "info in-process:net?switch&pairs=2&mtu=9000&mac=02:00:00:00:00:07 --json";
    let info = run(line).ok().json();
    assert_eq!((&info["device"], &info["device_id"]), (&"network".into(), &1.into()));
    let config = &info["config"];
    assert_eq!((&config["mac"], &config["mtu"]), (&"02:00:00:00:00:07".into(), &9000.into()));
    assert_eq!((&config["link_up"], &config["queue_pairs"]), (&true.into(), &2.into()));
    let text = run("info in-process:net?sink").ok().text();
    assert!(text.contains("mac                    02:76:6b:69:74:01"), "{text}");
}

#[test]
fn what_the_device_cannot_do_is_said() {
    for (line, expected) in [
        (
            "net ping in-process:net?sink --timeout 0.1",
            "in-process:net?sink: nobody answers for 10.0.2.2: is anything at the other end? Say which address with \
             --to",
        ),
        (
            "net bench in-process:net?sink",
            "in-process:net?sink: nobody answers for 10.0.2.2, so nothing would come back: say which address with \
             --to, or use --one-way",
        ),
        (
            "net bench in-process:net?loop --size 1515",
            "in-process:net?loop: the device takes frames of 1514 bytes at most: use --size, or --offloads",
        ),
        (
            "net bench in-process:net?loop --size 60 --offloads",
            "in-process:net?loop: frames with offloads have 70 bytes at least: use --size 70",
        ),
        (
            "net bench in-process:net?loop --pairs 2",
            "in-process:net?loop: the device has 1 pair of queues, not 2",
        ),
        (
            "net ping in-process:net?loop --size 1473",
            "in-process:net?loop: the device takes no more than 1472 bytes of data",
        ),
        ("net ping in-process:blk?null", "in-process:blk?null: not a network device: it is a block device"),
        ("blk flush in-process:net?loop", "in-process:net?loop: not a block device: it is a network device"),
        (
            "net bench qtest:virtio-net-pci?in_order=on --one-way",
            "qtest:virtio-net-pci: QEMU loses frames of an in-order queue when several are in flight: use --depth 1",
        ),
        (
            "net bench qtest:virtio-net-pci --offloads --one-way",
            "qtest:virtio-net-pci: the device takes no checksums over: leave --offloads out",
        ),
    ] {
        run(line).failed(1, &format!("vkit: {expected}"));
    }
}

#[test]
fn the_station_of_qemus_user_network_answers() {
    for options in ["", "&packed=on", "&mrg_rxbuf=off", "&disable-legacy=on&event_idx=off"] {
        let target = format!("qtest:virtio-net-pci?netdev=n&-netdev=user,id=n{options}");
        let report = run(&format!("net ping {target} --count 10 --interval 0 --json")).ok().json();
        assert_eq!((&report["other"], &report["received"]), (&"station".into(), &10.into()), "{report}");
        assert_eq!(report["to_mac"], "52:55:0a:00:02:02");
    }
    // By legacy PCI and by both versions of MMIO.
    for device in [
        "virtio-net-pci?disable-modern=on&disable-legacy=off&mrg_rxbuf=off",
        "virtio-net-device?",
        "virtio-net-device?legacy=on",
        "virtio-net-device?legacy=on&mrg_rxbuf=off",
    ] {
        let target = format!("qtest:{device}&netdev=n&-netdev=user,id=n");
        let report = run(&format!("net ping {target} --count 10 --interval 0 --json")).ok().json();
        assert_eq!((&report["other"], &report["received"]), (&"station".into(), &10.into()), "{report}");
    }
    // It answers to nobody else.
    run("net ping qtest:virtio-net-pci?netdev=n&-netdev=user,id=n --to 10.9.9.9").failed(
        1,
        "vkit: qtest:virtio-net-pci: nobody answers for 10.9.9.9: is anything at the other end? Say which address \
         with --to",
    );
}

/// The other end of QEMU's wire, which is a datagram socket: `change` says what becomes of each frame on its way back.
struct Mirror {
    socket: UnixDatagram,
    thread: Option<JoinHandle<()>>,
    netdev: String,
}

impl Mirror {
    fn new(folder: &Folder, change: impl Fn(u64, &mut [u8]) -> bool + Send + 'static) -> Self {
        let (here, there) = (folder.at("here"), folder.at("there"));
        let socket = UnixDatagram::bind(&here).unwrap();
        let answering = socket.try_clone().unwrap();
        let netdev = format!(
            "-netdev=dgram,id=n,local.type=unix,local.path={there},remote.type=unix,remote.path={here}"
        );
        let thread = std::thread::spawn(move || {
            let (mut number, mut frame) = (0, vec![0; 70_000]);
            while let Ok(len @ 1..) = answering.recv(&mut frame) {
                if change(number, &mut frame[..len]) {
                    let _ = answering.send_to(&frame[..len], &there);
                }
                number += 1;
            }
        });
        Self { socket, thread: Some(thread), netdev }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn frames_go_through_qemu_and_back() {
    for options in ["", "&packed=on", "&mrg_rxbuf=off", "&in_order=on", "&packed=on&in_order=on"] {
        let folder = Folder::new();
        let mirror = Mirror::new(&folder, |_, _| true);
        let target = format!("qtest:virtio-net-pci?netdev=n&{}{options}", mirror.netdev);
        // QEMU forgets what is in flight in order. Otherwise no more than the socket holds: QEMU 10.0.2 that has to wait
        // for it may not look at a packed ring any more.
        let depth = if options.contains("in_order") { 1 } else { 8 };
        let report = run(&format!("net bench {target} --count 2000 --depth {depth} --json")).ok().json();
        assert_eq!([&report["sent"], &report["received"]], [&2000; 2], "{report}");
        let report = run(&format!("net ping {target} --count 5 --interval 0 --json")).ok().json();
        assert_eq!((&report["other"], &report["received"]), (&"loop".into(), &5.into()), "{report}");
    }
}

#[test]
fn frames_that_are_lost_or_damaged_are_counted_and_fail() {
    let folder = Folder::new();
    let mirror = Mirror::new(&folder, |number, _| number % 100 != 50);
    let target = format!("qtest:virtio-net-pci?netdev=n&{}", mirror.netdev);
    run(&format!("net bench {target} --count 1000 --json"))
        .lost("vkit: qtest:virtio-net-pci: 10 of 1,000 packets were lost\n");
    drop(mirror);
    let folder = Folder::new();
    let mirror = Mirror::new(&folder, |number, frame| {
        // Beyond all headers, which have sums of their own.
        if number % 100 == 50 {
            frame[100] ^= 1;
        }
        true
    });
    let target = format!("qtest:virtio-net-pci?netdev=n&{}", mirror.netdev);
    run(&format!("net bench {target} --count 1000 --json"))
        .lost("vkit: qtest:virtio-net-pci: 10 frames came corrupt\n");
}

impl common::Ran {
    /// Must have failed with this line, after a report.
    #[track_caller]
    fn lost(self, line: &str) {
        assert_eq!((self.code(), self.stderr.as_str()), (Some(1), line), "{}", self.text());
        assert_eq!(self.json()["sent"], 1000);
    }
}

/// DPDK's testpmd as a vhost-user back-end that sends back what comes.
struct TestPmd(Child);

impl TestPmd {
    fn start(folder: &Folder, socket: &str) -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dpdk");
        assert!(top.join("ready").exists(), "DPDK is not there. Run ci/install-dpdk.sh.");
        let root = top.join("root/usr");
        let libs = root.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
        let log = std::fs::File::create(folder.at("log")).unwrap();
        let cores = std::thread::available_parallelism().unwrap().get() - 1;
        let child = Command::new(root.join("bin/dpdk-testpmd"))
            .env("LD_LIBRARY_PATH", format!("{0}:{0}/dpdk/pmds-23.0", libs.display()))
            .env("RUNTIME_DIRECTORY", folder.path())
            .args(["--lcores", &format!("0@(0-{cores}),1@(0-{cores})")])
            .args(["--no-pci", "--no-huge", "--no-shconf", "--no-telemetry"])
            .args(["-m", "256", "--file-prefix", &format!("vkit-{}", std::process::id())])
            .args(["-d", "librte_mempool_ring.so.23", "-d", "librte_bus_vdev.so.23"])
            .args(["-d", "librte_net_vhost.so.23", "--vdev", &format!("net_vhost0,iface={socket}")])
            .args(["--", "--total-num-mbufs=8192", "--nb-cores=1", "--forward-mode=io"])
            .args(["--disable-link-check", "--no-flush-rx"])
            // It ends when its input does.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut this = Self(child.unwrap());
        let deadline = std::time::Instant::now() + LIMIT;
        while !Path::new(socket).exists() {
            let ended = this.0.try_wait().unwrap();
            assert!(ended.is_none() && std::time::Instant::now() < deadline, "{ended:?}");
            std::thread::yield_now();
        }
        this
    }
}

impl Drop for TestPmd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn dpdk_over_vhost_user_sends_back_what_comes() {
    let folder = Folder::new();
    let socket = folder.at("pmd.sock");
    let _pmd = TestPmd::start(&folder, &socket);
    let limit = Duration::from_secs(120);
    let go = |line: String| finish(vkit(line.split(' ')).spawn().unwrap(), limit).ok().json();
    assert_eq!(go(format!("info vhost-user:{socket} --json"))["device"], "network");
    let report = go(format!("net ping vhost-user:{socket} --count 20 --interval 0 --json"));
    assert_eq!((&report["other"], &report["received"]), (&"loop".into(), &20.into()), "{report}");
    let report = go(format!("net bench vhost-user:{socket} --count 20000 --json"));
    assert_eq!([&report["sent"], &report["received"]], [&20_000; 2], "{report}");
}
