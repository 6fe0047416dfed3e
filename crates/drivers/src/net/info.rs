//! What a device says of itself, decoded (5.1.4).

use super::{ETHERNET_HEADER, Mac, VLAN_TAG};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;
use virtio_kit::Features;
use virtio_kit::bus::ProbeError;
use virtio_kit::spec::net::{
    Config, Duplex, F, HashTypes, LinkStatus, MAX_QUEUE_PAIRS, MIN_MTU, MIN_QUEUE_PAIRS,
};

/// The fields of the configuration, and the features of which one gives each a meaning.
const FIELDS: [(Range<usize>, Features); 9] = [
    (0..6, F::MAC),
    (offset_of!(Config, status)..8, F::STATUS),
    (offset_of!(Config, max_virtqueue_pairs)..10, F::MQ.union(F::RSS)),
    (offset_of!(Config, mtu)..12, F::MTU),
    (offset_of!(Config, speed)..16, F::SPEED_DUPLEX),
    (offset_of!(Config, duplex)..17, F::SPEED_DUPLEX),
    (offset_of!(Config, rss_max_key_size)..18, F::RSS.union(F::HASH_REPORT)),
    (offset_of!(Config, rss_max_indirection_table_length)..20, F::RSS),
    (offset_of!(Config, supported_hash_types)..24, F::RSS.union(F::HASH_REPORT)),
];

/// The fields that mean something. Only these are there for sure, and are read, each for itself.
pub(super) fn fields(features: Features) -> Vec<Range<usize>> {
    let told = FIELDS.iter().filter(|(_, by)| features.intersects(*by)).map(|(field, _)| field.clone());
    // An address has no wider parts than its bytes.
    told.flat_map(|field| if field.start == 0 { (0..6).map(|at| at..at + 1).collect() } else { vec![field] })
        .collect()
}

/// A network device's properties, as they were when it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its address (MAC); `None` if its user has to choose one, locally administered.
    pub mac: Option<Mac>,
    /// Largest packet in bytes without the Ethernet header (MTU).
    pub mtu: Option<u16>,
    /// Queue pairs that it has (MQ, RSS).
    pub pairs: u16,
    /// Bounds of hashing (HASH_REPORT, RSS).
    pub hash: Option<HashLimits>,
    /// Bounds of receive-side scaling (RSS).
    pub rss: Option<RssLimits>,
}

/// What hashing is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashLimits {
    /// Longest key in bytes.
    pub max_key_len: u8,
    /// What can be hashed.
    pub types: HashTypes,
}

/// What receive-side scaling is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssLimits {
    /// Most entries of the indirection table.
    pub max_table_len: u16,
}

impl Info {
    /// What the configuration says, as far as features make it mean something; or why it cannot be.
    pub(super) fn new(config: &Config, features: Features) -> Result<Self, ProbeError> {
        let has = |feature| features.intersects(feature);
        let mac = has(F::MAC).then_some(config.mac);
        if mac.is_some_and(|mac| mac[0] & 1 != 0) {
            return Err(ProbeError::BadConfig("the device's address is a multicast address"));
        }
        let mtu = has(F::MTU).then_some(config.mtu.get());
        if mtu.is_some_and(|mtu| mtu < MIN_MTU) {
            return Err(ProbeError::BadConfig("the MTU is less than 68"));
        }
        let pairs = if has(F::MQ | F::RSS) { config.max_virtqueue_pairs.get() } else { 1 };
        if !(MIN_QUEUE_PAIRS..=MAX_QUEUE_PAIRS).contains(&pairs) {
            return Err(ProbeError::BadConfig("the number of queue pairs is not 1 to 32768"));
        }
        let hash = has(F::HASH_REPORT | F::RSS).then(|| HashLimits {
            max_key_len: config.rss_max_key_size,
            types: HashTypes::from_bits_retain(config.supported_hash_types.get()),
        });
        let rss =
            has(F::RSS).then(|| RssLimits { max_table_len: config.rss_max_indirection_table_length.get() });
        if rss.is_some_and(|rss| rss.max_table_len == 0) {
            return Err(ProbeError::BadConfig("an indirection table of no entries"));
        }
        Ok(Self { mac, mtu, pairs, hash, rss })
    }

    /// Bytes of the longest frame that is not coalesced, with a VLAN tag.
    pub(super) fn longest(&self) -> usize {
        usize::from(self.mtu.unwrap_or(1500)) + ETHERNET_HEADER + VLAN_TAG
    }
}

