//! One back-end: what was agreed with it, and the messages that go to it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use virtio_kit::device::ConfigNotice;
use virtio_kit_ring::mem::DmaMemory;
use virtio_kit_spec::Status;

use super::channel::Channel;
use super::error::{ConnectError, Failed, Failure};
use super::inflight::Record;
use super::options::{MAX_QUEUES, Options};
use super::rings::Ring;
use super::shared::Link;
use super::socket::{Outgoing, Socket, open};
use crate::shared_memory::MemfdMemory;
use crate::vhost_user::codec::{
    F_PROTOCOL_FEATURES, MemoryRegion, ProtocolFeatures, Reply, ReplyRules, Request, SharedRegion,
};

/// The arena's memory as the back-end is told of it.
pub(super) struct Region {
    pub(super) fd: OwnedFd,
    pub(super) guest_addr: u64,
    pub(super) user_addr: u64,
    pub(super) size: u64,
}

impl Region {
    pub(super) fn of(memory: &MemfdMemory) -> Result<Self, Errno> {
        let fd = rustix::io::fcntl_dupfd_cloexec(memory, 0)?;
        let (guest_addr, user_addr) = (memory.device_base(), memory.user_addr());
        Ok(Self { fd, guest_addr, user_addr, size: memory.len() as u64 })
    }
}

/// Whether there is somebody to talk to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Up,
    /// The back-end hung up.
    Gone,
    /// The back-end did not answer or broke the protocol, or did not come back: never again.
    Ruined,
}

pub(super) struct Session {
    pub(super) options: Options,
    pub(super) path: Option<PathBuf>,
    pub(super) region: Region,
    pub(super) notice: Arc<ConfigNotice>,
    pub(super) socket: Socket,
    pub(super) line: Line,
    pub(super) generation: u64,
    channel: Option<Channel>,

    /// Feature bits as the back-end offers them.
    pub(super) offered: u64,
    pub(super) protocol: ProtocolFeatures,
    pub(super) queue_count: u16,
    /// The back-end has the memory, in slots, on this connection.
    pub(super) has_memory_slot: bool,

    /// Feature bits as accepted, once the back-end has been told.
    pub(super) accepted: Option<u64>,
    pub(super) status: Status,
    pub(super) rings: Vec<Option<Ring>>,
    pub(super) record: Option<Record>,
    /// Bytes of configuration space that are known to exist, if asking for more was once refused.
    pub(super) config_len: Option<u32>,
}

impl Session {
    /// Takes a connected socket, and agrees on protocol features.
    pub(super) fn new(
        stream: UnixStream,
        path: Option<&Path>,
        options: Options,
        memory: &MemfdMemory,
    ) -> Result<Self, ConnectError> {
        let named = path.unwrap_or(Path::new("the socket"));
        let region = Region::of(memory).map_err(|error| ConnectError::os(named, error))?;
        let mut socket = Socket::new(stream, options.timeout);
        socket.set_deadline(Some(Instant::now() + options.timeout));
        let mut session = Self {
            options,
            path: path.map(Path::to_owned),
            region,
            notice: Arc::default(),
            socket,
            line: Line::Up,
            generation: 0,
            channel: None,
            offered: 0,
            protocol: ProtocolFeatures::empty(),
            queue_count: 0,
            has_memory_slot: false,
            accepted: None,
            status: Status::RESET,
            rings: Vec::new(),
            record: None,
            config_len: None,
        };
        session.introduce(None).map_err(|failed| ConnectError::failed(named, failed))?;
        session.socket.set_deadline(None);
        session.rings.resize_with(session.queue_count.into(), || None);
        Ok(session)
    }

