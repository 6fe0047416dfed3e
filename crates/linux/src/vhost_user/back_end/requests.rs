//! What each request does.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_kit_spec::features::unmet_all;
use virtio_kit_spec::{DeviceId, F, Features, Status, net};

use super::control::BackEnd;
use super::error::Refusal;
use super::event::Event;
use super::memory::Regions;
use super::record::{self, RecordMemory};
use crate::mapping::Mapping;
use crate::vhost_user::codec::{
    ConfigSpace, F_LOG_ALL, F_PROTOCOL_FEATURES, Inflight, LogBase, MAX_CONFIG_SIZE, MemoryRegion,
    ProtocolFeatures as P, Reply, Request,
};

type Outcome = Result<Option<Reply>, Refusal>;

/// Status bits up to which a device can be negotiated with.
const NEGOTIATED: Status = Status::ACKNOWLEDGE.union(Status::DRIVER).union(Status::FEATURES_OK);

impl BackEnd {
    /// Does what a request asks for; the reply, if it has one of its own.
    pub(super) fn handle(&mut self, request: Request) -> Outcome {
        match request {
            Request::GetFeatures => return Ok(Some(Reply::Value(self.offered_bits()))),
            Request::SetFeatures(bits) => self.set_features(bits)?,
            Request::GetProtocolFeatures => return Ok(Some(Reply::Value(self.options.protocol.bits()))),
            Request::SetProtocolFeatures(features) => {
                if !(features - self.options.protocol).is_empty() || !features.missing().is_empty() {
                    return Err(Refusal::ProtocolFeatures(features));
                }
                self.session.protocol = features;
            }
            Request::SetOwner => {}
            // Deprecated: "either ignore this message, or use it to disable all rings".
            Request::ResetOwner => self.stop_all(),
            Request::GetQueueNum => {
                self.agreed(P::MQ)?;
                return Ok(Some(Reply::Value(self.queues.len() as u64)));
            }
            Request::GetConfig { offset, size, flags } => return self.get_config(offset, size, flags),
            Request::SetConfig(config) => self.set_config(&config)?,
            Request::SetBackendReqFd(fd) => {
                self.agreed(P::BACKEND_REQ)?;
                self.session.channel = Some(UnixStream::from(fd));
            }
            Request::ResetDevice => {
                self.agreed(P::RESET_DEVICE)?;
                self.reset()?;
            }
            Request::SetStatus(status) => self.set_status(Status::from_bits_retain(status))?,
            Request::GetStatus => {
                self.agreed(P::STATUS)?;
                return Ok(Some(Reply::Value(self.status().bits().into())));
            }
            Request::GetMaxMemSlots => {
                self.agreed(P::CONFIGURE_MEM_SLOTS)?;
                return Ok(Some(Reply::Value(self.options.max_regions.into())));
            }
            Request::SetMemTable(table) => self.set_regions(Regions::of_table(table)?)?,
            Request::AddMemReg(shared) => {
                self.agreed(P::CONFIGURE_MEM_SLOTS)?;
                let mut regions = self.session.regions.clone();
                if regions.len() >= self.options.max_regions.into() {
                    return Err(Refusal::TooManyRegions);
                }
                regions.add(shared)?;
                self.set_regions(regions)?;
            }
            Request::RemMemReg(region) => self.remove_region(&region)?,
            Request::GetInflightFd(wish) => return self.make_record(&wish),
            Request::SetInflightFd(description, fd) => {
                self.agreed(P::INFLIGHT_SHMFD)?;
                if self.is_running() {
                    return Err(Refusal::InUse);
                }
                let record = RecordMemory::new(description, fd)?;
                match (&self.session.written, record.noted_config()) {
                    (None, noted) => self.session.written = noted,
                    (Some((offset, data)), _) => record.note_config(*offset, data),
                }
                self.session.record = Some(record);
            }
            Request::SetLogBase(base) => self.set_log(base)?,
            Request::SetLogFd(fd) => {
                let event = Event::of(fd).map_err(|error| Refusal::Event(error.raw_os_error()))?;
                self.session.log_event = Some(Arc::new(event));
                self.log_changed();
            }
            Request::SetVringNum(state) => self.set_ring_size(state)?,
            Request::SetVringBase(state) => self.set_ring_base(state)?,
            Request::SetVringAddr(addr) => self.set_ring_addr(&addr)?,
            Request::SetVringKick(kick) => self.set_kick(kick)?,
            Request::SetVringCall(call) => self.set_call(call)?,
            Request::SetVringErr(err) => self.set_err(err)?,
            Request::SetVringEnable { index, enable } => self.enable_ring(index, enable)?,
            Request::GetVringBase { index } => return self.get_ring_base(index).map(Some),
            _ => return Err(Refusal::NotNegotiated),
        }
        Ok(None)
    }

