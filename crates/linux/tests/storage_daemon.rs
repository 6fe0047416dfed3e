//! The vhost-user front-end against qemu-storage-daemon: negotiation, configuration, raw block requests, a
//! changed size, and a daemon that is killed.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{LONG, TempDir, until};
use virtio_kit::driver::{Found, Setup, Used, Virtqueue, VqOptions};
use virtio_kit::transport::{Transport, TransportError};
use virtio_kit::{Arena, Chain, DmaBuf};
use virtio_kit_linux::vhost_user::codec::ProtocolFeatures as P;
use virtio_kit_linux::vhost_user::front_end::{FrontEnd, Options};
use virtio_kit_ring::driver::{Evidence, Indirect};
use virtio_kit_spec::blk::{self, Config, RequestHeader, RequestType};
use virtio_kit_spec::{DeviceId, F, Features};
use zerocopy::FromZeros;

const SECTORS: u64 = 4096;
const SECTOR: usize = 512;

/// Header and data, data and status.
type Request = Chain<Vec<DmaBuf>, Vec<DmaBuf>>;
type Vq = Virtqueue<Request, u64>;

/// A daemon with one disk, killed with the value.
struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    fn start(queues: u16) -> Self {
        let dir = TempDir::new();
        let file = std::fs::File::create(dir.join("disk")).unwrap();
        file.set_len(SECTORS * SECTOR as u64).unwrap();
        let show = |path: PathBuf| path.to_str().unwrap().to_owned();
        let (disk, socket, qmp) = (show(dir.join("disk")), show(dir.join("s")), show(dir.join("qmp")));
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &format!("driver=file,node-name=d,filename={disk}")])
            .args(["--chardev", &format!("socket,id=q,path={qmp},server=on,wait=off")])
            .args(["--monitor", "chardev=q"])
            .arg("--export")
            .arg(format!(
                "type=vhost-user-blk,id=e,addr.type=unix,addr.path={socket},node-name=d,writable=on,num-queues={queues}"
            ))
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("qemu-storage-daemon does not start ({error}): install the package qemu-utils")
            });
        Self { child, dir }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn connect(&self, features: Features, protocol: P) -> FrontEnd {
        let options = Options {
            arena_len: 4 << 20,
            timeout: LONG,
            patience: LONG,
            features,
            protocol,
            ..Options::new(DeviceId::BLOCK)
        };
        FrontEnd::connect(self.dir.join("s"), options).unwrap_or_else(|error| panic!("{error}"))
    }

    fn disk(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("disk")).unwrap()
    }

    fn command(&self, command: &str) {
        let mut stream = connect_qmp(&self.dir.join("qmp"));
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for line in [r#"{"execute":"qmp_capabilities"}"#, command] {
            writeln!(stream, "{line}").unwrap();
            let answer = lines.by_ref().map(Result::unwrap).find(|line| !line.contains("\"QMP\"")).unwrap();
            assert!(answer.contains("\"return\""), "{answer}");
        }
    }
}

fn connect_qmp(path: &Path) -> UnixStream {
    let mut stream = None;
    until("the monitor", || {
        stream = UnixStream::connect(path).ok();
        stream.is_some()
    });
    stream.unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn negotiate(front: FrontEnd) -> Setup {
    Found::new(Box::new(front)).negotiate(blk::F::MQ | blk::F::FLUSH | blk::F::BLK_SIZE).unwrap()
}

fn everything() -> Features {
    !Features::EMPTY
}

fn request(arena: &Arena, kind: RequestType, sector: u64, data: &[u8]) -> Request {
    let mut header = arena.alloc(RequestHeader::SIZE).unwrap();
    let fields = RequestHeader { kind: kind.0.into(), sector: sector.into(), ..RequestHeader::new_zeroed() };
    header.write_value(0, &fields).unwrap();
    let mut body = arena.alloc(data.len()).unwrap();
    body.write(0, data).unwrap();
    let mut status = arena.alloc(1).unwrap();
    status.fill(0xff);
    match kind {
        RequestType::IN => Chain::new(vec![header], vec![body, status]),
        _ => Chain::new(vec![header, body], vec![status]),
    }
}

/// Takes one answer, whose status must be good; the data and the token.
fn answer(vq: &mut Vq) -> Result<(Vec<u8>, u64), TransportError> {
    let deadline = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < deadline, "no answer");
        if let Some(Used { chain, token, .. }) = vq.get_buf().unwrap() {
            let (mut out, mut back) = chain.into_parts();
            let status = back.pop().unwrap();
            let body = back.pop().or_else(|| out.pop()).unwrap();
            assert_eq!(status.read_value::<u8>(0), Ok(0));
            let mut data = vec![0; body.len()];
            body.read(0, &mut data).unwrap();
            return Ok((data, token));
        }
        vq.wait(LONG)?;
    }
}

