//! Our drivers and our PCI transport on QEMU's device models, which nobody here wrote.

#[allow(unreachable_pub, dead_code, reason = "a module of several tests")]
#[path = "qtest/blk.rs"]
mod blk;
#[path = "qtest/net.rs"]
mod net;

use blk::{add_disk, complete, exercise};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use virtio_kit::driver::{Evidence, Found, GetError, VqOptions};
use virtio_kit::ring::driver::Indirect;
use virtio_kit::transport::TransportError;
use virtio_kit::{Chain, DeviceId, DmaBuf, F, Features};
use virtio_kit_drivers::blk::{Error, Options as BlkOptions, RequestError};
use virtio_kit_linux::qtest::{self, Machine, Options};

/// Longest that anything may take that is expected to happen.
const LIMIT: Duration = Duration::from_secs(20);

/// A folder of its own for each test, gone with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // In memory if that can be: files with thousands of holes are slow to remove from a disk.
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.into() } else { std::env::temp_dir() };
        let path = parent.join(format!("virtio-kit-qtest-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a machine. No QEMU is a failure: these tests are worth nothing where they do not run.
fn start(options: &Options) -> Machine {
    match Machine::start(options) {
        Ok(machine) => machine,
        Err(error @ qtest::Error::Missing(_)) => panic!("{error}. Run ./ci.sh, which installs it."),
        Err(error) => panic!("{error}"),
    }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

/// The features that a combination of properties must lead to.
fn expected(packed: bool, in_order: bool, bits: u32) -> Features {
    let pick = |yes, feature| if yes { feature } else { Features::EMPTY };
    F::VERSION_1
        | F::RING_RESET
        | pick(packed, F::RING_PACKED)
        | pick(in_order, F::IN_ORDER)
        | pick(bits & 1 != 0, F::EVENT_IDX)
        | pick(bits & 2 != 0, F::INDIRECT_DESC)
        | pick(bits & 4 != 0, F::ACCESS_PLATFORM)
}

/// All of event index, indirect descriptors and platform access, on one layout: eight disks of one machine.
fn a_layout_with_every_option(packed: bool, in_order: bool) {
    let dir = TempDir::new();
    let (mut options, mut files) = (Options::default(), vec![]);
    for bits in 0..8u32 {
        let properties = format!(
            "packed={},in_order={},event_idx={},indirect_desc={},iommu_platform={},queue_reset=on,num-queues=1",
            on(packed),
            on(in_order),
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0),
        );
        let name = format!("disk{bits}");
        let (more, file) = add_disk(options, &dir, &name, &(bits + 2).to_string(), &properties);
        options = more;
        files.push((name, file));
    }
    let machine = start(&options);
    assert_eq!(machine.functions().count(), 8);
    let free = machine.arena().free_bytes();
    for (bits, (name, file)) in files.iter().enumerate() {
        let (mut blk, device) = blk::open(&machine, bits as u8 + 2, 0, &BlkOptions::default());
        let ring = blk.features & virtio_kit::driver::RING_FEATURES;
        assert_eq!(ring, expected(packed, in_order, bits as u32), "{name}");
        let queue = &mut blk.queues[0];
        exercise(queue, file, name, in_order);
        let stats = queue.stats();
        assert!(stats.notifications <= stats.kicks && stats.notifications > 0, "{stats:?}");
        drop(device);
        assert!(matches!(queue.complete(), Err(Error::Queue(GetError::Stopped))));
    }
    assert_eq!(machine.arena().free_bytes(), free);
}

#[test]
fn blk_split_with_every_option() {
    a_layout_with_every_option(false, false);
}

#[test]
fn blk_split_in_order_with_every_option() {
    a_layout_with_every_option(false, true);
}

#[test]
fn blk_packed_with_every_option() {
    a_layout_with_every_option(true, false);
}

#[test]
fn blk_packed_in_order_with_every_option() {
    a_layout_with_every_option(true, true);
}

#[test]
fn four_queues_take_hundreds_of_requests_at_a_time_from_four_threads() {
    let dir = TempDir::new();
    let (options, split) = add_disk(Options::default(), &dir, "split", "2", "num-queues=4");
    let (options, packed) = add_disk(options, &dir, "packed", "3", "num-queues=4,packed=on");
    let machine = start(&options);
    for (slot, file) in [(2, split), (3, packed)] {
        let wanted = BlkOptions { queues: 4, ..BlkOptions::default() };
        let (blk, _device) = blk::open(&machine, slot, 0, &wanted);
        assert_eq!(blk.queues.len(), 4);
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for (q, mut queue) in (0u64..).zip(blk.queues) {
                let (most, file) = (&most, &file);
                scope.spawn(move || {
                    let sector = |i: u64| (i * 4 + q) * 8;
                    let (mut next, mut left) = (0u64, 1000usize);
                    while left > 0 {
                        while next < 1000 {
                            let data = vec![blk::buffer(&queue, 4096, (next * 4 + q) as u8)];
                            if queue.write(sector(next), data, next).is_err() {
                                break;
                            }
                            next += 1;
                        }
                        queue.kick().unwrap();
                        most.fetch_max(queue.in_flight() as u32, Ordering::Relaxed);
                        let some = queue.in_flight().div_ceil(4);
                        complete(&mut queue, some, |_| {});
                        left -= some;
                    }
                    for i in 0..1000 {
                        let stored = blk::stored(file, sector(i), 4096);
                        assert!(stored.iter().all(|&b| b == (i * 4 + q) as u8), "queue {q}, request {i}");
                    }
                });
            }
        });
        // Three descriptors each, and indirect ones once the ring is too short for three.
        assert!(most.into_inner() * 4 >= 4 * 85);
    }
}