    /// The request belongs to protocol features that were agreed on.
    fn agreed(&self, features: P) -> Result<(), Refusal> {
        if self.session.protocol.contains(features) { Ok(()) } else { Err(Refusal::NotNegotiated) }
    }

    fn offered_bits(&self) -> u64 {
        let log = if self.options.protocol.contains(P::LOG_SHMFD) { F_LOG_ALL } else { 0 };
        self.machine.offered().low() | F_PROTOCOL_FEATURES | log
    }

    fn set_features(&mut self, bits: u64) -> Result<(), Refusal> {
        let foreign = bits & !self.offered_bits();
        if foreign != 0 {
            return Err(Refusal::NotOffered(foreign));
        }
        let wanted = self.with_control(Features::from_low(bits & !(F_PROTOCOL_FEATURES | F_LOG_ALL)));
        let same = self.machine.status().contains(Status::FEATURES_OK) && self.machine.accepted() == wanted;
        if !same {
            if self.is_running() {
                return Err(Refusal::InUse);
            }
            // Nothing runs on features that are refused.
            self.session.features = None;
            self.reset_machine()?;
            self.machine.set_status(Status::ACKNOWLEDGE | Status::DRIVER)?;
            self.machine.set_accepted(wanted);
            self.machine.set_status(NEGOTIATED)?;
            if !self.machine.status().contains(Status::FEATURES_OK) {
                return Err(Refusal::Features(wanted));
            }
        }
        self.session.features = Some(bits);
        self.log_changed();
        self.settle_all()
    }

    /// What a front-end accepts, and CTRL_VQ, if it accepts what depends on that: those that serve the control queue of
    /// a network device themselves keep it to themselves, and never start it here.
    fn with_control(&self, accepted: Features) -> Features {
        let control = net::F::CTRL_VQ;
        let lacks = self.machine.id() == DeviceId::NETWORK
            && unmet_all(accepted, DeviceId::NETWORK).any(|rule| rule.requires_any_of == control);
        if lacks { accepted | (control & self.machine.offered()) } else { accepted }
    }

    /// The device status that the front-end keeps here, as far as it is true.
    fn status(&self) -> Status {
        let mut status = self.session.status;
        if self.queues.iter().any(|queue| queue.has_failed()) {
            status |= Status::DEVICE_NEEDS_RESET;
        }
        status
    }

    fn set_status(&mut self, status: Status) -> Result<(), Refusal> {
        self.agreed(P::STATUS)?;
        if status == Status::RESET {
            // QEMU stops a paused machine's device with it, and resets one by RESET_DEVICE, if it has that.
            if self.session.protocol.contains(P::RESET_DEVICE) {
                self.stop_all()
            } else {
                self.reset()?
            }
            self.session.status = Status::RESET;
            return Ok(());
        }
        let mut added = status - self.session.status - Status::DEVICE_NEEDS_RESET;
        if self.session.features.is_none() {
            added -= Status::FEATURES_OK;
        }
        self.session.status |= added;
        Ok(())
    }