/// What of the configuration changes while the device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) up: bool,
    pub(super) announce: bool,
    pub(super) speed: Option<u32>,
    pub(super) duplex: Option<Duplex>,
}

impl State {
    pub(super) fn new(config: &Config, features: Features) -> Self {
        let status = LinkStatus::from_bits_retain(config.status.get());
        let has_status = features.contains(F::STATUS);
        let (speed, duplex) = (config.speed.get(), Duplex(config.duplex));
        let told = features.contains(F::SPEED_DUPLEX);
        Self {
            // Without the field the link is taken to be up (5.1.4.2).
            up: !has_status || status.contains(LinkStatus::LINK_UP),
            announce: has_status
                && features.contains(F::GUEST_ANNOUNCE)
                && status.contains(LinkStatus::ANNOUNCE),
            speed: Some(speed).filter(|&speed| told && speed <= 0x7fff_ffff),
            duplex: Some(duplex).filter(|&d| told && (d == Duplex::HALF || d == Duplex::FULL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: Features = F::MAC
        .union(F::STATUS)
        .union(F::MQ)
        .union(F::RSS)
        .union(F::HASH_REPORT)
        .union(F::MTU)
        .union(F::SPEED_DUPLEX);

    #[test]
    fn fields_are_read_by_their_width_and_only_if_they_mean_something() {
        assert_eq!(fields(Features::EMPTY), []);
        assert_eq!(fields(F::MAC | F::MTU), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6, 10..12]);
        assert_eq!(fields(F::SPEED_DUPLEX), [12..16, 16..17]);
        assert_eq!(fields(F::HASH_REPORT), [17..18, 20..24]);
        let ends: Vec<_> = FIELDS.iter().map(|(field, _)| field.end).collect();
        let starts: Vec<_> = FIELDS.iter().map(|(field, _)| field.start).collect();
        assert_eq!(starts[1..], ends[..8]);
        assert_eq!(fields(CONFIGURED).len(), 14);
    }

    fn config() -> Config {
        Config {
            mac: [2, 0, 0, 0, 0, 1],
            status: LinkStatus::all().bits().into(),
            max_virtqueue_pairs: 4.into(),
            mtu: 1500.into(),
            speed: 10_000.into(),
            duplex: Duplex::FULL.0,
            rss_max_key_size: 40,
            rss_max_indirection_table_length: 128.into(),
            supported_hash_types: 7.into(),
            ..Config::default()
        }
    }

    #[test]
    fn fields_without_their_feature_mean_nothing() {
        let nonsense = Config { mac: [0xff; 6], ..Config::default() };
        let info = Info::new(&nonsense, Features::EMPTY).unwrap();
        assert_eq!(info, Info { mac: None, mtu: None, pairs: 1, hash: None, rss: None });
        let state = State::new(&nonsense, Features::EMPTY);
        assert_eq!(state, State { up: true, announce: false, speed: None, duplex: None });
    }

    #[test]
    fn configurations_that_cannot_be_are_refused() {
        let all = CONFIGURED;
        assert!(Info::new(&config(), all).is_ok());
        let bad = [
            Config { mac: [1, 0, 0, 0, 0, 0], ..config() },
            Config { mtu: 0.into(), ..config() },
            Config { mtu: 67.into(), ..config() },
            Config { max_virtqueue_pairs: 0.into(), ..config() },
            Config { max_virtqueue_pairs: 0x8001.into(), ..config() },
            Config { rss_max_indirection_table_length: 0.into(), ..config() },
        ];
        for config in bad {
            assert!(matches!(Info::new(&config, all), Err(ProbeError::BadConfig(_))), "{config:?}");
        }
    }

    // devicenormative:Device Types / Network Device / Device configuration layout is the other side's.
    #[test]
    fn nonsense_of_link_speed_and_duplex_is_unknown() {
        let features = CONFIGURED | F::GUEST_ANNOUNCE;
        let state = State::new(&config(), features);
        assert_eq!(
            state,
            State { up: true, announce: true, speed: Some(10_000), duplex: Some(Duplex::FULL) }
        );
        let odd = Config { speed: 0x8000_0000.into(), duplex: 2, status: 0xfffc.into(), ..config() };
        let state = State::new(&odd, features);
        assert_eq!(state, State { up: false, announce: false, speed: None, duplex: None });
        let most = Config { speed: 0x7fff_ffff.into(), duplex: 0, ..config() };
        assert_eq!(State::new(&most, features).speed, Some(0x7fff_ffff));
        assert_eq!(State::new(&most, features).duplex, Some(Duplex::HALF));
    }
}