fn pattern(sector: u64) -> Vec<u8> {
    (0..SECTOR as u64 * 2).map(|i| (i * 7 + sector * 13 + i / 256) as u8).collect()
}

/// Writes and reads back over every queue, sixteen requests at a time; then looks into the file.
fn write_and_read(queues: u16, features: Features, protocol: P) {
    let daemon = Daemon::start(queues);
    let mut setup = negotiate(daemon.connect(features, protocol));
    assert!(setup.features().contains(features & (F::EVENT_IDX | F::INDIRECT_DESC) | F::VERSION_1));
    assert!(!setup.features().intersects(!features));
    let config: Config = setup.read_config().unwrap();
    assert_eq!((config.capacity.get(), config.blk_size.get()), (SECTORS, 512));
    assert_eq!(config.num_queues.get(), queues);
    let arena = setup.arena().unwrap().clone();
    let mut vqs: Vec<Vq> = (0..queues)
        .map(|index| {
            let indirect = Some(Indirect { max_parts: 3, direct_up_to: 0, keep_free: 0 });
            setup.new_vq(index, VqOptions { indirect, ..VqOptions::default() }).unwrap()
        })
        .collect();
    assert!(setup.max_queue_size(queues).unwrap() == 0);
    let per_queue = 64;
    let device = setup.start().unwrap();
    for (index, vq) in vqs.iter_mut().enumerate() {
        let sectors = || (0..per_queue).map(|i| (index as u64 * per_queue + i) * 2);
        for (kind, round) in [(RequestType::OUT, 0), (RequestType::IN, 1)] {
            for batch in sectors().collect::<Vec<_>>().chunks(16) {
                for &sector in batch {
                    let data = if round == 0 { pattern(sector) } else { vec![0; SECTOR * 2] };
                    vq.add_buf(request(&arena, kind, sector, &data), sector).unwrap();
                }
                vq.kick().unwrap();
                for _ in batch {
                    let (data, sector) = answer(vq).unwrap();
                    assert_eq!(data, pattern(sector));
                }
            }
        }
    }
    device.reset().unwrap();
    for mut vq in vqs {
        let quiesced = vq.quiesced().unwrap();
        assert_eq!(quiesced.evidence(), Evidence::BackendStopped);
        assert_eq!(vq.shutdown(quiesced).count(), 0);
    }
    let disk = daemon.disk();
    let written = usize::from(queues) * per_queue as usize * SECTOR * 2;
    for (sector, bytes) in disk[..written].chunks(SECTOR * 2).enumerate() {
        assert!(bytes == pattern(sector as u64 * 2), "sector {sector} of the file");
    }
    assert!(disk[written..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_one_queue_writes_is_in_the_file_with_every_ring_feature() {
    let all = everything();
    for without in [Features::EMPTY, F::EVENT_IDX, F::INDIRECT_DESC, F::EVENT_IDX | F::INDIRECT_DESC] {
        write_and_read(1, all - without, P::all());
    }
}

#[test]
fn what_four_queues_write_is_in_the_file() {
    write_and_read(4, everything(), P::all());
    write_and_read(4, everything() - F::EVENT_IDX - F::INDIRECT_DESC, P::all());
}

#[test]
fn a_table_of_memory_and_no_acknowledgements_work_as_well() {
    write_and_read(1, everything(), P::CONFIG);
    write_and_read(4, everything(), P::CONFIG | P::MQ);
}

#[test]
fn what_is_agreed_on_is_what_both_have() {
    let daemon = Daemon::start(2);
    let mut front = daemon.connect(everything(), P::all());
    let agreed = P::MQ | P::REPLY_ACK | P::BACKEND_REQ | P::CONFIG | P::CONFIGURE_MEM_SLOTS;
    assert_eq!(front.protocol_features(), agreed);
    assert_eq!(front.queue_count(), 2);
    assert_eq!(front.max_queue_size(1), Ok(256));
    assert_eq!(front.max_queue_size(2), Ok(0));
    let offered = front.device_features().unwrap();
    assert!(offered.contains(F::VERSION_1 | F::EVENT_IDX | F::INDIRECT_DESC | blk::F::MQ));
    assert!(!offered.intersects(F::RING_PACKED | Features::bit(26) | Features::bit(30)));
}

#[test]
fn a_device_that_was_reset_works_again_on_the_same_connection() {
    let daemon = Daemon::start(1);
    let mut found = Found::new(Box::new(daemon.connect(everything(), P::all())));
    for round in 0..3 {
        let mut setup = found.negotiate(blk::F::FLUSH).unwrap();
        let arena = setup.arena().unwrap().clone();
        let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
        // Before DRIVER_OK: the daemon has to look of itself.
        vq.add_buf(request(&arena, RequestType::OUT, round, &pattern(round)), 0).unwrap();
        vq.kick().unwrap();
        let device = setup.start().unwrap();
        answer(&mut vq).unwrap();
        found = device.reset().unwrap();
        let quiesced = vq.quiesced().unwrap();
        assert_eq!(vq.shutdown(quiesced).count(), 0);
        assert_eq!(daemon.disk()[round as usize * SECTOR..][..SECTOR * 2], pattern(round));
    }
}

#[test]
fn a_front_end_that_is_dropped_leaves_the_daemon_to_the_next_even_if_its_queues_live() {
    let daemon = Daemon::start(1);
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut setup = negotiate(daemon.connect(everything(), P::all()));
        let vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
        let device = setup.start().unwrap();
        drop(device);
        kept.push(vq);
    }
}

#[test]
fn a_changed_size_is_announced_and_read() {
    let daemon = Daemon::start(1);
    let front = daemon.connect(everything(), P::all());
    let notice = front.config_notice();
    let mut setup = negotiate(front);
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let arena = setup.arena().unwrap().clone();
    let mut device = setup.start().unwrap();
    let size = 2 * SECTORS * SECTOR as u64;
    daemon.command(&format!(r#"{{"execute":"block_resize","arguments":{{"node-name":"d","size":{size}}}}}"#));
    until("the notice", || notice.generation() > 0);
    assert_eq!(device.read_config::<Config>().unwrap().capacity.get(), 2 * SECTORS);
    // The daemon got its answer and works on.
    vq.add_buf(request(&arena, RequestType::OUT, SECTORS, &pattern(0)), 0).unwrap();
    vq.kick().unwrap();
    answer(&mut vq).unwrap();
}

#[test]
fn a_daemon_that_is_killed_is_noticed_and_every_buffer_comes_back() {
    let mut daemon = Daemon::start(1);
    let mut setup = negotiate(daemon.connect(everything(), P::all()));
    let arena = setup.arena().unwrap().clone();
    let mut vq: Vq = setup.new_vq(0, VqOptions::default()).unwrap();
    let mut device = setup.start().unwrap();
    for sector in 0..8 {
        vq.add_buf(request(&arena, RequestType::OUT, sector, &pattern(sector)), sector).unwrap();
        vq.kick().unwrap();
        answer(&mut vq).unwrap();
    }
    daemon.kill();
    let start = Instant::now();
    for sector in 0..8 {
        vq.add_buf(request(&arena, RequestType::OUT, sector, &pattern(0)), sector).unwrap();
    }
    vq.kick().unwrap();
    assert_eq!(answer(&mut vq), Err(TransportError::Disconnected));
    assert_eq!(device.read_config::<Config>().unwrap_err(), TransportError::Disconnected);
    assert!(device.reset().is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
    let quiesced = vq.quiesced().unwrap();
    assert_eq!(quiesced.evidence(), Evidence::ArenaRetired);
    let mut back: Vec<u64> = vq.shutdown(quiesced).map(|(_, token)| token).collect();
    back.sort();
    assert_eq!(back, Vec::from_iter(0..8));
}
