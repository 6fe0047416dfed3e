//! Starting and stopping queues, and starting them again on another back-end.
//!
//! Enabling a queue only writes it down. DRIVER_OK sends everything, in the order that back-ends know from
//! QEMU: the record of what is in flight, the memory, then for each queue size, base, addresses, error, call
//! and kick events, then SET_VRING_ENABLE for all, and at last a kick for each, since buffers may be in the
//! rings already. The call event goes before the kick event, because the latter may start the ring.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use virtio_kit::transport::{QueueSetup, TransportError};
use virtio_kit_ring::DeviceAddr;
use virtio_kit_spec::{F, Features, Status};

use super::error::{Failed, Failure};
use super::inflight::{Record, fresh_base, split_base};
use super::lines::Lines;
use super::session::{Line, Session, exchange, unusable};
use super::socket::RETRY;
use crate::vhost_user::codec::{
    F_PROTOCOL_FEATURES, Inflight, ProtocolFeatures, Reply, Request, VringAddr, VringFd, VringState,
};

/// A queue that was enabled.
pub(super) struct Ring {
    pub(super) setup: QueueSetup,
    pub(super) lines: Arc<Lines>,
    /// The back-end was told of it.
    pub(super) started: bool,
}

impl Session {
    fn is_packed(&self) -> bool {
        self.accepted.is_some_and(|bits| Features::from_low(bits).contains(F::RING_PACKED))
    }

    /// Accepts features. With protocol features bit 30 belongs to them.
    pub(super) fn send_features(&mut self, accepted: u64) -> Result<(), Failed> {
        let extra = if self.is_extensible() { F_PROTOCOL_FEATURES } else { 0 };
        self.set(Request::SetFeatures(accepted | extra))
    }

    /// Starts every queue that was enabled; `again` on a back-end that goes on where another ended.
    fn start(&mut self, again: bool) -> Result<(), Failed> {
        self.share_record()?;
        self.send_memory()?;
        for index in 0..self.rings.len() as u16 {
            self.set_up(index, again)?;
        }
        for index in 0..self.rings.len() as u16 {
            self.enable(index)?;
        }
        self.settle()
    }

    /// Gets the buffer in which the back-end is to keep what is in flight, unless there is one, and gives it
    /// back to it.
    fn share_record(&mut self) -> Result<(), Failed> {
        let enabled = self.rings.iter().rposition(Option::is_some);
        let (true, Some(last)) = (self.has(ProtocolFeatures::INFLIGHT_SHMFD), enabled) else { return Ok(()) };
        if self.record.is_none() {
            let queue_size = self.rings.iter().flatten().map(|ring| ring.setup.size).max().unwrap_or(0);
            let num_queues = last as u16 + 1;
            let wish = Inflight { mmap_size: 0, mmap_offset: 0, num_queues, queue_size };
            let reply = self.exchange(Request::GetInflightFd(wish), false)?;
            let Some(Reply::Inflight(got, Some(fd))) = reply else {
                return Err(Failed { during: "GET_INFLIGHT_FD", why: Failure::Nack });
            };
            // Some leave what was asked for out of the answer.
            let description = Inflight { num_queues, queue_size, ..got };
            self.record = Some(Record { description, fd });
        }
        let Some(record) = &self.record else { return Ok(()) };
        let request = Request::SetInflightFd(record.description, record.fd.as_fd());
        exchange(&mut self.socket, &mut self.line, self.protocol, &request, true).map(|_| ())
    }

    /// Tells the back-end everything of a queue, if it was enabled.
    fn set_up(&mut self, index: u16, again: bool) -> Result<(), Failed> {
        let base = match self.rings.get(usize::from(index)) {
            Some(Some(ring)) if again => self
                .next_base(index, ring)
                .ok_or(unusable("SET_VRING_BASE", "the record of what is in flight does not make sense"))?,
            _ => fresh_base(self.is_packed()),
        };
        let Some(Some(ring)) = self.rings.get_mut(usize::from(index)) else { return Ok(()) };
        let user = |addr: DeviceAddr| addr.get() - self.region.guest_addr + self.region.user_addr;
        let queue = u32::from(index);
        let addr = VringAddr {
            index: queue,
            flags: 0,
            descriptor: user(ring.setup.addrs.desc),
            used: user(ring.setup.addrs.device),
            available: user(ring.setup.addrs.driver),
            log: 0,
        };
        let lines = &ring.lines;
        // There are at most 256 queues.
        let event = |fd| VringFd { index: index as u8, fd: Some(fd) };
        let requests: [Request<BorrowedFd<'_>>; 6] = [
            Request::SetVringNum(VringState { index: queue, num: ring.setup.size.into() }),
            Request::SetVringBase(VringState { index: queue, num: base }),
            Request::SetVringAddr(addr),
            Request::SetVringErr(event(lines.err.as_fd())),
            Request::SetVringCall(event(lines.call.as_fd())),
            Request::SetVringKick(event(lines.kick.as_fd())),
        ];
        // From the first of them on only the back-end's word says that it leaves the ring alone.
        ring.started = true;
        for request in &requests {
            exchange(&mut self.socket, &mut self.line, self.protocol, request, true)?;
        }
        Ok(())
    }

