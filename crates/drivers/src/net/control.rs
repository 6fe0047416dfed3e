//! The control queue (5.1.9.5).

use super::error::{BadArgument, ControlError, Error};
use super::info::Info;
use super::rss::{Rss, hash_data, rss_data};
use super::{Coalesce, GuestOffloads, HashTypes, Link, Mac};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use virtio_kit::clock::Clock;
use virtio_kit::driver::{AddErrorKind, GetError, Used, Virtqueue};
use virtio_kit::spec::net::{
    Ack, AnnounceCommand, Class, CoalesceCommand, CoalesceQueue, ControlHeader, F, GuestOffloadsCommand,
    MacCommand, MqCommand, QueuePairs, RxCommand, VlanCommand, queue,
};
use virtio_kit::{Arena, Chain, DmaBuf, Features};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// An answer that no device writes, put there before each command.
const NO_ANSWER: u8 = 0xff;

/// A command and its answer.
pub(super) type Command = Chain<DmaBuf, DmaBuf>;

/// The control queue. Each command waits for its answer, for as long as the options say.
///
/// A command that is not answered in time keeps its buffers in the queue, since the device may write to them
/// yet. They come back with the late answer, which is thrown away, or when the device is removed.
pub struct ControlQueue {
    queue: Virtqueue<Command, u64>,
    clock: Arc<dyn Clock>,
    limit: Duration,
    features: Features,
    info: Info,
    /// Queue pairs that were made.
    made: u16,
    /// Queue pairs that the device uses.
    pairs: u16,
    /// Number of the next command.
    next: u64,
    arena: Arena,
    link: Link,
}

/// Which frames are received (5.1.9.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// All of them, whatever else is set (CTRL_RX).
    Promiscuous,
    /// All multicast ones (CTRL_RX).
    AllMulticast,
    /// All unicast ones (CTRL_RX_EXTRA).
    AllUnicast,
    /// No multicast ones (CTRL_RX_EXTRA).
    NoMulticast,
    /// No unicast ones (CTRL_RX_EXTRA).
    NoUnicast,
    /// No broadcast ones (CTRL_RX_EXTRA).
    NoBroadcast,
}

/// A queue that frames go through, by its pair, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataQueue {
    /// The pair's receive queue.
    Rx(u16),
    /// The pair's transmit queue.
    Tx(u16),
}

/// What the control queue is told of its device.
pub(super) struct Context {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limit: Duration,
    pub(super) features: Features,
    pub(super) info: Info,
    pub(super) made: u16,
    pub(super) arena: Arena,
    pub(super) link: Link,
}

impl ControlQueue {
    pub(super) fn new(queue: Virtqueue<Command, u64>, context: Context) -> Self {
        let Context { clock, limit, features, info, made, arena, link } = context;
        Self { queue, clock, limit, features, info, made, pairs: 1, next: 0, arena, link }
    }

    /// Turns a receive mode on or off (5.1.9.5.1).
    pub fn set_rx_mode(&mut self, mode: RxMode, on: bool) -> Result<(), ControlError> {
        let (feature, command) = match mode {
            RxMode::Promiscuous => (F::CTRL_RX, RxCommand::PROMISC),
            RxMode::AllMulticast => (F::CTRL_RX, RxCommand::ALLMULTI),
            RxMode::AllUnicast => (F::CTRL_RX_EXTRA, RxCommand::ALLUNI),
            RxMode::NoMulticast => (F::CTRL_RX_EXTRA, RxCommand::NOMULTI),
            RxMode::NoUnicast => (F::CTRL_RX_EXTRA, RxCommand::NOUNI),
            RxMode::NoBroadcast => (F::CTRL_RX_EXTRA, RxCommand::NOBCAST),
        };
        self.need(feature)?;
        self.command(Class::RX, command.0, &[&[u8::from(on)]], &mut [])
    }

