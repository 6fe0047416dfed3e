//! A back-end that echoes, and misbehaves where it is told to: what a chain has for reading is written back.
//!
//! One thread serves the socket and all queues, with the device's side of `virtio-kit-ring`.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use virtio_kit_linux::vhost_user::codec::inflight::{Layout, PackedHeader, SplitHeader, region_offset};
use virtio_kit_linux::vhost_user::codec::*;
use virtio_kit_ring::device::{Config, Position, Queue, RingAddrs, Storage};
use virtio_kit_ring::mem::{Memory, Region, RegionMemory};
use virtio_kit_spec::{F, Features};
use zerocopy::{FromZeros, IntoBytes};

/// What goes wrong, and at which request (counted from 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    Silent(usize),
    Close(usize),
    /// Closes in the middle of a reply.
    CloseInReply(usize),
    Garbage(usize),
    /// Answers this request with an error.
    Nack(RequestCode),
    /// Answers GET_CONFIG with this many bytes more.
    ConfigSize(i32),
    /// Uses this many chains, takes the others, and is gone once it has taken as many as the second number.
    Crash(usize, usize),
}

#[derive(Clone, Debug)]
pub struct Script {
    pub features: u64,
    pub protocol: ProtocolFeatures,
    pub queues: u64,
    pub config: Vec<u8>,
    pub fault: Fault,
    /// Sends a change of the configuration when the device runs, and waits for the answer.
    pub announce: bool,
}

impl Script {
    pub fn new(ring: Features, protocol: ProtocolFeatures) -> Self {
        let features = (F::VERSION_1 | ring).low() | F_PROTOCOL_FEATURES | F_LOG_ALL;
        let config = (0..60).collect();
        Self { features, protocol, queues: 4, config, fault: Fault::None, announce: false }
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Serves one connection on a thread.
    pub fn serve(self, stream: UnixStream) -> Served {
        let log = Log::default();
        let backend = Backend::new(stream, self, log.clone());
        Served { log, thread: Some(std::thread::spawn(move || backend.run())) }
    }
}

type Log = Arc<Mutex<Vec<Request<()>>>>;

/// A back-end that runs until its connection ends.
pub struct Served {
    log: Log,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// The requests so far.
    pub fn log(&self) -> Vec<Request<()>> {
        self.log.lock().unwrap().clone()
    }

    pub fn codes(&self) -> Vec<RequestCode> {
        self.log().iter().filter_map(|request| RequestCode::from_id(request.id())).collect()
    }

    /// Waits for its end, and gives the requests.
    pub fn join(mut self) -> Vec<Request<()>> {
        self.thread.take().unwrap().join().unwrap();
        self.log()
    }
}

/// A front-end's memory, mapped here.
struct Mapping(NonNull<u8>, usize);

// SAFETY: the mapping is this value's; the tests never unmap it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}
// SAFETY: as above, and no reference is made into it.
unsafe impl RegionMemory for Mapping {
    fn base(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        self.1
    }
}

fn map(fd: &OwnedFd, len: u64) -> Mapping {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len as usize, access, MapFlags::SHARED, fd, 0) };
    Mapping(NonNull::new(base.unwrap().cast()).unwrap(), len as usize)
}

#[derive(Default)]
struct Vring {
    size: u16,
    base: u32,
    addrs: RingAddrs,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    enabled: bool,
    queue: Option<Queue>,
}

struct Backend {
    stream: UnixStream,
    script: Script,
    log: Log,
    accepted: u64,
    protocol: ProtocolFeatures,
    memory: Option<(Memory, Memory)>,
    rings: Vec<Vring>,
    channel: Option<UnixStream>,
    record: Option<(Inflight, OwnedFd)>,
    status: u8,
    used: usize,
    taken: usize,
}

impl Backend {
    fn new(stream: UnixStream, script: Script, log: Log) -> Self {
        let rings = (0..script.queues).map(|_| Vring::default()).collect();
        Self {
            stream,
            script,
            log,
            accepted: 0,
            protocol: ProtocolFeatures::empty(),
            memory: None,
            rings,
            channel: None,
            record: None,
            status: 0,
            used: 0,
            taken: 0,
        }
    }

