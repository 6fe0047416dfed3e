//! Setting rings up, starting and stopping them.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use virtio_kit::device::{NewError, Position, QueueState, RingAddrs};
use virtio_kit_spec::{F, Status, packed, split};

use super::control::BackEnd;
use super::error::Refusal;
use super::event::Event;
use super::log::{Marker, RingArea};
use super::memory::{Regions, Views};
use super::record::{PackedRecord, Record, SplitRecord};
use super::witness::Keeper;
use crate::vhost_user::codec::{
    PackedBase, ProtocolFeatures, Reply, VRING_F_LOG, VringAddr, VringFd, VringState,
};

/// How long chains may hold on to memory that is changed.
const LET_GO: Duration = Duration::from_secs(10);

/// What the front-end has set of a ring.
#[derive(Default)]
pub(super) struct Ring {
    size: u16,
    addrs: Option<RingAddrs>,
    /// Where writes to the used ring are to be logged.
    log: Option<u64>,
    base: Base,
    /// There is a kick event, or the ring is to be polled.
    has_kick: bool,
    enabled: bool,
    /// Its queue is started.
    running: bool,
    err: Option<Event>,
}

/// Where a ring goes on.
#[derive(Clone, Copy, Default)]
enum Base {
    /// As the front-end said: what it means depends on the layout.
    Told(u32),
    /// Where it was stopped here.
    Left(Position),
    /// Where a new ring starts.
    #[default]
    Fresh,
}

impl Ring {
    /// Tells the front-end that the ring is broken.
    pub(super) fn signal_error(&self) {
        if let Some(err) = &self.err {
            err.signal();
        }
    }

    /// Forgets everything but the descriptors.
    pub(super) fn reset(&mut self) {
        let Self { has_kick, err, .. } = std::mem::take(self);
        *self = Self { has_kick, err, ..Self::default() };
    }
}

