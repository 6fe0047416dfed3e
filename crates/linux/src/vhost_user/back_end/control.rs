//! The device and its connection.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::io::Errno;
use virtio_kit::device::{ConfigNotice, Device, Machine, Slots};
use virtio_kit_spec::{DeviceId, Features, Status};

use super::error::{Ended, Refusal};
use super::event::{Event, EventSet};
use super::log::Log;
use super::memory::{Regions, Views};
use super::options::{IMPLEMENTED, Options, RING_FEATURES};
use super::queue::QueueEnd;
use super::record::RecordMemory;
use super::rings::Ring;
use crate::mapping::{Mapping, hits};
use crate::vhost_user::codec::{
    BackendRequest, Channel, F_PROTOCOL_FEATURES, MessageId, ProtocolFeatures, Received, Reply, ReplyKind,
    ReplyRules, Request, RequestDecoder,
};
use crate::vhost_user::wire;

/// Numbers of the events of a back-end.
const SOCKET: u64 = 0;
const ATTENTION: u64 = 1;

/// Most messages that are taken in one go.
const AT_ONCE: usize = 64;

/// A device, and the front-end that it is served to.
pub struct BackEnd {
    pub(super) machine: Machine,
    pub(super) slots: Slots,
    pub(super) queues: Vec<QueueEnd>,
    pub(super) options: Options,
    notice: Arc<ConfigNotice>,
    /// The configuration generation that the front-end knows.
    announced: u32,
    /// A queue failed, or the configuration changed.
    attention: Arc<Event>,
    events: EventSet,
    connection: Option<Connection>,
    /// What the front-end has set up; as new while there is none.
    pub(super) session: Session,
    /// Bus errors that are known of.
    hits: u64,
}

struct Connection {
    stream: UnixStream,
    decoder: RequestDecoder,
}

/// What a front-end has set up.
#[derive(Default)]
pub(super) struct Session {
    pub(super) protocol: ProtocolFeatures,
    /// The features that were set, with the protocol's own bits.
    pub(super) features: Option<u64>,
    pub(super) status: Status,
    pub(super) regions: Regions,
    /// Of `regions`; `None` while there are none.
    pub(super) views: Option<Views>,
    pub(super) rings: Vec<Ring>,
    /// Where this end's own requests go.
    pub(super) channel: Option<UnixStream>,
    /// Where what is in flight is recorded.
    pub(super) record: Option<RecordMemory>,
    /// What the driver has written to the configuration last, here or with a server before.
    pub(super) written: Option<(usize, Vec<u8>)>,
    pub(super) log: Arc<Log>,
    pub(super) log_map: Option<Mapping>,
    pub(super) log_event: Option<Arc<Event>>,
}

impl BackEnd {
    /// Takes a device over. Fails, with the operating system's error, if there are no descriptors left.
    pub fn new(device: Box<dyn Device>, mut options: Options) -> Result<Self, Errno> {
        options.protocol &= IMPLEMENTED;
        let attention = Arc::new(Event::new()?);
        let wake = attention.clone();
        let notice = Arc::new(ConfigNotice::new(move || wake.signal()));
        let mut machine = Machine::new(device, options.ring_features & RING_FEATURES, notice.clone());
        machine.set_max_queue_size(options.max_queue_size);
        let slots = machine.slots();
        let queue = |index| QueueEnd::new(index as u16, slots.clone(), attention.clone());
        let queues = (0..slots.len()).map(queue).collect::<Result<Vec<_>, _>>()?;
        let wakers = queues.iter().map(QueueEnd::waker).collect::<Result<_, _>>()?;
        machine.attach_wakers(wakers);
        let events = EventSet::new()?;
        events.add_edge(&*attention, ATTENTION)?;
        Ok(Self {
            machine,
            slots,
            queues,
            options,
            notice,
            announced: 0,
            attention,
            events,
            connection: None,
            session: Session::default(),
            hits: hits(),
        })
    }

    /// What the device is.
    pub fn id(&self) -> DeviceId {
        self.machine.id()
    }

    /// Features that it offers.
    pub fn offered(&self) -> Features {
        self.machine.offered()
    }

    /// Its queues, to be run.
    pub fn queues(&self) -> &[QueueEnd] {
        &self.queues
    }

    /// Whether there is a front-end.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Serves a front-end. One that was there before is hung up on.
    pub fn connect(&mut self, stream: UnixStream) -> Result<(), Errno> {
        self.disconnect();
        self.events.add_level(&stream, SOCKET)?;
        self.connection = Some(Connection { stream, decoder: RequestDecoder::new() });
        self.session.rings.resize_with(self.queues.len(), Ring::default);
        self.announced = self.notice.generation();
        Ok(())
    }

    /// Stops all queues, waits a bounded time for what is in flight, and hangs up.
    pub fn disconnect(&mut self) {
        let Some(Connection { stream, .. }) = self.connection.take() else { return };
        self.events.remove(&stream);
        // Only then is the socket closed: what the front-end sees is that nobody touches its memory.
        self.stop_all();
        let in_flight = self.machine.reset();
        if in_flight > 0 {
            tracing::error!(in_flight, "requests do not come to an end: their memory is kept");
        }
        self.queues.iter().for_each(QueueEnd::forget);
        self.session = Session::default();
    }

