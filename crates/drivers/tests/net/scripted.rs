//! A network device that does what its script says, whatever the document says.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses what it needs")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use virtio_kit::clock::Clock;
use virtio_kit::device::{
    Chain, ConfigNotice, Device, DeviceError, Queue, Service, Serving, Submitted, Worker, read_bytes,
};
use virtio_kit::driver::Found;
use virtio_kit::in_process::{DeviceEnd, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::spec::net::{Config, F, Header};
use virtio_kit::{Arena, DeviceId, F as Ring, Features};
use virtio_kit_drivers::net::{self, Net, NetDevice};
use zerocopy::IntoBytes;

/// Longest that anything may take that is expected to happen.
pub const LIMIT: Duration = Duration::from_secs(10);

pub struct StdClock(Instant);

impl StdClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for StdClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How the device answers commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this acknowledgement, and what it was told to answer besides.
    Ack(u8),
    /// By giving the chain back as it was.
    Nothing,
    /// Not at all.
    Never,
}

/// What the device is told to do, and what it saw.
pub struct Script {
    pub features: Features,
    pub config: Config,
    pub pairs: u16,
    /// Bytes for the receive buffers of each pair, one element a buffer.
    pub to_driver: Vec<VecDeque<Vec<u8>>>,
    /// Whether frames that are sent come back, on the same pair.
    pub mirror: bool,
    /// Whether chains of the transmit queues are kept.
    pub keep: bool,
    /// What was sent, headers among it, if `mirror` is off: pair, bytes, descriptors.
    pub sent: Vec<(u16, Vec<u8>, usize)>,
    pub answer: Answer,
    /// How it acknowledges commands that it kept, once it answers.
    pub late: u8,
    /// What follows the acknowledgement.
    pub result: Vec<u8>,
    pub commands: Vec<Vec<u8>>,
    pub notice: Option<Arc<ConfigNotice>>,
}

#[derive(Clone)]
pub struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    /// A device of one pair with these features beside STATUS.
    pub fn new(features: Features) -> Self {
        let config = Config {
            mac: [2, 0, 0, 0, 0, 7],
            status: 1.into(),
            max_virtqueue_pairs: 1.into(),
            mtu: 1500.into(),
            rss_max_key_size: 40,
            rss_max_indirection_table_length: 128.into(),
            supported_hash_types: 0x1ff.into(),
            ..Config::default()
        };
        Self(Arc::new(Mutex::new(Script {
            features: features | F::STATUS,
            config,
            pairs: 1,
            to_driver: vec![VecDeque::new(); 8],
            mirror: false,
            keep: false,
            sent: vec![],
            answer: Answer::Ack(0),
            late: 0,
            result: vec![],
            commands: vec![],
            notice: None,
        })))
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Bytes for the next receive buffers of pair 0.
    pub fn give<B: Into<Vec<u8>>>(&self, buffers: impl IntoIterator<Item = B>) {
        self.script().to_driver[0].extend(buffers.into_iter().map(Into::into));
    }

    /// Makes it known that the configuration has changed.
    pub fn change(&self, config: impl FnOnce(&mut Config)) {
        let mut script = self.script();
        config(&mut script.config);
        let notice = script.notice.clone();
        drop(script);
        notice.unwrap().changed();
    }
}

impl Device for Scripted {
    fn id(&self) -> DeviceId {
        DeviceId::NETWORK
    }
    fn features(&self) -> Features {
        self.script().features
    }
    fn queue_count(&self) -> u16 {
        2 * self.script().pairs + 1
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) {
        read_bytes(self.script().config.as_bytes(), offset, to);
    }
    fn activate(&mut self, _: Features) -> Result<(), DeviceError> {
        Ok(())
    }
    fn start_queue(&mut self, index: u16, queue: Queue) -> Result<Box<dyn Worker>, DeviceError> {
        let (script, pair) = (self.clone(), index / 2);
        Ok(match index {
            _ if index == 2 * self.script().pairs => {
                Box::new(Serving::new(queue, Commands { script, kept: vec![] }))
            }
            _ if index.is_multiple_of(2) => Box::new(Serving::new(queue, Rx { script, pair })),
            _ => Box::new(Serving::new(queue, Tx { script, pair, kept: vec![], bytes: vec![] })),
        })
    }
    fn reset(&mut self) {}
    fn attach(&mut self, notice: Arc<ConfigNotice>) {
        self.script().notice = Some(notice);
    }
}

struct Rx {
    script: Scripted,
    pair: u16,
}