impl BackEnd {
    fn ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        self.session.rings.get_mut(index as usize).ok_or(Refusal::NoQueue(index))
    }

    /// A ring that does not run.
    fn idle_ring(&mut self, index: u32) -> Result<&mut Ring, Refusal> {
        let ring = self.ring(index)?;
        if ring.running { Err(Refusal::QueueRuns(index)) } else { Ok(ring) }
    }

    pub(super) fn is_running(&self) -> bool {
        self.session.rings.iter().any(|ring| ring.running)
    }

    pub(super) fn set_ring_size(&mut self, state: VringState) -> Result<(), Refusal> {
        let max = self.options.max_queue_size;
        let ring = self.idle_ring(state.index)?;
        let size = u16::try_from(state.num).ok().filter(|size| *size != 0 && *size <= max);
        ring.size = size.ok_or(Refusal::QueueSize(state.num))?;
        self.settle(state.index)
    }

    pub(super) fn set_ring_base(&mut self, state: VringState) -> Result<(), Refusal> {
        self.idle_ring(state.index)?.base = Base::Told(state.num);
        Ok(())
    }

    pub(super) fn set_ring_addr(&mut self, addr: &VringAddr) -> Result<(), Refusal> {
        let VringAddr { index, flags, descriptor: desc, used: device, available: driver, log } = *addr;
        let addrs = RingAddrs { desc, driver, device };
        let ring = self.ring(index)?;
        let moved = ring.running && ring.addrs != Some(addrs);
        ring.addrs = Some(addrs);
        ring.log = (flags & VRING_F_LOG != 0).then_some(log);
        if moved {
            return self.move_ring(index as usize);
        }
        self.settle(index)
    }

    pub(super) fn set_kick(&mut self, kick: VringFd) -> Result<(), Refusal> {
        let index = u32::from(kick.index);
        self.ring(index)?;
        set_event(kick.fd, |fd| self.queues[index as usize].set_kick(fd))?;
        self.ring(index)?.has_kick = true;
        self.settle(index)
    }

    pub(super) fn set_call(&mut self, call: VringFd) -> Result<(), Refusal> {
        self.ring(call.index.into())?;
        set_event(call.fd, |fd| self.queues[usize::from(call.index)].set_call(fd))
    }

    pub(super) fn set_err(&mut self, err: VringFd) -> Result<(), Refusal> {
        let ring = self.ring(err.index.into())?;
        set_event(err.fd, |fd| {
            ring.err = fd.map(Event::of).transpose()?;
            Ok(())
        })
    }

    pub(super) fn enable_ring(&mut self, index: u32, enable: bool) -> Result<(), Refusal> {
        self.ring(index)?.enabled = enable;
        self.settle(index)
    }

    /// Stops a ring: where it stands.
    pub(super) fn get_ring_base(&mut self, index: u32) -> Result<Reply, Refusal> {
        self.ring(index)?;
        self.stop(index as usize)?;
        let packed = self.is_packed();
        let ring = self.ring(index)?;
        ring.has_kick = false;
        let num = match (ring.base, packed) {
            (Base::Told(num), _) => num,
            (Base::Fresh, packed) => to_base(Position::fresh(packed), packed),
            (Base::Left(position), packed) => to_base(position, packed),
        };
        // The front-end's descriptor may be another one when the ring starts again.
        self.queues[index as usize].forget_kick();
        Ok(Reply::VringBase(VringState { index, num }))
    }

    fn is_packed(&self) -> bool {
        self.machine.accepted().contains(F::RING_PACKED)
    }

    /// Starts rings that have everything that it takes.
    pub(super) fn settle_all(&mut self) -> Result<(), Refusal> {
        (0..self.session.rings.len() as u32).try_for_each(|index| self.settle(index))
    }

    /// Starts or stops a ring, if something has made that due.
    fn settle(&mut self, index: u32) -> Result<(), Refusal> {
        let extensible = self.is_extensible();
        let ready = self.session.features.is_some() && self.session.views.is_some();
        let ring = self.ring(index)?;
        let may_run = ring.enabled || !extensible;
        let runs = ready && may_run && ring.has_kick && ring.size != 0 && ring.addrs.is_some();
        match (ring.running, runs) {
            (false, true) => self.start(index as usize),
            (true, false) if !may_run => self.stop(index as usize),
            _ => Ok(()),
        }
    }

    fn start(&mut self, index: usize) -> Result<(), Refusal> {
        let Some(Views { guest, user }) = self.session.views.clone() else { return Ok(()) };
        let packed = self.is_packed();
        let ring = &self.session.rings[index];
        let (size, addrs) = (ring.size, ring.addrs.unwrap_or_default());
        let position = match ring.base {
            Base::Left(position) => position,
            Base::Fresh => Position::fresh(packed),
            Base::Told(0) if packed && self.is_untouched(addrs) => Position::fresh(true),
            Base::Told(num) if packed => packed_position(num),
            Base::Told(num) => self.split_position(num as u16, addrs, size),
        };
        self.machine.set_memory_and_rings(guest, user);
        if !self.machine.status().contains(Status::DRIVER_OK) {
            self.machine.set_status(self.machine.status() | Status::DRIVER_OK)?;
            if let Some((offset, data)) = &self.session.written {
                self.machine.write_config(*offset, data);
            }
        }
        if !self.machine.status().contains(Status::DRIVER_OK) {
            return Err(Refusal::Features(self.machine.accepted()));
        }
        let (keeper, position) = self.keeper(index, position)?;
        let state = QueueState { size, addrs, position: Some(position), enabled: true };
        let enabled = self.machine.enable_queue(index as u16, state).and_then(|()| {
            let mut slot = self.slots[index].lock();
            match (slot.as_mut(), keeper) {
                (Some(worker), Some(keeper)) => worker.attach_witness(Box::new(keeper)),
                _ => Ok(()),
            }
        });
        if let Err(error) = enabled {
            // It is not enabled, after all.
            self.machine.reset_queue(index as u16);
            return Err(error.into());
        }
        self.session.rings[index].running = true;
        self.queues[index].start();
        tracing::debug!(queue = index, size, packed, ?position, "the queue starts");
        Ok(())
    }

    /// Who keeps what has to be kept of a queue, if anything; and where the record of it says to go on, if there is
    /// one: for a packed ring nobody else can tell.
    fn keeper(&self, index: usize, base: Position) -> Result<(Option<Keeper>, Position), Refusal> {
        let ring = &self.session.rings[index];
        let (size, packed) = (ring.size, self.is_packed());
        let addrs = ring.addrs.unwrap_or_default();
        let in_order = self.machine.accepted().contains(F::IN_ORDER);
        let regions = &self.session.regions;
        let mut position = base;
        let part = match &self.session.record {
            Some(memory) => memory.queue(index as u16, size, packed)?,
            None => None,
        };
        let record = match part {
            None => None,
            Some(part) if packed => {
                let flags = |at: u16| regions.ring_word(addrs.desc.checked_add(u64::from(at) * 16 + 14)?);
                let (record, at) = PackedRecord::open(part, size, in_order, base, flags)?;
                position = at;
                Some(Record::Packed(Box::new(record)))
            }
            Some(part) => {
                let used = regions.ring_word(addrs.device.saturating_add(split::USED_IDX as u64));
                let (record, at) = SplitRecord::open(part, size, in_order, used.unwrap_or(base.used), base)?;
                position = at;
                Some(Record::Split(record))
            }
        };
        let marker = self.session.protocol.contains(ProtocolFeatures::LOG_SHMFD).then(|| {
            let area = |user: u64, len: usize| {
                regions.guest_addr_of_user(user).map_or((0, 0), |addr| (addr, len as u64))
            };
            let parts = if packed {
                [area(addrs.desc, packed::desc_size(size)), area(addrs.device, packed::EVENT_SIZE)]
            } else {
                let len = split::device_size(size);
                // The front-end may want the ring logged where it has it itself.
                [area(addrs.device, len), ring.log.map_or((0, 0), |addr| (addr, len as u64))]
            };
            Marker::new(self.session.log.clone(), RingArea { parts })
        });
        let keeper = (record.is_some() || marker.is_some()).then_some(Keeper { record, marker });
        Ok((keeper, position))
    }

    /// Whether a packed ring is as its driver made it. Some front-ends say base 0 of it, where the wrap counters
    /// should be 1. At 0 with wrap counters of 0 the first descriptor is of the lap before: it has at least one
    /// lap bit set.
    fn is_untouched(&self, addrs: RingAddrs) -> bool {
        use packed::{DESC_AVAIL, DESC_USED};
        let flags = self.session.regions.ring_word(addrs.desc.saturating_add(14));
        flags.is_some_and(|flags| flags & (DESC_AVAIL | DESC_USED) == 0)
    }

    /// A split ring goes on at its base. What was used is what the ring says, as long as the two make sense
    /// together: a back-end before may have left chains behind, which nobody will ever use.
    fn split_position(&self, base: u16, addrs: RingAddrs, size: u16) -> Position {
        let index = addrs.device.saturating_add(split::USED_IDX as u64);
        let used = self.session.regions.ring_word(index).unwrap_or(base);
        let used = if base.wrapping_sub(used) <= size { used } else { base };
        Position { next: base, used, ..Position::fresh(false) }
    }

    /// Stops a ring that runs, once what is in flight has come to its end.
    fn stop(&mut self, index: usize) -> Result<(), Refusal> {
        let ring = &mut self.session.rings[index];
        if !ring.running {
            return Ok(());
        }
        ring.running = false;
        self.queues[index].stop();
        let Some(stopped) = self.machine.reset_queue(index as u16) else { return Ok(()) };
        if stopped.notify {
            self.queues[index].call();
        }
        self.session.rings[index].base = Base::Left(stopped.position);
        tracing::debug!(queue = index, position = ?stopped.position, "the queue stops");
        match stopped.in_flight {
            0 => Ok(()),
            count => Err(Refusal::StillInFlight(count)),
        }
    }

    pub(super) fn stop_all(&mut self) {
        for index in 0..self.session.rings.len() {
            if let Err(refusal) = self.stop(index) {
                tracing::error!(queue = index, "{refusal}: their memory is kept");
            }
        }
    }

    /// Other regions from now on: for rings that run, too.
    pub(super) fn set_regions(&mut self, regions: Regions) -> Result<(), Refusal> {
        let views = regions.views()?;
        // Nothing is to hold on to the regions of before.
        self.machine.set_memory_and_rings(views.guest.clone(), views.user.clone());
        self.session.views = (regions.len() != 0).then_some(views);
        self.session.regions = regions;
        self.log_changed();
        for index in 0..self.session.rings.len() {
            self.move_ring(index)?;
        }
        self.settle_all()
    }

    /// Moves a ring that runs to the regions and addresses that there are now.
    fn move_ring(&mut self, index: usize) -> Result<(), Refusal> {
        let ring = &self.session.rings[index];
        let (true, Some(addrs)) = (ring.running, ring.addrs) else { return Ok(()) };
        let Some(Views { guest, user }) = self.session.views.clone() else {
            return self.stop(index);
        };
        let moved = self.until_let_go(index, |worker| {
            match worker.set_memory(addrs, guest.clone(), Some(user.clone())) {
                Err(NewError::Busy) => None,
                done => Some(done),
            }
        })?;
        moved.map_err(Refusal::Ring)
    }

    /// Waits, for a bounded time, until no chain uses regions of before.
    pub(super) fn let_go_of_old_memory(&mut self) -> Result<(), Refusal> {
        for index in 0..self.session.rings.len() {
            if self.session.rings[index].running {
                self.until_let_go(index, |worker| (!worker.uses_old_memory()).then_some(()))?;
            }
        }
        Ok(())
    }

    /// Tries something on a queue that runs, and lets it work until that succeeds.
    fn until_let_go<R>(
        &mut self,
        index: usize,
        mut attempt: impl FnMut(&mut dyn virtio_kit::device::Worker) -> Option<R>,
    ) -> Result<R, Refusal> {
        let deadline = Instant::now() + LET_GO;
        let queue = self.queues[index].clone();
        let done = loop {
            let mut slot = self.slots[index].lock();
            let Some(worker) = slot.as_mut() else { break Err(Refusal::NoQueue(index as u32)) };
            if let Some(done) = attempt(&mut **worker) {
                break Ok(done);
            }
            let waited = worker.wait();
            let run = worker.run();
            drop(slot);
            if run.is_ok_and(|run| run.notify) {
                queue.call();
            }
            if waited.is_err() || Instant::now() >= deadline {
                break Err(Refusal::MemoryInUse);
            }
        };
        // Who runs it may have found it taken.
        queue.wake();
        done
    }
}