#[test]
fn a_queue_reset_hands_requests_back_and_the_queue_starts_again() {
    let dir = TempDir::new();
    let (mut options, mut files) = (Options::default(), vec![]);
    for (slot, (packed, in_order)) in
        [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
    {
        let properties = format!("packed={},in_order={},num-queues=2", on(packed), on(in_order));
        let name = format!("disk{slot}");
        let (more, file) = add_disk(options, &dir, &name, &(slot + 2).to_string(), &properties);
        options = more;
        files.push((name, file, in_order));
    }
    let machine = start(&options);
    for (slot, (name, file, in_order)) in files.iter().enumerate() {
        let wanted = BlkOptions { queues: 2, ..BlkOptions::default() };
        let (mut blk, mut device) = blk::open(&machine, slot as u8 + 2, 0, &wanted);
        let (first, rest) = blk.queues.split_at_mut(1);
        let (queue, other) = (&mut first[0], &mut rest[0]);
        exercise(queue, file, name, *in_order);
        for round in 0..3 {
            let free = machine.arena().free_bytes();
            for i in 0..20 {
                let data = vec![blk::buffer(queue, 4096, 0xee)];
                queue.write(i * 8, data, i).unwrap();
            }
            device.reset_queue(queue).unwrap();
            let mut tokens = vec![];
            while let Some(done) = queue.complete().ok().flatten() {
                assert_eq!(done.result, Err(RequestError::Removed));
                tokens.push(done.token);
            }
            tokens.sort_unstable();
            assert_eq!(tokens, (0..20).collect::<Vec<_>>(), "{name}, round {round}");
            assert_eq!(machine.arena().free_bytes(), free);
            // The other queue goes on, and this one is stopped until it is started again.
            if round == 0 || !in_order {
                exercise(other, file, name, *in_order);
            }
            assert!(queue.flush(0).is_err());
            device.restart_queue(queue).unwrap();
            exercise(queue, file, name, *in_order);
        }
        assert_eq!(blk::stored(file, 0, 8)[0], 0, "what was never shown was not written");
    }
}

#[test]
fn random_bytes_come_from_an_entropy_device_in_every_layout() {
    let mut options = Options::default();
    for bits in 0..8u8 {
        let properties = format!(
            "virtio-rng-pci,addr={},packed={},in_order={},event_idx={}",
            bits + 2,
            on(bits & 1 != 0),
            on(bits & 2 != 0),
            on(bits & 4 != 0),
        );
        options = options.virtio(&properties);
    }
    let machine = start(&options);
    let mut seen = std::collections::HashSet::new();
    for slot in 2..10 {
        let transport = machine.transport(slot).unwrap();
        let found = Found::new(Box::new(transport));
        assert_eq!(found.identity().device, DeviceId::ENTROPY);
        let mut setup = found.negotiate(Features::EMPTY).unwrap();
        let arena = setup.arena().unwrap().clone();
        let indirect = Some(Indirect { max_parts: 4, direct_up_to: 1, keep_free: 0 });
        let mut vq = setup
            .new_vq::<Chain<(), DmaBuf>, u32>(0, VqOptions { indirect, ..VqOptions::default() })
            .unwrap();
        assert!(setup.new_vq::<Chain<(), DmaBuf>, u32>(1, VqOptions::default()).is_err());
        let mut device = setup.start().unwrap();
        for token in 0..50 {
            vq.add_buf(Chain::writable(arena.alloc_zeroed(32).unwrap()), token).unwrap();
            vq.kick().unwrap();
            let deadline = Instant::now() + LIMIT;
            let used = loop {
                match vq.get_buf().unwrap() {
                    Some(used) => break used,
                    None => assert!(vq.wait(LIMIT).unwrap() || Instant::now() < deadline),
                }
            };
            assert_eq!((used.token, used.written), (token, 32));
            assert!(
                seen.insert(used.chain.writable.read_value::<[u8; 32]>(0).unwrap()),
                "the same bytes again"
            );
        }
        // Without anybody who waits: interrupts are passed on when they are asked for.
        let before = vq.interrupt().interrupts();
        assert!(vq.restart());
        vq.add_buf(Chain::writable(arena.alloc(32).unwrap()), 50).unwrap();
        vq.kick().unwrap();
        let deadline = Instant::now() + LIMIT;
        while vq.interrupt().interrupts() == before {
            machine.poll_interrupts();
            assert!(Instant::now() < deadline, "no interrupt");
        }
        assert_eq!(vq.get_buf().unwrap().map(|used| used.token), Some(50));
        let quiesced = device.reset_vq(&vq).unwrap();
        assert_eq!(quiesced.evidence(), Evidence::QueueReset);
        let again = device.reset().unwrap();
        assert!(again.negotiate(Features::EMPTY).is_ok());
    }
}

#[test]
fn with_few_interrupt_vectors_or_none_every_queue_still_wakes_up() {
    let dir = TempDir::new();
    let (mut options, mut files) = (Options::default(), vec![]);
    for vectors in [0u8, 1, 2, 3, 5] {
        let name = format!("vectors{vectors}");
        let properties = format!("num-queues=4,vectors={vectors}");
        let (more, file) = add_disk(options, &dir, &name, &(vectors + 2).to_string(), &properties);
        options = more;
        files.push((vectors, name, file));
    }
    let machine = start(&options);
    for (vectors, name, file) in &files {
        let wanted = BlkOptions { queues: 4, ..BlkOptions::default() };
        let (blk, _device) = blk::open(&machine, vectors + 2, 0, &wanted);
        std::thread::scope(|scope| {
            for (q, mut queue) in (0u64..).zip(blk.queues) {
                scope.spawn(move || {
                    for i in 0..100 {
                        let data = vec![blk::buffer(&queue, 512, i as u8)];
                        queue.write(q * 8, data, i).unwrap();
                        queue.kick().unwrap();
                        complete(&mut queue, 1, |_| {});
                    }
                    assert_eq!(blk::stored(file, q * 8, 1), [99], "{name}");
                });
            }
        });
    }
}

#[test]
fn a_disk_that_grows_is_announced_and_read_anew() {
    let dir = TempDir::new();
    let (mut options, mut files) = (Options::default(), vec![]);
    for vectors in [0u8, 2] {
        let name = format!("disk{vectors}");
        let properties = format!("vectors={vectors}");
        let (more, file) = add_disk(options, &dir, &name, &(vectors + 2).to_string(), &properties);
        options = more;
        files.push((vectors, name, file));
    }
    let socket = format!("unix:{},server=on,wait=off", dir.join("qmp").display());
    let machine = start(&options.argument("-qmp").argument(socket));
    let mut qmp = Qmp::connect(&dir.join("qmp"));
    for (vectors, name, _file) in &files {
        let transport = machine.transport(vectors + 2).unwrap();
        let watch = transport.config_watch();
        let found = Found::new(Box::new(transport));
        let (blk, mut device) =
            virtio_kit_drivers::blk::open::<blk::Data, u64>(found, &BlkOptions::default()).unwrap();
        assert!(!watch.changed().unwrap());
        let size = 2 * blk::SECTORS * 512;
        qmp.run(&format!(
            r#"{{"execute":"block_resize","arguments":{{"node-name":"{name}","size":{size}}}}}"#
        ));
        let deadline = Instant::now() + LIMIT;
        while !watch.changed().unwrap() {
            assert!(Instant::now() < deadline, "{name}: never announced");
        }
        virtio_kit::bus::Bound::config_changed(&mut device);
        assert_eq!(blk.control.sectors(), 2 * blk::SECTORS);
        assert!(!watch.changed().unwrap());
    }
}

/// The socket by which QEMU itself is told things.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut qmp = Self(BufReader::new(stream));
        let mut greeting = String::new();
        qmp.0.read_line(&mut greeting).unwrap();
        qmp.run(r#"{"execute":"qmp_capabilities"}"#);
        qmp
    }

    fn run(&mut self, command: &str) {
        writeln!(self.0.get_mut(), "{command}").unwrap();
        let mut line = String::new();
        while !line.contains("\"return\"") {
            assert!(!line.contains("\"error\""), "{command}: {line}");
            line.clear();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "QEMU is gone");
        }
    }
}