impl Service for Rx {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let bytes = self.script.script().to_driver[usize::from(self.pair)].pop_front().unwrap();
        chain.write(&bytes).unwrap();
        Submitted::Done(chain)
    }
    /// Chains stay in the ring until there is something for them.
    fn capacity(&self) -> usize {
        if self.script.script().to_driver[usize::from(self.pair)].is_empty() { 0 } else { usize::MAX }
    }
}

struct Tx {
    script: Scripted,
    pair: u16,
    kept: Vec<Chain>,
    bytes: Vec<u8>,
}

impl Service for Tx {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let mut script = self.script.script();
        if script.keep {
            drop(script);
            self.kept.push(chain);
            return Submitted::Pending;
        }
        if script.mirror {
            // Without an allocation: the queue has room for what the driver may have in flight.
            self.bytes.resize(chain.readable_len(), 0);
            chain.read(&mut self.bytes).unwrap();
            self.bytes[10..12].copy_from_slice(&[1, 0]);
            let bytes = std::mem::take(&mut self.bytes);
            script.to_driver[usize::from(self.pair)].push_back(bytes);
        } else {
            let mut bytes = vec![0; chain.readable_len()];
            chain.read(&mut bytes).unwrap();
            script.sent.push((self.pair, bytes, chain.readable().len()));
        }
        Submitted::Done(chain)
    }
    fn poll(&mut self) -> Option<Chain> {
        if self.script.script().keep { None } else { self.kept.pop() }
    }
    fn pending(&self) -> usize {
        self.kept.len()
    }
    fn wait(&mut self) -> Result<(), DeviceError> {
        // Called when the queue stops.
        self.script.script().keep = false;
        Ok(())
    }
}

struct Commands {
    script: Scripted,
    kept: Vec<Chain>,
}

impl Service for Commands {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        let mut script = self.script.script();
        let mut bytes = vec![0; chain.readable_len()];
        chain.read(&mut bytes).unwrap();
        script.commands.push(bytes);
        match script.answer {
            Answer::Never => {
                drop(script);
                self.kept.push(chain);
                return Submitted::Pending;
            }
            Answer::Nothing => {}
            Answer::Ack(ack) => {
                chain.write(&[ack]).unwrap();
                let len = script.result.len().min(chain.writable_len() - 1);
                chain.write(&script.result[..len]).unwrap();
            }
        }
        Submitted::Done(chain)
    }
    fn poll(&mut self) -> Option<Chain> {
        let script = self.script.script();
        let (Answer::Ack(_), late) = (script.answer, script.late) else { return None };
        drop(script);
        let mut chain = self.kept.pop()?;
        chain.write(&[late]).unwrap();
        Some(chain)
    }
    fn pending(&self) -> usize {
        self.kept.len()
    }
    /// Called when the queue stops, and by whoever waits for it.
    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// The four layouts, as the ring features that a device offers.
pub fn layouts() -> [Features; 4] {
    let plain = Ring::INDIRECT_DESC | Ring::EVENT_IDX | Ring::RING_RESET;
    [plain, plain | Ring::IN_ORDER, plain | Ring::RING_PACKED, plain | Ring::RING_PACKED | Ring::IN_ORDER]
}

/// What is found of a device, the memory that it shares, and its end.
pub fn found(device: Scripted, ring_features: Features) -> (Found, Arena, DeviceEnd) {
    let arena = Arena::new(HeapMemory::new(16 << 20).unwrap()).unwrap();
    let options = Options { ring_features, ..Options::inline(arena.clone(), StdClock::new()) };
    let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
    (Found::new(Box::new(transport)), arena, end)
}

pub fn options() -> net::Options {
    net::Options { control_limit: LIMIT, ..net::Options::new(StdClock::new()) }
}

/// A device that was opened.
pub struct Opened {
    pub net: Net,
    pub device: NetDevice,
    pub script: Scripted,
    pub end: DeviceEnd,
    pub arena: Arena,
}

pub fn open(script: &Scripted, ring_features: Features, options: &net::Options) -> Opened {
    let (found, arena, end) = found(script.clone(), ring_features);
    let (net, device) = net::open(found, options).unwrap();
    Opened { net, device, script: script.clone(), end, arena }
}

/// A header of 12 bytes.
pub fn header(flags: u8, gso_type: u8, fields: [u16; 5]) -> Vec<u8> {
    let [hdr_len, gso_size, csum_start, csum_offset, num_buffers] = fields.map(Into::into);
    Header { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers }.as_bytes().to_vec()
}

/// A frame of `len` bytes that can be told from others.
pub fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len as u64).map(|i| (i.wrapping_mul(31) ^ number.wrapping_mul(0x9e37)) as u8).collect();
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    if len >= 22 {
        bytes[14..22].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// The bytes of a frame.
pub fn bytes(frame: &net::Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    frame.read(0, &mut bytes).unwrap();
    bytes
}