    fn next_base(&self, index: u16, ring: &Ring) -> Option<u32> {
        if self.is_packed() {
            return self.record.as_ref()?.packed_base(index, ring.setup.size);
        }
        split_base(&self.region.fd, ring.setup.addrs.device.get() - self.region.guest_addr)
    }

    fn enable(&mut self, index: u16) -> Result<(), Failed> {
        let started = self.rings.get(usize::from(index)).and_then(Option::as_ref).is_some_and(|r| r.started);
        // Otherwise the ring is enabled from its first kick on.
        if started && self.is_extensible() {
            self.set(Request::SetVringEnable { index: index.into(), enable: true })?;
        }
        Ok(())
    }

    fn kick_all(&self) -> Result<(), TransportError> {
        self.rings.iter().flatten().try_for_each(|ring| ring.lines.kick())
    }

    /// Writes a queue down, and starts it if the device runs.
    pub(super) fn enable_queue(&mut self, index: u16, ring: Ring) -> Result<(), TransportError> {
        let running = self.status.contains(Status::DRIVER_OK);
        let lines = ring.lines.clone();
        *self.rings.get_mut(usize::from(index)).ok_or(TransportError::NoQueue(index))? = Some(ring);
        if running {
            self.send_memory()?;
            self.set_up(index, false)?;
            self.enable(index)?;
            self.settle()?;
            lines.kick()?;
        }
        Ok(())
    }

    /// DRIVER_OK.
    pub(super) fn run(&mut self) -> Result<(), TransportError> {
        self.start(false)?;
        self.send_status(self.status | Status::DRIVER_OK)?;
        self.kick_all()
    }

    pub(super) fn send_status(&mut self, status: Status) -> Result<(), Failed> {
        if self.has(ProtocolFeatures::STATUS) {
            self.set(Request::SetStatus(status.bits()))?;
        }
        self.status = status;
        Ok(())
    }

    /// Stops a queue: the back-end's answer says that it is through with it. `false` if it never had it.
    pub(super) fn stop(&mut self, index: u16) -> Result<bool, Failed> {
        let started = self.rings.get(usize::from(index)).and_then(Option::as_ref).is_some_and(|r| r.started);
        if started {
            if self.is_extensible() {
                self.set(Request::SetVringEnable { index: index.into(), enable: false })?;
            }
            self.exchange(Request::GetVringBase { index: index.into() }, false)?;
        }
        if let Some(record) = &self.record {
            // If it cannot be, only recovery is lost, and says so.
            record.forget(self.is_packed(), index);
        }
        self.rings[usize::from(index)] = None;
        Ok(started)
    }

    /// Resets the device; whether any queue had been started.
    pub(super) fn reset(&mut self) -> Result<bool, Failed> {
        let mut any = false;
        for index in 0..self.rings.len() as u16 {
            any |= self.stop(index)?;
        }
        if self.status != Status::RESET {
            if self.has(ProtocolFeatures::RESET_DEVICE) {
                self.set(Request::ResetDevice)?;
            }
            self.send_status(Status::RESET)?;
            self.settle()?;
        }
        if self.line != Line::Up {
            return Err(Failed { during: "reset", why: Failure::Closed });
        }
        self.accepted = None;
        // The next life gets another: the protocol wants a fresh one after a reset.
        self.record = None;
        Ok(any)
    }

    /// Connects anew, for as long as the options allow, if `generation` is what was lost.
    pub(super) fn recover(&mut self, generation: u64) -> Result<(), TransportError> {
        if self.generation != generation && self.line == Line::Up {
            return Ok(());
        }
        if self.line == Line::Up {
            // Seen by polling, not by an exchange.
            self.line = Line::Gone;
            self.socket.close();
        }
        let accepted = self.accepted.filter(|_| self.record.is_some());
        let (Line::Gone, Some(window), Some(accepted)) = (self.line, self.options.reconnect, accepted) else {
            return Err(TransportError::Disconnected);
        };
        let deadline = Instant::now() + window;
        let agreed = (accepted, self.protocol);
        loop {
            match self.resume(agreed, deadline) {
                Ok(()) => break,
                // Gone again while it was told; the next may be better.
                Err(Failed {
                    why: Failure::Closed | Failure::Os(Errno::NOENT | Errno::CONNREFUSED), ..
                }) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(_) => {
                    self.protocol = agreed.1;
                    self.hang_up();
                    return Err(TransportError::Disconnected);
                }
            }
        }
        self.socket.set_deadline(None);
        self.generation += 1;
        self.kick_all()
    }

    fn resume(&mut self, agreed: (u64, ProtocolFeatures), deadline: Instant) -> Result<(), Failed> {
        let status = self.status;
        self.reopen(deadline)?;
        self.introduce(Some(agreed))?;
        self.send_features(agreed.0)?;
        if self.has(ProtocolFeatures::STATUS) {
            self.set(Request::SetStatus((status - Status::DRIVER_OK).bits()))?;
        }
        self.start(true)?;
        self.send_status(status)
    }
}
