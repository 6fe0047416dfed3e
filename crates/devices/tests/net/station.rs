//! A driver by hand, in the same thread as its device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::device::{ConfigNotice, Device};
use virtio_kit::driver::{self, Found, Virtqueue, VqOptions};
use virtio_kit::in_process::{DeviceEnd, Event, InProcess, Options};
use virtio_kit::ring::mem::HeapMemory;
use virtio_kit::spec::net::{Ack, Config, ControlHeader, F as N, HeaderHash, header_size, queue};
use virtio_kit::{Arena, Chain, DmaBuf, F, Features};
use zerocopy::{FromZeros, IntoBytes};

/// A clock that stands still until it is set.
#[derive(Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// A clock by which every wait ends soon.
struct FastClock(AtomicU64);

impl Clock for FastClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Every layout with every choice of event index and indirect descriptors.
pub(crate) fn layouts() -> impl Iterator<Item = Features> {
    (0..16u32).map(|bits| {
        let pick = |bit, feature| if bits & bit != 0 { feature } else { Features::EMPTY };
        F::RING_RESET
            | pick(1, F::RING_PACKED)
            | pick(2, F::IN_ORDER)
            | pick(4, F::EVENT_IDX)
            | pick(8, F::INDIRECT_DESC)
    })
}

/// The layout for a test to which layouts do not matter.
pub(crate) const ANY: Features = F::RING_RESET.union(F::INDIRECT_DESC).union(F::EVENT_IDX);

pub(crate) type Tx = Virtqueue<Chain<Vec<DmaBuf>>, ()>;
pub(crate) type Rx = Virtqueue<Chain<(), Vec<DmaBuf>>, ()>;
type Control = Virtqueue<Chain<DmaBuf, DmaBuf>, ()>;

/// What the driver wants.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) ring: Features,
    /// Features that it takes if they are offered.
    pub(crate) features: Features,
    /// Pairs that it makes queues for.
    pub(crate) pairs: u16,
    /// How many receive buffers each queue gets, of which lengths one after the other.
    pub(crate) buffers: usize,
    pub(crate) lengths: Vec<usize>,
}

impl Wish {
    pub(crate) fn new(features: Features) -> Self {
        Self { ring: ANY, features, pairs: 1, buffers: 32, lengths: vec![2048] }
    }

    pub(crate) fn buffers(self, buffers: usize, lengths: &[usize]) -> Self {
        Self { buffers, lengths: lengths.into(), ..self }
    }
}

/// A packet as the driver received it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) header: HeaderHash,
    pub(crate) bytes: Vec<u8>,
    /// Length written to each of its buffers.
    pub(crate) written: Vec<usize>,
}

pub(crate) struct Station {
    pub(crate) rx: Vec<Rx>,
    pub(crate) tx: Vec<Tx>,
    pub(crate) control: Option<Control>,
    pub(crate) arena: Arena,
    pub(crate) header: usize,
    pub(crate) notice: Arc<ConfigNotice>,
    pub(crate) device: driver::Device,
    pub(crate) end: DeviceEnd,
    wish: Wish,
    next_length: usize,
}

/// Memory for what a driver wants to receive, and something to send.
fn arena(wish: &Wish) -> Arena {
    let longest = wish.lengths.iter().max().unwrap().next_multiple_of(4096);
    let len = usize::from(wish.pairs) * wish.buffers * longest + (1 << 20);
    Arena::new(HeapMemory::new(len).unwrap()).unwrap()
}

impl Station {
    pub(crate) fn new(device: impl Device + 'static, wish: Wish) -> Self {
        let options = Options::inline(arena(&wish), Arc::new(FastClock(AtomicU64::new(0))));
        Self::joined(device, wish, options)
    }

    /// With a device that somebody else runs.
    pub(crate) fn apart(
        device: impl Device + 'static,
        wish: Wish,
        clock: Arc<dyn Clock>,
        event: Box<dyn Fn() -> Arc<dyn Event> + Send>,
    ) -> Self {
        let options = Options { inline: false, event, ..Options::inline(arena(&wish), clock) };
        Self::joined(device, wish, options)
    }

    fn joined(device: impl Device + 'static, wish: Wish, options: Options) -> Self {
        let arena = options.arena.clone();
        let options = Options { ring_features: wish.ring, ..options };
        let (transport, end) = InProcess::new(Box::new(device), options).unwrap();
        let notice = transport.config_notice();
        let mut setup = Found::new(Box::new(transport)).negotiate(wish.features).unwrap();
        let features = setup.features();
        let config: Config = setup.read_config().unwrap();
        let all = config.max_virtqueue_pairs.get();
        let make = |index: u32, setup: &mut driver::Setup| setup.new_vq(index as u16, VqOptions::default());
        let rx = (0..wish.pairs).map(|pair| make(queue::rx(pair), &mut setup).unwrap()).collect();
        let tx = (0..wish.pairs)
            .map(|pair| setup.new_vq(queue::tx(pair) as u16, VqOptions::default()).unwrap())
            .collect();
        let control = features
            .contains(N::CTRL_VQ)
            .then(|| setup.new_vq(queue::control(features, all) as u16, VqOptions::default()).unwrap());
        let device = setup.start().unwrap();
        let header = header_size(features);
        let mut station = Self { rx, tx, control, arena, header, notice, device, end, wish, next_length: 0 };
        (0..station.rx.len()).for_each(|pair| station.fill(pair));
        station
    }

