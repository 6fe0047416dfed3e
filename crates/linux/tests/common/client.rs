//! A vhost-user front-end by hand, for what no good one does.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use virtio_kit_linux::vhost_user::codec::{
    F_PROTOCOL_FEATURES, MemoryRegion, ProtocolFeatures as P, Request, SharedRegion, VringAddr, VringFd,
    VringState,
};
use virtio_kit_spec::{F, Features};

use super::LONG;

pub const USER: u64 = 0x7000_0000_0000;
pub const SIZE: u64 = 1 << 20;
pub const QUEUE: u16 = 16;
// Where parts of the memory are.
pub const DESC: u64 = 0;
pub const AVAIL: u64 = 0x1000;
pub const USED: u64 = 0x2000;
pub const DATA: u64 = 0x8000;

/// A front-end by hand: it sends what it is told to, and has a memory and three events.
pub struct Client {
    pub stream: UnixStream,
    pub memory: OwnedFd,
    pub kick: OwnedFd,
    pub call: OwnedFd,
    pub err: OwnedFd,
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let memory = memfd_create(c"front-end", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, SIZE).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self { stream, memory, kick: event(), call: event(), err: event() }
    }

    pub fn raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        // The other end may have hung up already.
        let _ = sendmsg(&self.stream, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    }

    /// Sends a request that asks for an answer: its number, or nothing if the connection ends.
    pub fn ask(&self, request: &Request<BorrowedFd<'_>>) -> Option<u64> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        request.encode(true, &mut bytes, &mut fds).unwrap();
        self.raw(&bytes, &fds);
        let mut header = [0; 12];
        (&self.stream).read_exact(&mut header).ok()?;
        let len = u32::from_ne_bytes(header[8..].try_into().unwrap()) as usize;
        let mut payload = vec![0; len];
        (&self.stream).read_exact(&mut payload).ok()?;
        Some(payload.first_chunk().map_or(0, |number| u64::from_ne_bytes(*number)))
    }

    pub fn agree(&self, rings: Features) {
        let protocol =
            P::REPLY_ACK | P::CONFIGURE_MEM_SLOTS | P::CONFIG | P::INFLIGHT_SHMFD | P::STATUS | P::LOG_SHMFD;
        assert_ne!(self.ask(&Request::GetFeatures).unwrap() & F_PROTOCOL_FEATURES, 0);
        // It has no acknowledgement before it is agreed on.
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let request = Request::<BorrowedFd<'_>>::SetProtocolFeatures(protocol);
        request.encode(false, &mut bytes, &mut fds).unwrap();
        self.raw(&bytes, &fds);
        let features = (F::VERSION_1 | F::INDIRECT_DESC | rings).low() | F_PROTOCOL_FEATURES;
        assert_eq!(self.ask(&Request::SetFeatures(features)), Some(0));
    }

    pub fn region(&self) -> MemoryRegion {
        MemoryRegion { guest_addr: 0, size: SIZE, user_addr: USER, mmap_offset: 0, xen: None }
    }

    pub fn share(&self) {
        let shared = SharedRegion { region: self.region(), fd: self.memory.as_fd() };
        assert_eq!(self.ask(&Request::AddMemReg(shared)), Some(0));
    }

    pub fn start(&self, packed: bool) {
        let base = if packed { 0x8000_8000 } else { 0 };
        let event = |fd| VringFd { index: 0, fd: Some(fd) };
        for request in [
            Request::SetVringNum(VringState { index: 0, num: QUEUE.into() }),
            Request::SetVringBase(VringState { index: 0, num: base }),
            Request::SetVringAddr(addr(DESC, AVAIL, USED)),
            Request::SetVringErr(event(self.err.as_fd())),
            Request::SetVringCall(event(self.call.as_fd())),
            Request::SetVringKick(event(self.kick.as_fd())),
            Request::SetVringEnable { index: 0, enable: true },
        ] {
            assert_eq!(self.ask(&request), Some(0), "{request:?}");
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.memory, bytes, at), Ok(bytes.len()));
    }

    pub fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    pub fn becomes_ready(&self, fd: impl AsFd) -> bool {
        let limit = Timespec { tv_sec: LONG.as_secs() as i64, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) == Ok(1)
    }
}

pub fn addr(desc: u64, avail: u64, used: u64) -> VringAddr {
    let [descriptor, available, used] = [desc, avail, used].map(|at| USER.wrapping_add(at));
    VringAddr { index: 0, flags: 0, descriptor, used, available, log: 0 }
}