    /// Sets the addresses for which frames are received beside the device's own (5.1.9.5.2). A device may take
    /// more than it was told.
    pub fn set_mac_table(&mut self, unicast: &[Mac], multicast: &[Mac]) -> Result<(), ControlError> {
        self.need(F::CTRL_RX)?;
        if let Some(&mac) = unicast.iter().find(|mac| is_multicast(mac)) {
            return Err(ControlError::Argument(BadArgument::Multicast(mac)));
        }
        if let Some(&mac) = multicast.iter().find(|mac| !is_multicast(mac)) {
            return Err(ControlError::Argument(BadArgument::Unicast(mac)));
        }
        // More could not be had memory for.
        let counts = [unicast, multicast].map(|table| U32::new(table.len() as u32));
        let data: [&[u8]; 4] =
            [counts[0].as_bytes(), unicast.as_flattened(), counts[1].as_bytes(), multicast.as_flattened()];
        self.command(Class::MAC, MacCommand::TABLE_SET.0, &data, &mut [])
    }

    /// Gives the device another address (5.1.9.5.2).
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), ControlError> {
        self.need(F::CTRL_MAC_ADDR)?;
        if is_multicast(&mac) {
            return Err(ControlError::Argument(BadArgument::Multicast(mac)));
        }
        self.command(Class::MAC, MacCommand::ADDR_SET.0, &[&mac], &mut [])
    }

    /// Lets frames of a VLAN pass (5.1.9.5.3). With CTRL_VLAN none passes at first.
    pub fn add_vlan(&mut self, id: u16) -> Result<(), ControlError> {
        self.vlan(VlanCommand::ADD, id)
    }

    /// Lets frames of a VLAN pass no more.
    pub fn remove_vlan(&mut self, id: u16) -> Result<(), ControlError> {
        self.vlan(VlanCommand::DEL, id)
    }

    fn vlan(&mut self, command: VlanCommand, id: u16) -> Result<(), ControlError> {
        self.need(F::CTRL_VLAN)?;
        if id > 4095 {
            return Err(ControlError::Argument(BadArgument::Vlan(id)));
        }
        self.command(Class::VLAN, command.0, &[&id.to_le_bytes()], &mut [])
    }

    /// Tells the device that its wish to be announced was seen (5.1.9.5.4): see
    /// [`Link::announce`](super::Link::announce).
    pub fn acknowledge_announce(&mut self) -> Result<(), ControlError> {
        self.need(F::GUEST_ANNOUNCE)?;
        // First, so that a wish that comes meanwhile is not lost.
        self.link.set_announce(false);
        let done = self.command(Class::ANNOUNCE, AnnounceCommand::ACK.0, &[], &mut []);
        if done.is_err() {
            self.link.set_announce(true);
        }
        done
    }

    /// Has the device use the first `pairs` queue pairs, and steer what it receives by itself (5.1.9.5.6).
    pub fn set_pairs(&mut self, pairs: u16) -> Result<(), ControlError> {
        self.need(F::MQ)?;
        if pairs == 0 || pairs > self.made {
            return Err(ControlError::Argument(BadArgument::Pairs { asked: pairs, have: self.made }));
        }
        let data = QueuePairs { virtqueue_pairs: pairs.into() };
        self.command(Class::MQ, MqCommand::VQ_PAIRS_SET.0, &[data.as_bytes()], &mut [])?;
        self.pairs = pairs;
        Ok(())
    }

    /// Has the device spread what it receives by a hash (5.1.9.5.7), over all queue pairs that were made.
    pub fn set_rss(&mut self, rss: &Rss<'_>) -> Result<(), ControlError> {
        self.need(F::RSS)?;
        let data = rss_data(&self.info, self.made, rss)?;
        self.command(Class::MQ, MqCommand::RSS_CONFIG.0, &[&data], &mut [])?;
        self.pairs = self.made;
        Ok(())
    }

    /// Has the device report hashes of `types` (5.1.9.5.6).
    pub fn set_hash(&mut self, types: HashTypes, key: &[u8]) -> Result<(), ControlError> {
        self.need(F::HASH_REPORT)?;
        let data = hash_data(&self.info, types, key)?;
        self.command(Class::MQ, MqCommand::HASH_CONFIG.0, &[&data], &mut [])
    }

    /// Sets which receive offloads are on (5.1.9.5.9); at first all that were agreed on are.
    pub fn set_guest_offloads(&mut self, offloads: GuestOffloads) -> Result<(), ControlError> {
        self.need(F::CTRL_GUEST_OFFLOADS)?;
        let refused = offloads - self.guest_offloads();
        if !refused.is_empty() {
            return Err(ControlError::Argument(BadArgument::Offloads(refused)));
        }
        let data = U64::new(offloads.bits());
        self.command(Class::GUEST_OFFLOADS, GuestOffloadsCommand::SET.0, &[data.as_bytes()], &mut [])
    }

    /// The receive offloads that were agreed on.
    pub fn guest_offloads(&self) -> GuestOffloads {
        const WITH_FEATURE: GuestOffloads = GuestOffloads::CSUM
            .union(GuestOffloads::TSO4)
            .union(GuestOffloads::TSO6)
            .union(GuestOffloads::ECN)
            .union(GuestOffloads::USO4)
            .union(GuestOffloads::USO6);
        // Their numbers are those of the features.
        GuestOffloads::from_bits_retain(self.features.low()) & WITH_FEATURE
    }

    /// Sets how many frames or how much time may pass before a receive queue notifies (5.1.9.5.10).
    pub fn set_rx_coalescing(&mut self, coalesce: Coalesce) -> Result<(), ControlError> {
        self.need(F::NOTF_COAL)?;
        self.command(Class::NOTF_COAL, CoalesceCommand::RX_SET.0, &[coalesce.as_bytes()], &mut [])
    }

    /// The same for all transmit queues.
    pub fn set_tx_coalescing(&mut self, coalesce: Coalesce) -> Result<(), ControlError> {
        self.need(F::NOTF_COAL)?;
        self.command(Class::NOTF_COAL, CoalesceCommand::TX_SET.0, &[coalesce.as_bytes()], &mut [])
    }

    /// The same for one queue.
    pub fn set_coalescing(&mut self, queue: DataQueue, coal: Coalesce) -> Result<(), ControlError> {
        self.need(F::VQ_NOTF_COAL)?;
        let vq_index = self.index(queue)?.into();
        let data = CoalesceQueue { vq_index, coal, ..CoalesceQueue::default() };
        self.command(Class::NOTF_COAL, CoalesceCommand::VQ_SET.0, &[data.as_bytes()], &mut [])
    }

    /// What is set for one queue.
    pub fn coalescing(&mut self, queue: DataQueue) -> Result<Coalesce, ControlError> {
        self.need(F::VQ_NOTF_COAL)?;
        let asked = [U16::new(self.index(queue)?), U16::ZERO];
        let mut coalesce = Coalesce::default();
        let result = coalesce.as_mut_bytes();
        self.command(Class::NOTF_COAL, CoalesceCommand::VQ_GET.0, &[asked.as_bytes()], result)?;
        Ok(coalesce)
    }

    /// The index of a queue that the device uses.
    fn index(&self, data_queue: DataQueue) -> Result<u16, ControlError> {
        let (pair, index) = match data_queue {
            DataQueue::Rx(pair) => (pair, queue::rx(pair)),
            DataQueue::Tx(pair) => (pair, queue::tx(pair)),
        };
        match u16::try_from(index) {
            Ok(index) if pair < self.pairs => Ok(index),
            _ => Err(ControlError::Argument(BadArgument::Pairs { asked: pair, have: self.pairs })),
        }
    }

    fn need(&self, feature: Features) -> Result<(), ControlError> {
        if self.features.contains(feature) { Ok(()) } else { Err(ControlError::NotNegotiated(feature)) }
    }

    /// Queue pairs that the device uses.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Commands that have not been answered.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight().into()
    }

    /// Gives a command and waits for its answer, and for `result`.
    fn command(
        &mut self,
        class: Class,
        command: u8,
        data: &[&[u8]],
        result: &mut [u8],
    ) -> Result<(), ControlError> {
        self.take_late_answers()?;
        let header = ControlHeader { class: class.0, command };
        let len = ControlHeader::SIZE + data.iter().map(|piece| piece.len()).sum::<usize>();
        let mut question = self.arena.alloc(len).map_err(ControlError::Memory)?;
        let mut answer = self.arena.alloc(1 + result.len()).map_err(ControlError::Memory)?;
        answer.fill(NO_ANSWER);
        let mut at = 0;
        for piece in core::iter::once(&header.as_bytes()).chain(data) {
            // The buffer was allocated with the sum of these lengths.
            let _ = question.write(at, piece);
            at += piece.len();
        }
        let number = self.next;
        self.next += 1;
        self.queue.add_buf(Chain::new(question, answer), number).map_err(|error| match error.kind {
            AddErrorKind::Full => ControlError::Full,
            kind => ControlError::Add(kind),
        })?;
        self.queue.kick()?;
        let deadline = self.clock.now().saturating_add(self.limit);
        loop {
            match self.next_answer()? {
                Some(used) if used.token == number => return read_answer(&used, result),
                // To an earlier command, which was given up.
                Some(_) => {}
                None => {
                    let left = deadline.saturating_sub(self.clock.now());
                    if left.is_zero() {
                        return Err(ControlError::Timeout);
                    }
                    if !self.queue.wait(left)? {
                        self.clock.relax();
                    }
                }
            }
        }
    }

    fn take_late_answers(&mut self) -> Result<(), ControlError> {
        while self.next_answer()?.is_some() {}
        Ok(())
    }

    fn next_answer(&mut self) -> Result<Option<Used<Command, u64>>, ControlError> {
        self.queue.get_buf().map_err(|error| {
            if let Some(quiesced) = self.queue.quiesced() {
                self.queue.shutdown(quiesced).for_each(drop);
                return Error::from(GetError::Stopped).into();
            }
            Error::from(error).into()
        })
    }

    /// Has the device use all queue pairs that were made, by whichever way was agreed on.
    pub(super) fn use_all_pairs(&mut self) -> Result<(), ControlError> {
        if self.features.contains(F::MQ) {
            return self.set_pairs(self.made);
        }
        let (Some(hash), Some(rss)) = (self.info.hash, self.info.rss) else {
            return Err(ControlError::NotNegotiated(F::MQ));
        };
        let entries = self.made.next_power_of_two().max(128).min(1 << rss.max_table_len.ilog2());
        let table: Vec<u16> = (0..entries).map(|entry| entry % self.made).collect();
        let key = &super::DEFAULT_KEY[..usize::from(hash.max_key_len.min(40))];
        let types = HashTypes::IPV4
            | HashTypes::TCPV4
            | HashTypes::UDPV4
            | HashTypes::IPV6
            | HashTypes::TCPV6
            | HashTypes::UDPV6;
        let types = types & hash.types;
        self.set_rss(&Rss { types, table: &table, unclassified: 0, tx_queues: self.made, key })
    }
}

fn is_multicast(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Checks a command's answer and copies what came with it.
fn read_answer(used: &Used<Command, u64>, result: &mut [u8]) -> Result<(), ControlError> {
    let answer = &used.chain.writable;
    // The used length need not cover the answer, so only the byte itself counts.
    match Ack(answer.read_value(0).unwrap_or(NO_ANSWER)) {
        Ack::OK => {}
        Ack::ERR => return Err(ControlError::Refused),
        Ack(other) => return Err(ControlError::BadAnswer(other)),
    }
    // But what comes after it was written only as far as that says.
    if (used.written as usize) < 1 + result.len() && !result.is_empty() {
        return Err(ControlError::ShortAnswer { written: used.written });
    }
    answer.read(1, result).map_err(|_| ControlError::ShortAnswer { written: used.written })
}

impl Drop for ControlQueue {
    fn drop(&mut self) {
        // What the device has let go of need not leak.
        if let Some(quiesced) = self.queue.quiesced() {
            self.queue.shutdown(quiesced).for_each(drop);
        }
    }
}

impl core::fmt::Debug for ControlQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ControlQueue").field("queue", &self.queue).field("pairs", &self.pairs).finish()
    }
}