    fn run(mut self) {
        let mut decoder = RequestDecoder::new();
        for number in 0.. {
            let received = loop {
                match decoder.next() {
                    Ok(Some(received)) => break received,
                    Ok(None) => {}
                    Err(error) => panic!("the front-end broke the protocol: {error}"),
                }
                if !self.wait() || !self.receive(&mut decoder) {
                    return;
                }
            };
            let request = received.message.expect("the front-end's request is right");
            self.log.lock().unwrap().push(plain(&request));
            match self.script.fault {
                Fault::Silent(at) if at == number => {
                    // Until the front-end has had enough.
                    let mut rest = [0; 64];
                    while self.stream.read(&mut rest).is_ok_and(|count| count > 0) {}
                    return;
                }
                Fault::Close(at) if at == number => return,
                Fault::CloseInReply(at) if at == number => {
                    let _ = self.stream.write_all(&[1, 0, 0, 0, 5]);
                    return;
                }
                Fault::Garbage(at) if at == number => {
                    let _ = self.stream.write_all(&[0xa5; 40]);
                    let mut rest = [0; 64];
                    while self.stream.read(&mut rest).is_ok_and(|count| count > 0) {}
                    return;
                }
                _ => {}
            }
            let code = RequestCode::from_id(request.id()).unwrap();
            let rules = ReplyRules { features: self.protocol, postcopy: false };
            let kind = request.reply_kind(rules, received.header.need_reply);
            let refused = self.script.fault == Fault::Nack(code);
            let mut reply = if refused { None } else { self.handle(request) };
            if kind == Some(ReplyKind::Ack) {
                reply = Some(Reply::Ack(refused.into()));
            }
            if let Some(reply) = reply {
                self.reply(code, &reply);
            }
            if self.script.announce && code == RequestCode::SetVringEnable {
                self.script.announce = false;
                self.announce();
            }
        }
    }

    /// Until the socket has something; serves queues meanwhile. `false` at the end.
    fn wait(&mut self) -> bool {
        loop {
            let kicks = self.rings.iter().filter_map(|ring| ring.kick.as_ref());
            let mut fds: Vec<_> = kicks.map(|kick| PollFd::new(kick, PollFlags::IN)).collect();
            fds.push(PollFd::new(&self.stream, PollFlags::IN));
            if poll(&mut fds, None).is_err() {
                continue;
            }
            if !fds.last().unwrap().revents().is_empty() {
                return true;
            }
            drop(fds);
            for index in 0..self.rings.len() {
                if !self.work(index) {
                    return false;
                }
            }
        }
    }