#[test]
fn what_cannot_be_driven_or_started_is_an_error_that_says_why() {
    let options = Options::default();
    let legacy = options.clone().device("virtio-rng-pci,disable-legacy=off,disable-modern=on,addr=2");
    let machine = start(&legacy);
    assert_eq!((machine.functions().count(), machine.all_functions().count()), (0, 1));
    let error = machine.transport(2).unwrap_err();
    assert!(matches!(error, TransportError::Protocol(why) if why.contains("missing")), "{error}");
    assert_eq!(machine.transport(3).unwrap_err(), TransportError::Disconnected);
    let error = machine.transport(0).unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "the host bridge: {error}");
    let error = Machine::start(&options.clone().virtio("virtio-nonsense-pci")).unwrap_err();
    assert!(matches!(&error, qtest::Error::Ended(said) if said.contains("virtio-nonsense-pci")), "{error}");
    let error = Machine::start(&Options { program: "/nowhere/qemu".into(), ..options }).unwrap_err();
    assert!(error.to_string().contains("./ci.sh"), "{error}");
}

#[test]
fn the_machine_ends_with_its_last_user_and_its_end_is_noticed() {
    let machine = start(&Options::default().virtio("virtio-rng-pci,addr=2"));
    let process = PathBuf::from(format!("/proc/{}", machine.process_id()));
    let mut transport = machine.transport(2).unwrap();
    drop(machine);
    assert!(process.exists());
    assert!(virtio_kit::transport::Transport::status(&mut transport).unwrap().is_empty());
    drop(transport);
    assert!(!process.exists());
    let machine = start(&Options::default().virtio("virtio-rng-pci,addr=2"));
    let mut transport = machine.transport(2).unwrap();
    let pid = rustix::process::Pid::from_raw(machine.process_id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + LIMIT;
    let error = loop {
        match virtio_kit::transport::Transport::status(&mut transport) {
            Ok(_) => assert!(Instant::now() < deadline),
            Err(error) => break error,
        }
    };
    assert_eq!(error, TransportError::Disconnected);
}

#[test]
fn the_machine_does_not_outlive_its_process_even_if_that_is_killed() {
    const MARK: &str = "VIRTIO_KIT_TEST_IS_THE_PROCESS_TO_BE_KILLED";
    const NAME: &str = "the_machine_does_not_outlive_its_process_even_if_that_is_killed";
    if std::env::var_os(MARK).is_some() {
        // By a thread that ends at once: the machine must not end with that.
        let options = Options::default().virtio("virtio-rng-pci,addr=2");
        let machine = std::thread::spawn(move || start(&options)).join().unwrap();
        machine.transport(2).unwrap();
        println!("process={}", machine.process_id());
        // Nobody writes to it: until the end.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(MARK, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let id = lines.find_map(|line| line.unwrap().split_once("process=")?.1.trim().parse::<i32>().ok());
    let id = rustix::process::Pid::from_raw(id.unwrap()).unwrap();
    let qemu = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    let limit = rustix::time::Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut ended = [rustix::event::PollFd::new(&qemu, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut ended, Some(&limit)), Ok(1), "QEMU goes on without its process");
}
