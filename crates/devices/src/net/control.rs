//! The control queue (5.1.9.5).

use super::MacAddress;
use super::filter::{Addresses, MAX_ADDRESSES};
use super::hash::{self, Hashing};
use super::settings::{OFFLOADS, Settings, Table};
use super::shared::Shared;
use alloc::sync::Arc;
use alloc::vec::Vec;
use virtio_kit::Features;
use virtio_kit::device::{Chain, DeviceError, OutOfBounds, Service, Submitted};
use virtio_kit::spec::net::{
    Ack, AnnounceCommand, Class, ControlHeader, F, GuestOffloads, GuestOffloadsCommand, HashConfig,
    HashTypes, MIN_RSS_TABLE_LENGTH, MacCommand, MqCommand, QueuePairs, RssConfig, RssConfigTail, RxCommand,
    VlanCommand,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Most addresses that one list of a command names.
const MOST_NAMED: usize = 4096;

/// How often is looked for receive queues to end their run, when the control queue stops.
const LOOKS: u32 = 1 << 20;

/// The control queue's service.
pub(super) struct ControlService {
    shared: Arc<Shared>,
    features: Features,
    /// A command that is done, once no receive queue goes by what was set before.
    done: Option<Chain>,
    /// It was waited for long enough.
    waited: bool,
}

/// The command is not one of ours, or its data make no sense.
struct Refused;

impl From<OutOfBounds> for Refused {
    fn from(_: OutOfBounds) -> Self {
        Self
    }
}

/// A command's data, read piece by piece.
struct Data<'c> {
    chain: &'c mut Chain,
}

impl Data<'_> {
    fn value<V: FromBytes + IntoBytes>(&mut self) -> Result<V, Refused> {
        Ok(self.chain.read_value()?)
    }

    fn flag(&mut self) -> Result<bool, Refused> {
        match self.value::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Refused),
        }
    }

    /// Addresses with their number before them. If they are too many to keep, all.
    fn addresses(&mut self) -> Result<Addresses, Refused> {
        let count = self.value::<U32>()?.get() as usize;
        if count > MOST_NAMED || count > self.chain.readable_left() / size_of::<MacAddress>() {
            return Err(Refused);
        }
        let mut list: Vec<MacAddress> = (0..count).map(|_| self.value()).collect::<Result<_, _>>()?;
        let all = count > MAX_ADDRESSES;
        if all {
            list.clear();
        }
        Ok(Addresses { list, all })
    }

    /// A key of `len` bytes, filled up with zeros.
    fn key(&mut self, len: u8) -> Result<[u8; hash::KEY], Refused> {
        let mut key = [0; hash::KEY];
        self.chain.read(key.get_mut(..usize::from(len)).ok_or(Refused)?)?;
        Ok(key)
    }
}

impl ControlService {
    pub(super) fn new(shared: Arc<Shared>, features: Features) -> Self {
        Self { shared, features, done: None, waited: false }
    }

    fn has(&self, feature: Features) -> Result<(), Refused> {
        if self.features.contains(feature) { Ok(()) } else { Err(Refused) }
    }

