//! Our network driver on DPDK's `net_vhost`, which loops back what it is sent.
//!
//! Every frame has a number and a checksum; at most what the receive ring holds is under way, so that nothing may
//! be lost. `VIRTIO_KIT_FRAMES` sets the number of frames of each shape: 625000 make 10 million of them all.

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{LONG, TempDir, until};
use virtio_kit::driver::Found;
use virtio_kit::{F, Features};
use virtio_kit_drivers::net::{self, Frame, Offload, Pair, Received};
use virtio_kit_linux::clock::MonotonicClock;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};
use virtio_kit_spec::DeviceId;
use virtio_kit_spec::net::F as NetF;

/// A running testpmd that sends back what comes.
struct TestPmd {
    child: Child,
    log: PathBuf,
}

impl TestPmd {
    fn start(dir: &TempDir, socket: &Path, queues: u16) -> Self {
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

    fn said(&self) -> String {
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

fn frames_per_shape() -> u64 {
    std::env::var("VIRTIO_KIT_FRAMES").map_or(200_000, |n| n.parse().expect("VIRTIO_KIT_FRAMES is a number"))
}

/// A sum of 64 bits that no swap of bytes leaves the same (FNV-1a).
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

const PAIR: std::ops::Range<usize> = 14..16;
const NUMBER: std::ops::Range<usize> = 16..24;
const SUM: std::ops::Range<usize> = 24..32;

/// Length of a frame: all of the usual ones come up.
fn len_of(number: u64) -> usize {
    60 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % (1514 - 60 + 1)
}

/// Makes frame `number` of a pair.
fn fill(pair: u16, number: u64, bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(SUM.end);
    header.fill(0);
    header[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    header[PAIR].copy_from_slice(&pair.to_le_bytes());
    header[NUMBER].copy_from_slice(&number.to_le_bytes());
    let mut state = number | 1;
    for b in body.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *b = (state >> 56) as u8;
    }
    header[SUM].copy_from_slice(&sum(body).to_le_bytes());
}

/// The number of a frame whose sum is right.
fn number_of(bytes: &[u8]) -> u64 {
    let read = |range: std::ops::Range<usize>| u64::from_le_bytes(bytes[range].try_into().unwrap());
    assert_eq!(read(SUM), sum(&bytes[SUM.end..]), "corrupt");
    read(NUMBER)
}

/// What a loop had to do.
#[derive(Default)]
struct Counts {
    notifications: u64,
    buffers: u64,
}

/// Sends `count` frames around, with at most as many under way as the receive ring surely has buffers for.
fn run(pair: &mut Pair, count: u64) -> Counts {
    let (offload, index) = (Offload::default(), pair.tx.index() / 2);
    let per_frame = (1514 + pair.tx.headroom()).div_ceil(pair.rx.buffer_len());
    let window = (usize::from(pair.rx.size()) / per_frame) as u64;
    let mut idle: Vec<Frame> = Vec::new();
    let mut bytes = [0; 1514];
    let (mut sent, mut got, mut counts) = (0u64, 0u64, Counts::default());
    let mut back: Vec<Received> = Vec::new();
    let mut last = Instant::now();
    while got < count {
        while sent < count && sent - got < window && pair.tx.room() > 0 {
            let len = len_of(sent);
            let mut frame = match idle.pop() {
                Some(frame) => frame,
                None => pair.tx.frame(1514).unwrap(),
            };
            fill(index, sent, &mut bytes[..len]);
            frame.set_len(len).unwrap();
            frame.write(0, &bytes[..len]).unwrap();
            pair.tx.send(frame, &offload).unwrap();
            sent += 1;
        }
        pair.tx.kick().unwrap();
        let came = pair.rx.recv_batch(64, |received| back.push(received.unwrap())).unwrap();
        for Received { frame, offload } in back.drain(..) {
            assert_eq!(offload.segmentation, None);
            let len = frame.copy_to(&mut bytes);
            assert_eq!(frame.len(), len);
            // What goes through one queue keeps its order.
            assert_eq!((&bytes[PAIR], number_of(&bytes[..len])), (&index.to_le_bytes()[..], got));
            assert_eq!(len, len_of(got));
            counts.buffers += frame.buffers() as u64;
            pair.rx.recycle(frame);
            got += 1;
        }
        pair.tx.complete_batch(256, |frame| idle.push(frame)).unwrap();
        if came == 0 {
            assert!(last.elapsed() < LONG, "{got} of {count} came, {sent} were sent");
            // Asleep until the back-end says that there is something.
            pair.rx.wait(Duration::from_millis(100)).unwrap();
        } else {
            // What was received is free again before more is sent.
            pair.rx.refill().unwrap();
            last = Instant::now();
        }
    }
    counts.notifications = pair.tx.stats().notifications;
    assert_eq!(pair.rx.recv().unwrap().map(|_| ()), None);
    counts
}

/// One shape of ring and buffers, in a fresh testpmd.
fn shape(packed: bool, in_order: bool, mergeable: bool, pairs: u16) {
    // Each takes all the cores that it can get.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new();
    let socket = dir.join("s");
    let pmd = TestPmd::start(&dir, &socket, pairs);
    let options = Options { patience: LONG, timeout: LONG, ..Options::new(DeviceId::NETWORK) };
    let front = FrontEnd::connect(&socket, options).unwrap();
    let drop_unless = |wanted, feature| if wanted { Features::EMPTY } else { feature };
    let without = drop_unless(packed, F::RING_PACKED)
        | drop_unless(in_order, F::IN_ORDER)
        | drop_unless(mergeable, NetF::MRG_RXBUF);
    let options = net::Options {
        pairs,
        pairs_without_control: true,
        // Short ones, so that most frames need several.
        buffer_len: if mergeable { 512 } else { 2048 },
        without,
        ..net::Options::new(Arc::new(MonotonicClock))
    };
    let (mut net, device) = net::open(Found::new(Box::new(front)), &options).unwrap();
    for (feature, wanted) in [(F::RING_PACKED, packed), (F::IN_ORDER, in_order), (NetF::MRG_RXBUF, mergeable)]
    {
        assert_eq!(net.features.contains(feature), wanted, "{feature:?} of {:?}", net.features);
    }
    assert_eq!(net.pairs.len(), usize::from(pairs));
    let arena = net.pairs[0].tx.arena().clone();
    let start = Instant::now();
    let count = frames_per_shape() / u64::from(pairs);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            net.pairs.iter_mut().map(|pair| scope.spawn(move || run(pair, count))).collect();
        for thread in threads {
            let counts = match thread.join() {
                Ok(counts) => counts,
                Err(_) => panic!("testpmd said:\n{}", pmd.said()),
            };
            if mergeable {
                assert!(counts.buffers > count * 3 / 2, "{} buffers", counts.buffers);
            } else {
                assert_eq!(counts.buffers, count);
            }
            println!("{} notifications for {count} frames", counts.notifications);
        }
    });
    let (frames, seconds) = (count * u64::from(pairs), start.elapsed().as_secs_f64());
    println!(
        "{frames} frames over {pairs} pairs in {seconds:.1} s, {:?}: none lost or corrupt",
        net.features
    );
    drop(device);
    drop(net);
    assert_eq!(arena.free_bytes(), arena.len());
}

macro_rules! shapes {
    ($($name:ident: $packed:literal, $in_order:literal, $mergeable:literal;)*) => {$(
        #[test]
        fn $name() {
            for pairs in [1, 2] {
                shape($packed, $in_order, $mergeable, pairs);
            }
        }
    )*};
}
shapes! {
    split: false, false, false;
    split_mergeable: false, false, true;
    split_in_order: false, true, false;
    split_in_order_mergeable: false, true, true;
    packed: true, false, false;
    packed_mergeable: true, false, true;
    packed_in_order: true, true, false;
    packed_in_order_mergeable: true, true, true;
}