fn set_event(
    fd: Option<OwnedFd>,
    set: impl FnOnce(Option<OwnedFd>) -> Result<(), rustix::io::Errno>,
) -> Result<(), Refusal> {
    set(fd).map_err(|error| Refusal::Event(error.raw_os_error()))
}

/// Where a packed ring goes on. Some front-ends, DPDK's for one, say only what is available next, and nothing in the
/// other half: nothing is in flight then.
fn packed_position(num: u32) -> Position {
    let num = if num >> 16 == 0 { num | num << 16 } else { num };
    let PackedBase { avail, avail_wrap, used, used_wrap } = PackedBase::from_num(num);
    Position { next: avail, next_wrap: avail_wrap, used, used_wrap }
}

fn to_base(position: Position, packed: bool) -> u32 {
    let Position { next, next_wrap, used, used_wrap } = position;
    if packed {
        return PackedBase { avail: next, avail_wrap: next_wrap, used, used_wrap }.to_num();
    }
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_base_of_one_half_has_nothing_in_flight() {
        let at = |next, next_wrap, used, used_wrap| Position { next, next_wrap, used, used_wrap };
        assert_eq!(packed_position(0x8000), Position::fresh(true));
        assert_eq!(packed_position(0x0007), at(7, false, 7, false));
        assert_eq!(packed_position(0x8005_0003), at(3, false, 5, true));
        for position in [at(7, false, 5, true), at(3, true, 3, true)] {
            assert_eq!(packed_position(to_base(position, true)), position);
        }
    }
}