    /// Everything as it was before the first message, but for the memory and what messages were agreed on.
    fn reset(&mut self) -> Result<(), Refusal> {
        self.stop_all();
        self.reset_machine()?;
        self.session.features = None;
        self.session.status = Status::RESET;
        // What it had was of the device's life before.
        (self.session.record, self.session.written) = (None, None);
        self.session.rings.iter_mut().for_each(|ring| ring.reset());
        Ok(())
    }

    fn reset_machine(&mut self) -> Result<(), Refusal> {
        match self.machine.reset() {
            0 => Ok(()),
            count => Err(Refusal::StillInFlight(u16::try_from(count).unwrap_or(u16::MAX))),
        }
    }

    fn get_config(&self, offset: u32, size: u32, flags: u32) -> Outcome {
        self.agreed(P::CONFIG)?;
        let end = offset.checked_add(size).filter(|end| *end <= MAX_CONFIG_SIZE && size > 0);
        if end.is_none() {
            return Err(Refusal::Config { offset, size });
        }
        let mut data = vec![0; size as usize];
        self.machine.read_config(offset as usize, &mut data);
        Ok(Some(Reply::Config(Some(ConfigSpace { offset, flags, data }))))
    }

    /// Writes what can be written: the rest has to be what it is already.
    fn set_config(&mut self, config: &ConfigSpace) -> Result<(), Refusal> {
        self.agreed(P::CONFIG)?;
        let ConfigSpace { offset, data, .. } = config;
        self.machine.write_config(*offset as usize, data);
        let mut now = vec![0; data.len()];
        self.machine.read_config(*offset as usize, &mut now);
        if now == *data {
            if let Some(record) = &self.session.record {
                record.note_config(*offset as usize, data);
            }
            self.session.written = Some((*offset as usize, now));
            return Ok(());
        }
        Err(Refusal::Config { offset: *offset, size: data.len() as u32 })
    }

    fn make_record(&mut self, wish: &Inflight) -> Outcome {
        self.agreed(P::INFLIGHT_SHMFD)?;
        let Inflight { num_queues, queue_size, .. } = *wish;
        if queue_size == 0 || queue_size > self.options.max_queue_size {
            return Err(Refusal::QueueSize(queue_size.into()));
        }
        if usize::from(num_queues) > self.queues.len() || num_queues == 0 {
            return Err(Refusal::NoQueue(num_queues.into()));
        }
        let packed = self.machine.accepted().contains(F::RING_PACKED);
        let made = record::make(wish, packed).map_err(|error| Refusal::Map(error.into()))?;
        Ok(Some(Reply::Inflight(made.0, Some(made.1))))
    }

    fn set_log(&mut self, base: LogBase) -> Result<(), Refusal> {
        self.agreed(P::LOG_SHMFD)?;
        let LogBase::Area { size, offset, fd: Some(fd) } = base else { return Err(Refusal::NotNegotiated) };
        self.session.log_map = Some(Mapping::new(fd, offset, size)?);
        self.log_changed();
        Ok(())
    }

    /// Lets queues know of another log, or of none. No queue writes to the one before after this.
    pub(super) fn log_changed(&mut self) {
        let session = &self.session;
        let wanted = session.features.is_some_and(|bits| bits & F_LOG_ALL != 0);
        let map = session.log_map.clone().filter(|_| wanted);
        session.log.set(map, session.log_event.clone(), &session.regions);
        for (slot, queue) in self.slots.iter().zip(&self.queues) {
            // Whoever runs it has looked after this.
            drop(slot.lock());
            queue.wake();
        }
    }

    fn remove_region(&mut self, region: &MemoryRegion) -> Result<(), Refusal> {
        self.agreed(P::CONFIGURE_MEM_SLOTS)?;
        let mut regions = self.session.regions.clone();
        regions.remove(region)?;
        self.set_regions(regions)?;
        // The answer says that it is unmapped.
        self.let_go_of_old_memory()
    }
}