    fn command(&self, chain: &mut Chain) -> Result<(), Refused> {
        let header: ControlHeader = chain.read_value()?;
        let mut data = Data { chain };
        match Class(header.class) {
            Class::RX => self.receive_mode(RxCommand(header.command), &mut data),
            Class::MAC => self.mac(MacCommand(header.command), &mut data),
            Class::VLAN => self.vlan(VlanCommand(header.command), &mut data),
            Class::ANNOUNCE => {
                self.has(F::GUEST_ANNOUNCE)?;
                if AnnounceCommand(header.command) != AnnounceCommand::ACK {
                    return Err(Refused);
                }
                self.shared.announced();
                Ok(())
            }
            Class::MQ => self.queues(MqCommand(header.command), &mut data),
            Class::GUEST_OFFLOADS => self.offloads(GuestOffloadsCommand(header.command), &mut data),
            _ => Err(Refused),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<(), Refused> {
        self.shared.settings.change(|settings| {
            let mut settings = settings.clone();
            change(&mut settings);
            (settings, Ok(()))
        })
    }

    fn receive_mode(&self, command: RxCommand, data: &mut Data<'_>) -> Result<(), Refused> {
        let basic = command == RxCommand::PROMISC || command == RxCommand::ALLMULTI;
        self.has(if basic { F::CTRL_RX } else { F::CTRL_RX_EXTRA })?;
        let on = data.flag()?;
        if command.0 > RxCommand::NOBCAST.0 {
            return Err(Refused);
        }
        self.change(|settings| {
            let filter = &mut settings.filter;
            *match command {
                RxCommand::PROMISC => &mut filter.promiscuous,
                RxCommand::ALLMULTI => &mut filter.all_multicast,
                RxCommand::ALLUNI => &mut filter.all_unicast,
                RxCommand::NOMULTI => &mut filter.no_multicast,
                RxCommand::NOUNI => &mut filter.no_unicast,
                _ => &mut filter.no_broadcast,
            } = on;
        })
    }

    fn mac(&self, command: MacCommand, data: &mut Data<'_>) -> Result<(), Refused> {
        match command {
            MacCommand::TABLE_SET => {
                self.has(F::CTRL_RX)?;
                let (unicast, multicast) = (data.addresses()?, data.addresses()?);
                self.change(|settings| {
                    (settings.filter.unicast, settings.filter.multicast) = (unicast, multicast);
                })
            }
            MacCommand::ADDR_SET => {
                self.has(F::CTRL_MAC_ADDR)?;
                let mac: MacAddress = data.value()?;
                if mac[0] & 1 != 0 || mac == [0; 6] {
                    return Err(Refused);
                }
                self.change(|settings| settings.filter.mac = mac)
            }
            _ => Err(Refused),
        }
    }

    fn vlan(&self, command: VlanCommand, data: &mut Data<'_>) -> Result<(), Refused> {
        self.has(F::CTRL_VLAN)?;
        let id = data.value::<U16>()?.get();
        let pass = match command {
            VlanCommand::ADD => true,
            VlanCommand::DEL => false,
            _ => return Err(Refused),
        };
        if id >= 4096 {
            return Err(Refused);
        }
        self.change(|settings| settings.filter.set_vlan(id, pass))
    }

    fn offloads(&self, command: GuestOffloadsCommand, data: &mut Data<'_>) -> Result<(), Refused> {
        self.has(F::CTRL_GUEST_OFFLOADS)?;
        let wanted = GuestOffloads::from_bits_retain(data.value::<U64>()?.get());
        let mut allowed = GuestOffloads::empty();
        for (offload, feature) in OFFLOADS {
            if self.features.contains(feature) {
                allowed |= offload;
            }
        }
        if command != GuestOffloadsCommand::SET || !allowed.contains(wanted) {
            return Err(Refused);
        }
        self.change(|settings| settings.offloads = wanted)
    }

    fn queues(&self, command: MqCommand, data: &mut Data<'_>) -> Result<(), Refused> {
        match command {
            MqCommand::VQ_PAIRS_SET => {
                self.has(F::MQ)?;
                let pairs = data.value::<QueuePairs>()?.virtqueue_pairs.get();
                if pairs == 0 || pairs > self.shared.pairs() {
                    return Err(Refused);
                }
                self.change(|settings| {
                    (settings.spread.pairs, settings.spread.table) = (pairs, None);
                })
            }
            MqCommand::RSS_CONFIG => {
                self.has(F::RSS)?;
                self.scaling(data)
            }
            MqCommand::HASH_CONFIG => {
                self.has(F::HASH_REPORT)?;
                let config: HashConfig = data.value()?;
                let types = self.types(config.hash_types)?;
                let key = data.key(config.hash_key_length)?;
                self.change(|settings| {
                    settings.spread.table = None;
                    settings.spread.hashing = Some(Hashing { types, key });
                })
            }
            _ => Err(Refused),
        }
    }

    fn types(&self, types: U32) -> Result<HashTypes, Refused> {
        let types = HashTypes::from_bits_retain(types.get());
        if hash::SUPPORTED.contains(types) { Ok(types) } else { Err(Refused) }
    }

    /// Receive-side scaling (5.1.9.5.7).
    fn scaling(&self, data: &mut Data<'_>) -> Result<(), Refused> {
        let pairs = self.shared.pairs();
        // The highest of the 16 bits is reserved.
        let pair = |queue: u16| Some(queue & 0x7fff).filter(|&pair| pair < pairs).ok_or(Refused);
        let config: RssConfig = data.value()?;
        let types = self.types(config.hash_types)?;
        let unclassified = pair(config.unclassified_queue.vq_index_1_16.get())?;
        let entries = usize::from(config.indirection_table_mask.get()) + 1;
        if !entries.is_power_of_two() || entries > usize::from(MIN_RSS_TABLE_LENGTH) {
            return Err(Refused);
        }
        let entries = (0..entries).map(|_| pair(data.value::<U16>()?.get())).collect::<Result<_, _>>()?;
        let tail: RssConfigTail = data.value()?;
        let senders = tail.max_tx_vq.get();
        if senders == 0 || senders > pairs {
            return Err(Refused);
        }
        let key = data.key(tail.hash_key_length)?;
        self.change(|settings| {
            settings.spread.pairs = pairs;
            settings.spread.table = Some(Table { entries, unclassified });
            settings.spread.hashing = Some(Hashing { types, key });
        })
    }
}

/// Writes how a command ended. A chain without a byte for it gets none.
fn answer(mut chain: Chain, ack: Ack) -> Chain {
    // Whether it took the byte shows in its length.
    let _: Result<(), OutOfBounds> = chain.write(&[ack.0]);
    chain
}

impl Service for ControlService {
    fn submit(&mut self, mut chain: Chain) -> Submitted {
        match self.command(&mut chain) {
            Ok(()) if self.shared.is_any_busy() => {
                self.done = Some(chain);
                self.waited = false;
                Submitted::Pending
            }
            Ok(()) => Submitted::Done(answer(chain, Ack::OK)),
            Err(Refused) => Submitted::Done(answer(chain, Ack::ERR)),
        }
    }

    fn poll(&mut self) -> Option<Chain> {
        if self.done.is_none() || (self.shared.is_any_busy() && !self.waited) {
            return None;
        }
        self.done.take().map(|chain| answer(chain, Ack::OK))
    }

    fn pending(&self) -> usize {
        usize::from(self.done.is_some())
    }

    /// The receive queues wake this one.
    fn waiting(&self) -> usize {
        self.pending()
    }

    /// One command after the other.
    fn capacity(&self) -> usize {
        1
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        for _ in 0..LOOKS {
            if !self.shared.is_any_busy() {
                break;
            }
            core::hint::spin_loop();
        }
        self.waited = true;
        Ok(())
    }
}