    /// Puts receive buffers into a queue until it has as many as it should.
    pub(crate) fn fill(&mut self, pair: usize) {
        while usize::from(self.rx[pair].in_flight()) < self.wish.buffers {
            let len = self.wish.lengths[self.next_length % self.wish.lengths.len()];
            self.next_length += 1;
            let mut buffer = self.arena.alloc(len).unwrap();
            // What is left unwritten shows.
            buffer.fill(0xa5);
            self.rx[pair].add_buf(Chain::writable(vec![buffer]), ()).unwrap();
        }
        self.rx[pair].kick().unwrap();
    }

    /// Sends bytes as they are, cut at the given places, and waits for nothing.
    pub(crate) fn send_raw(&mut self, pair: usize, bytes: &[u8], cuts: &[usize]) {
        let mut parts = vec![];
        let mut at = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            if end > at {
                let mut buffer = self.arena.alloc(end - at).unwrap();
                buffer.write(0, &bytes[at..end]).unwrap();
                parts.push(buffer);
                at = end;
            }
        }
        self.tx[pair].add_buf(Chain::readable(parts), ()).unwrap();
        self.tx[pair].kick().unwrap();
        while let Some(used) = self.tx[pair].get_buf().unwrap() {
            assert_eq!(used.written, 0, "a frame that was sent has nothing written to it");
        }
    }

    /// Sends a frame with a header.
    pub(crate) fn send_with(&mut self, pair: usize, header: &HeaderHash, frame: &[u8]) {
        let mut bytes = header.as_bytes()[..self.header].to_vec();
        bytes.extend(frame);
        self.send_raw(pair, &bytes, &[self.header]);
        assert_eq!(self.tx[pair].in_flight(), 0, "the frame's chain came back");
    }

    /// Sends a frame with which nothing is left to do.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with(0, &HeaderHash::new_zeroed(), frame);
    }

    /// What queue `pair` received; its buffers are replaced.
    pub(crate) fn receive_on(&mut self, pair: usize) -> Vec<Packet> {
        let mut packets = vec![];
        loop {
            while let Some(packet) = self.take_packet(pair) {
                packets.push(packet);
            }
            self.fill(pair);
            if !self.rx[pair].has_used() {
                return packets;
            }
        }
    }

    fn take_packet(&mut self, pair: usize) -> Option<Packet> {
        let (bytes, first) = self.take_buffer(pair)?;
        assert!(first >= self.header, "the first buffer holds the header");
        let mut header = HeaderHash::new_zeroed();
        header.as_mut_bytes()[..self.header].copy_from_slice(&bytes[..self.header]);
        let mut packet = Packet { header, bytes: bytes[self.header..].to_vec(), written: vec![first] };
        for _ in 1..header.base.num_buffers.get() {
            let (more, written) = self.take_buffer(pair).expect("as many buffers as the header says");
            packet.bytes.extend(more);
            packet.written.push(written);
        }
        Some(packet)
    }

    fn take_buffer(&mut self, pair: usize) -> Option<(Vec<u8>, usize)> {
        let used = self.rx[pair].get_buf().unwrap()?;
        let written = used.written as usize;
        let mut bytes = vec![];
        for buffer in &used.chain.writable {
            let mut part = vec![0; buffer.len()];
            buffer.read(0, &mut part).unwrap();
            bytes.extend(part);
        }
        bytes.truncate(written);
        Some((bytes, written))
    }

    /// What the first queue received.
    pub(crate) fn receive(&mut self) -> Vec<Packet> {
        self.receive_on(0)
    }

    /// The frames that the first queue received.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        self.receive().into_iter().map(|packet| packet.bytes).collect()
    }

    /// Gives a command, and says how it ended.
    pub(crate) fn command(&mut self, class: u8, command: u8, data: &[u8]) -> Ack {
        self.give_command(class, command, data);
        self.answer().expect("the command is done")
    }

    /// The same of a device that somebody else runs.
    pub(crate) fn command_and_wait(&mut self, class: u8, command: u8, data: &[u8], limit: Duration) -> Ack {
        self.give_command(class, command, data);
        loop {
            if let Some(ack) = self.answer() {
                return ack;
            }
            self.control.as_mut().unwrap().wait(limit).unwrap();
        }
    }

    fn give_command(&mut self, class: u8, command: u8, data: &[u8]) {
        let header = ControlHeader { class, command };
        let mut readable = self.arena.alloc(2 + data.len()).unwrap();
        readable.write(0, header.as_bytes()).unwrap();
        readable.write(2, data).unwrap();
        let mut writable = self.arena.alloc(1).unwrap();
        writable.fill(0xa5);
        let control = self.control.as_mut().unwrap();
        control.add_buf(Chain::new(readable, writable), ()).unwrap();
        control.kick().unwrap();
    }

    fn answer(&mut self) -> Option<Ack> {
        let used = self.control.as_mut().unwrap().get_buf().unwrap()?;
        assert_eq!(used.written, 1);
        Some(Ack(used.chain.writable.read_value(0).unwrap()))
    }

    /// Sends a frame with which nothing is left to do, and does not wait until it is sent.
    pub(crate) fn send_soon(&mut self, frame: &[u8]) {
        let bytes = [&HeaderHash::default().as_bytes()[..self.header], frame].concat();
        while self.tx[0].room() == 0 {
            self.tx[0].wait(Duration::from_secs(1)).unwrap();
            while self.tx[0].get_buf().unwrap().is_some() {}
        }
        self.send_raw(0, &bytes, &[]);
    }

    pub(crate) fn config(&mut self) -> Config {
        self.device.read_config().unwrap()
    }
}