    fn receive(&mut self, decoder: &mut RequestDecoder) -> bool {
        let mut buffer = [0; 4096];
        let wanted = decoder.wants().min(buffer.len());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [std::io::IoSliceMut::new(&mut buffer[..wanted])];
        let Ok(got) = rustix::net::recvmsg(&self.stream, into, &mut control, RecvFlags::CMSG_CLOEXEC) else {
            return false;
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        decoder.feed(&buffer[..got.bytes], fds);
        got.bytes > 0
    }

    fn reply(&self, code: RequestCode, reply: &Reply) {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        reply.encode(Channel::Main, code as u32, &mut bytes, &mut fds).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let from = [std::io::IoSlice::new(&bytes)];
        // The front-end may be gone.
        let _ = rustix::net::sendmsg(&self.stream, &from, &mut control, SendFlags::NOSIGNAL);
    }

    fn announce(&mut self) {
        self.script.config.fill(0x77);
        let Some(mut channel) = self.channel.as_ref() else { return };
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        BackendRequest::<OwnedFd>::ConfigChangeMsg.encode(true, &mut bytes, &mut fds).unwrap();
        channel.write_all(&bytes).unwrap();
        let mut answer = [0; 20];
        channel.read_exact(&mut answer).unwrap();
        assert_eq!(answer[12..], [0; 8], "the front-end took the notice");
    }

    fn handle(&mut self, request: Request) -> Option<Reply> {
        match request {
            Request::GetFeatures => return Some(Reply::Value(self.script.features)),
            Request::SetFeatures(features) => {
                assert_eq!(features & !self.script.features, 0, "only what is offered");
                assert_eq!(features & F_PROTOCOL_FEATURES, self.script.features & F_PROTOCOL_FEATURES);
                self.accepted = features;
            }
            Request::GetProtocolFeatures => return Some(Reply::Value(self.script.protocol.bits())),
            Request::SetProtocolFeatures(protocol) => {
                assert!(self.script.protocol.contains(protocol));
                self.protocol = protocol;
            }
            Request::GetQueueNum => return Some(Reply::Value(self.script.queues)),
            Request::GetMaxMemSlots => return Some(Reply::Value(1)),
            Request::SetMemTable(mut table) => self.take_memory(table.pop().unwrap()),
            Request::AddMemReg(region) => {
                assert!(self.memory.is_none(), "the one slot is used once");
                self.take_memory(region);
            }
            Request::GetConfig { offset, size, .. } => return Some(self.config(offset, size)),
            Request::SetConfig(config) => {
                let start = config.offset as usize;
                self.script.config[start..start + config.data.len()].copy_from_slice(&config.data);
            }
            Request::SetBackendReqFd(fd) => self.channel = Some(fd.into()),
            Request::SetVringNum(state) => self.rings[state.index as usize].size = state.num as u16,
            Request::SetVringBase(state) => self.rings[state.index as usize].base = state.num,
            Request::SetVringAddr(addr) => {
                let VringAddr { descriptor: desc, available: driver, used: device, .. } = addr;
                self.rings[addr.index as usize].addrs = RingAddrs { desc, driver, device };
            }
            Request::SetVringCall(call) => self.rings[usize::from(call.index)].call = call.fd,
            Request::SetVringKick(kick) => {
                assert!(self.memory.is_some(), "the memory comes before the kick");
                self.rings[usize::from(kick.index)].kick = kick.fd;
            }
            Request::SetVringEnable { index, enable } => {
                self.rings[index as usize].enabled = enable;
                self.open(index as usize);
            }
            Request::GetVringBase { index } => {
                let ring = std::mem::take(&mut self.rings[index as usize]);
                let num = ring.queue.map_or(0, |mut queue| queue.stop().0.next.into());
                return Some(Reply::VringBase(VringState { index, num }));
            }
            Request::GetInflightFd(wish) => return Some(self.new_record(wish)),
            Request::SetInflightFd(description, fd) => {
                assert!(self.rings.iter().all(|ring| ring.kick.is_none()), "the record comes first");
                self.record = Some((description, fd));
            }
            Request::SetStatus(status) => self.status = status,
            Request::GetStatus => return Some(Reply::Value(self.status.into())),
            _ => {}
        }
        None
    }

    fn config(&self, offset: u32, size: u32) -> Reply {
        let end = (offset + size) as usize;
        if end > self.script.config.len() {
            return Reply::Config(None);
        }
        let mut data = self.script.config[offset as usize..end].to_vec();
        if let Fault::ConfigSize(more) = self.script.fault {
            data.resize((data.len() as i32 + more) as usize, 0);
        }
        Reply::Config(Some(ConfigSpace { offset, flags: 0, data }))
    }

    fn take_memory(&mut self, shared: SharedRegion) {
        let SharedRegion { region, fd } = shared;
        assert_ne!(region.guest_addr, region.user_addr);
        let regions = [region.guest_addr, region.user_addr]
            .map(|start| Memory::new([Region::new(start, map(&fd, region.size)).unwrap()]).unwrap());
        let [guest, user] = regions;
        self.memory = Some((guest, user));
    }

    fn has(&self, feature: Features) -> bool {
        Features::from_low(self.accepted).contains(feature)
    }

    fn open(&mut self, index: usize) {
        let (guest, user) = self.memory.clone().expect("the memory comes before the queues");
        let (packed, in_order) = (self.has(F::RING_PACKED), self.has(F::IN_ORDER));
        let (event_idx, indirect) = (self.has(F::EVENT_IDX), self.has(F::INDIRECT_DESC));
        let ring = &mut self.rings[index];
        if !ring.enabled || ring.queue.is_some() {
            return;
        }
        let position = if packed {
            let base = PackedBase::from_num(ring.base);
            Position {
                next: base.avail,
                next_wrap: base.avail_wrap,
                used: base.used,
                used_wrap: base.used_wrap,
            }
        } else {
            let base = ring.base as u16;
            Position { next: base, used: base, ..Position::fresh(false) }
        };
        let config = Config { in_order, event_idx, indirect, position, ..Config::fresh(packed, ring.size) };
        let storage = Storage::boxed(ring.size, 64);
        ring.queue = Some(Queue::new(config, ring.addrs, guest, Some(user), storage).unwrap());
    }

    /// Echoes what was added. `false` to crash.
    fn work(&mut self, index: usize) -> bool {
        let packed = self.has(F::RING_PACKED);
        let fault = self.script.fault;
        let ring = &mut self.rings[index];
        if let Some(kick) = &ring.kick {
            let _ = rustix::io::read(kick, &mut [0u8; 8]);
        }
        let Some(queue) = &mut ring.queue else { return true };
        loop {
            while let Some(mut chain) = queue.take().expect("the driver keeps the rules") {
                self.taken += 1;
                if let Fault::Crash(used, _) = fault
                    && self.used >= used
                {
                    // Never to be used.
                    let _ = chain;
                    continue;
                }
                self.used += 1;
                let mut data = vec![0; chain.readable_left()];
                chain.read(&mut data).unwrap();
                let room = chain.writable_len();
                data.truncate(room);
                chain.write(&data).unwrap();
                assert!(queue.complete(chain).is_ok());
            }
            if queue.restart() {
                break;
            }
        }
        if queue.publish()
            && let Some(call) = &ring.call
        {
            rustix::io::write(call, &1u64.to_ne_bytes()).unwrap();
        }
        let position = queue.position();
        self.write_record(index as u16, packed, position);
        !matches!(fault, Fault::Crash(_, taken) if self.taken >= taken)
    }

    fn new_record(&mut self, wish: Inflight) -> Reply {
        let layout = if self.has(F::RING_PACKED) { Layout::Packed } else { Layout::Split };
        let size = layout.buffer_size(wish.num_queues, wish.queue_size);
        let fd = rustix::fs::memfd_create(c"inflight", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        Reply::Inflight(Inflight { mmap_size: size, mmap_offset: 0, ..wish }, Some(fd))
    }

    /// What a front-end looks at. This back-end takes chains again from its base, and so needs no entries.
    fn write_record(&self, index: u16, packed: bool, at: Position) {
        let Some((description, fd)) = &self.record else { return };
        let layout = if packed { Layout::Packed } else { Layout::Split };
        let offset = region_offset(description, layout, index).unwrap();
        let (version, desc_num) = (1, description.queue_size);
        if packed {
            let mut header = PackedHeader { version, desc_num, ..PackedHeader::new_zeroed() };
            (header.used_idx, header.old_used_idx) = (at.used, at.used);
            (header.used_wrap_counter, header.old_used_wrap_counter) =
                (at.used_wrap.into(), at.used_wrap.into());
            rustix::io::pwrite(fd, header.as_bytes(), offset).unwrap();
        } else {
            let header = SplitHeader { version, desc_num, used_idx: at.used, ..SplitHeader::new_zeroed() };
            rustix::io::pwrite(fd, header.as_bytes(), offset).unwrap();
        }
    }
}

/// The request without its descriptors, where tests look at it.
fn plain(request: &Request) -> Request<()> {
    let ring = |ring: &VringFd| VringFd { index: ring.index, fd: ring.fd.as_ref().map(|_| ()) };
    match request {
        Request::SetVringNum(state) => Request::SetVringNum(*state),
        Request::SetVringBase(state) => Request::SetVringBase(*state),
        Request::SetVringAddr(addr) => Request::SetVringAddr(*addr),
        Request::SetVringEnable { index, enable } => {
            Request::SetVringEnable { index: *index, enable: *enable }
        }
        Request::GetVringBase { index } => Request::GetVringBase { index: *index },
        Request::SetVringKick(kick) => Request::SetVringKick(ring(kick)),
        Request::SetVringCall(call) => Request::SetVringCall(ring(call)),
        Request::SetVringErr(err) => Request::SetVringErr(ring(err)),
        Request::SetFeatures(features) => Request::SetFeatures(*features),
        Request::SetStatus(status) => Request::SetStatus(*status),
        Request::SetProtocolFeatures(features) => Request::SetProtocolFeatures(*features),
        Request::SetMemTable(table) => {
            Request::SetMemTable(table.iter().map(|s| SharedRegion { region: s.region, fd: () }).collect())
        }
        Request::AddMemReg(s) => Request::AddMemReg(SharedRegion { region: s.region, fd: () }),
        Request::SetInflightFd(inflight, _) => Request::SetInflightFd(*inflight, ()),
        Request::GetInflightFd(inflight) => Request::GetInflightFd(*inflight),
        other => Request::Unknown { id: other.id(), payload: Vec::new() },
    }
}