    /// The first messages on a connection, in the order of QEMU's. `again` is what was agreed on before, which
    /// a back-end that was started anew must offer too.
    pub(super) fn introduce(&mut self, again: Option<(u64, ProtocolFeatures)>) -> Result<(), Failed> {
        self.protocol = ProtocolFeatures::empty();
        self.has_memory_slot = false;
        self.channel = None;
        let offered = self.number(Request::GetFeatures)?;
        let extensible = offered & F_PROTOCOL_FEATURES != 0;
        if let Some((accepted, _)) = again
            && accepted & !offered != 0
        {
            return Err(unusable("GET_FEATURES", "the new back-end lacks features that are in use"));
        }
        self.offered = offered;
        if extensible {
            let offered = ProtocolFeatures::from_bits_retain(self.number(Request::GetProtocolFeatures)?);
            let wanted = again.map_or(offered & self.options.wanted(), |(_, protocol)| protocol);
            if !offered.contains(wanted) {
                return Err(unusable(
                    "GET_PROTOCOL_FEATURES",
                    "the new back-end lacks protocol features that are in use",
                ));
            }
            self.exchange(Request::SetProtocolFeatures(wanted), false)?;
            self.protocol = wanted;
        }
        self.queue_count = if self.has(ProtocolFeatures::MQ) {
            let count = self.number(Request::GetQueueNum)?.min(MAX_QUEUES.into());
            count as u16
        } else {
            self.options.queues
        };
        if self.queue_count == 0 || usize::from(self.queue_count) < self.rings.len() {
            return Err(unusable("GET_QUEUE_NUM", "the back-end has too few queues"));
        }
        if self.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) && self.number(Request::GetMaxMemSlots)? == 0 {
            return Err(unusable("GET_MAX_MEM_SLOTS", "the back-end has no memory slots"));
        }
        if self.has(ProtocolFeatures::BACKEND_REQ) {
            let opened = Channel::open(self.notice.clone(), self.protocol, self.options.timeout);
            let (channel, theirs) = opened.map_err(|error| {
                let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0));
                Failed { during: "SET_BACKEND_REQ_FD", why: Failure::Os(errno) }
            })?;
            self.channel = Some(channel);
            self.set(Request::SetBackendReqFd(theirs.as_fd()))?;
        }
        self.set(Request::SetOwner)
    }

    pub(super) fn has(&self, features: ProtocolFeatures) -> bool {
        self.protocol.contains(features)
    }

    /// Bit 30 is agreed on: rings begin disabled.
    pub(super) fn is_extensible(&self) -> bool {
        self.offered & F_PROTOCOL_FEATURES != 0
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The back-end has gone, and might come back.
    pub(super) fn is_gone(&self) -> bool {
        self.line == Line::Gone
    }

    pub(super) fn link(&self) -> Link {
        Link {
            stream: self.socket.stream().clone(),
            generation: self.generation,
            lines: self.rings.iter().flatten().map(|ring| ring.lines.clone()).collect(),
        }
    }

    /// Sends a request and waits for its reply, if it has one.
    pub(super) fn exchange(&mut self, request: Outgoing<'_>, ack: bool) -> Result<Option<Reply>, Failed> {
        if self.line != Line::Up {
            return Err(Failed { during: "a request", why: Failure::Closed });
        }
        exchange(&mut self.socket, &mut self.line, self.protocol, &request, ack)
    }

    /// Asks for a number.
    pub(super) fn number(&mut self, request: Outgoing<'_>) -> Result<u64, Failed> {
        match self.exchange(request, false)? {
            Some(Reply::Value(value)) => Ok(value),
            _ => Ok(0),
        }
    }

    /// Sends a request that has an acknowledgement if the back-end gives any.
    pub(super) fn set(&mut self, request: Outgoing<'_>) -> Result<(), Failed> {
        self.exchange(request, true).map(|_| ())
    }

    /// Tells the back-end of the memory: all of it anew, or its one slot once on a connection.
    pub(super) fn send_memory(&mut self) -> Result<(), Failed> {
        let Region { fd, guest_addr, user_addr, size } = &self.region;
        let (guest_addr, user_addr, size) = (*guest_addr, *user_addr, *size);
        let region = MemoryRegion { guest_addr, size, user_addr, mmap_offset: 0, xen: None };
        let shared = SharedRegion { region, fd: fd.as_fd() };
        if !self.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            let request = Request::SetMemTable(vec![shared]);
            return exchange(&mut self.socket, &mut self.line, self.protocol, &request, true).map(|_| ());
        }
        if !self.has_memory_slot {
            let request = Request::AddMemReg(shared);
            exchange(&mut self.socket, &mut self.line, self.protocol, &request, true)?;
            self.has_memory_slot = true;
        }
        Ok(())
    }

    /// Makes sure that everything sent was looked at: without acknowledgements by a question.
    pub(super) fn settle(&mut self) -> Result<(), Failed> {
        if self.has(ProtocolFeatures::REPLY_ACK) {
            return Ok(());
        }
        self.number(Request::GetFeatures).map(|_| ())
    }

    /// Ends the connection for good.
    pub(super) fn hang_up(&mut self) {
        self.line = Line::Ruined;
        self.socket.close();
        self.channel = None;
    }

    /// Another connection to the same path.
    pub(super) fn reopen(&mut self, deadline: Instant) -> Result<(), Failed> {
        let os = |error| Failed { during: "connect", why: Failure::Os(error) };
        let path = self.path.as_deref().ok_or(os(Errno::NOENT))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = open(path, left, left.min(self.options.timeout)).map_err(os)?;
        self.socket = Socket::new(stream, self.options.timeout);
        self.socket.set_deadline(Some(deadline));
        self.line = Line::Up;
        Ok(())
    }
}

/// Apart from the session, so that the request may borrow from it.
pub(super) fn exchange(
    socket: &mut Socket,
    line: &mut Line,
    features: ProtocolFeatures,
    request: &Outgoing<'_>,
    ack: bool,
) -> Result<Option<Reply>, Failed> {
    let need_reply = ack && features.contains(ProtocolFeatures::REPLY_ACK);
    match socket.exchange(request, ReplyRules { features, postcopy: false }, need_reply) {
        Ok(Some(Reply::Ack(error))) if error != 0 => {
            let during = crate::vhost_user::codec::RequestCode::from_id(request.id());
            Err(Failed { during: during.map_or("a request", |code| code.name()), why: Failure::Nack })
        }
        Ok(reply) => Ok(reply),
        Err(failed) => {
            if failed.why.is_final() {
                *line = if matches!(failed.why, Failure::Closed) { Line::Gone } else { Line::Ruined };
                socket.close();
            }
            Err(failed)
        }
    }
}

pub(super) fn unusable(during: &'static str, what: &'static str) -> Failed {
    Failed { during, why: Failure::Unusable(what) }
}