    /// Does what the descriptor is ready for, without waiting for more: messages, failed queues, a changed
    /// configuration. Says if the connection ended, and why.
    pub fn process(&mut self) -> Option<Ended> {
        let ready = self.events.wait(Some(Timespec { tv_sec: 0, tv_nsec: 0 }));
        let mut done = Ok(());
        if ready & 1 << ATTENTION != 0 {
            self.attention.drain();
            done = self.attend();
        }
        if ready != 0 && done.is_ok() {
            done = self.receive();
        }
        let ended = done.err()?;
        self.disconnect();
        Some(ended)
    }

    fn attend(&mut self) -> Result<(), Ended> {
        for queue in self.queues.clone() {
            if let Some(error) = queue.take_failure() {
                tracing::warn!(queue = queue.index(), "the queue ends: {error}");
                self.machine.needs_reset();
                self.session.rings[usize::from(queue.index())].signal_error();
            }
        }
        self.check_memory()?;
        self.announce();
        Ok(())
    }

    /// Whether some memory turned out to be gone.
    fn check_memory(&mut self) -> Result<(), Ended> {
        let now = hits();
        if now != self.hits {
            self.hits = now;
            let record = self.session.record.as_ref().is_some_and(RecordMemory::is_cut_short);
            let log = self.session.log_map.as_ref().is_some_and(Mapping::is_cut_short);
            if record || log || self.session.regions.are_cut_short() {
                return Err(Ended::CutShort);
            }
        }
        Ok(())
    }

    /// Tells the front-end of a changed configuration, if it wants to know.
    fn announce(&mut self) {
        let now = self.notice.generation();
        let Some(channel) = self.session.channel.as_ref().filter(|_| now != self.announced) else { return };
        if !self.session.protocol.contains(ProtocolFeatures::CONFIG) {
            return;
        }
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        // Without an answer: there is nothing to do about a refusal.
        let request = BackendRequest::<UnixStream>::ConfigChangeMsg;
        let encoded = request.encode(false, &mut bytes, &mut fds);
        match wire::send(channel, &bytes, &fds) {
            Ok(sent) if encoded.is_ok() && sent == bytes.len() => self.announced = now,
            // It is behind with reading: the notices in the socket are as good as this one.
            Err(Errno::AGAIN) => self.announced = now,
            _ => self.session.channel = None,
        }
    }

    fn receive(&mut self) -> Result<(), Ended> {
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            let Some(Connection { stream, decoder }) = &mut self.connection else { return Ok(()) };
            if let Some(received) = decoder.next().map_err(Ended::Protocol)? {
                self.answer(received)?;
                continue;
            }
            // No more than the message lacks, so that whole messages never wait here while the socket is empty.
            let wanted = decoder.wants().min(buffer.len());
            match wire::receive(stream, &mut buffer[..wanted]) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(Ended::HungUp),
                Ok((count, fds)) => decoder.feed(&buffer[..count], fds),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Ended::Os(error.raw_os_error())),
            }
        }
        // A message that is whole by now is looked at first the next time: the socket need not be ready for that.
        self.attention.signal();
        Ok(())
    }

    /// Does a request and answers it.
    fn answer(&mut self, received: Received<Request>) -> Result<(), Ended> {
        let Received { header, message } = received;
        let id = MessageId::Request(header.request);
        let rules = ReplyRules { features: self.session.protocol, postcopy: false };
        let acknowledged = header.need_reply && rules.features.contains(ProtocolFeatures::REPLY_ACK);
        let (kind, done) = match message {
            Ok(request) => {
                tracing::trace!(?request);
                (request.reply_kind(rules, header.need_reply), self.handle(request))
            }
            Err(error) => (acknowledged.then_some(ReplyKind::Ack), Err(error.into())),
        };
        let reply = match (kind, done) {
            (None, Ok(_)) => return Ok(()),
            (Some(ReplyKind::Ack | ReplyKind::LogBase), Ok(None)) => Reply::Ack(0),
            (Some(_), Ok(Some(reply))) => reply,
            (Some(ReplyKind::Ack), Err(refusal)) => {
                tracing::warn!("{id}: {refusal}");
                Reply::Ack(1)
            }
            (Some(ReplyKind::Config { .. }), Err(refusal)) => {
                tracing::warn!("{id}: {refusal}");
                Reply::Config(None)
            }
            (_, Err(refusal)) => return Err(Ended::Refused(id, refusal)),
            (Some(_), Ok(None)) => return Err(Ended::Refused(id, Refusal::NotNegotiated)),
        };
        let Some(Connection { stream, .. }) = &self.connection else { return Ok(()) };
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        reply.encode(Channel::Main, header.request, &mut bytes, &mut fds).map_err(Ended::Protocol)?;
        loop {
            return match wire::send(stream, &bytes, &fds) {
                Ok(sent) if sent == bytes.len() => Ok(()),
                Ok(_) | Err(Errno::AGAIN) => Err(Ended::NotReading),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => Err(Ended::HungUp),
                Err(error) => Err(Ended::Os(error.raw_os_error())),
            };
        }
    }

    /// Bit 30 is agreed on: rings begin disabled.
    pub(super) fn is_extensible(&self) -> bool {
        self.session.features.is_some_and(|bits| bits & F_PROTOCOL_FEATURES != 0)
    }
}

/// Ready to read when [`BackEnd::process`] has something to do.
impl AsFd for BackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl fmt::Debug for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackEnd")
            .field("device", &self.id())
            .field("connected", &self.is_connected())
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}
