//! Receive-side scaling (5.1.9.5.7) and hash calculation (5.1.9.5.6).

use super::error::{BadArgument, ControlError};
use super::info::{HashLimits, Info, RssLimits};
use alloc::vec::Vec;
use virtio_kit::spec::net::{F, HashConfig, HashTypes, RssConfig, RssConfigTail, RssQueue};
use zerocopy::IntoBytes;

/// A key that hashes both directions of a flow alike.
pub const DEFAULT_KEY: [u8; 40] = {
    let mut key = [0; 40];
    let mut at = 0;
    while at < 40 {
        (key[at], key[at + 1]) = (0x6d, 0x5a);
        at += 2;
    }
    key
};

/// How received frames are spread over the queue pairs.
#[derive(Clone, Copy, Debug)]
pub struct Rss<'a> {
    /// What is hashed.
    pub types: HashTypes,
    /// Pairs by the low bits of the hash; as many as a power of two.
    pub table: &'a [u16],
    /// The pair for frames that are not hashed.
    pub unclassified: u16,
    /// Transmit queues that will be used, from the first on.
    pub tx_queues: u16,
    /// The hash's key.
    pub key: &'a [u8],
}

fn check_hash(limits: HashLimits, types: HashTypes, key: &[u8]) -> Result<u8, ControlError> {
    let unknown = types - limits.types;
    if !unknown.is_empty() {
        return Err(ControlError::Argument(BadArgument::HashTypes(unknown)));
    }
    match u8::try_from(key.len()) {
        Ok(len) if len <= limits.max_key_len => Ok(len),
        _ => Err(ControlError::Argument(BadArgument::Key { len: key.len(), most: limits.max_key_len })),
    }
}

/// The data of RSS_CONFIG for a device whose first `pairs` pairs are used.
pub(super) fn rss_data(info: &Info, pairs: u16, rss: &Rss<'_>) -> Result<Vec<u8>, ControlError> {
    let (Some(hash), Some(RssLimits { max_table_len })) = (info.hash, info.rss) else {
        return Err(ControlError::NotNegotiated(F::RSS));
    };
    let hash_key_length = check_hash(hash, rss.types, rss.key)?;
    let len = rss.table.len();
    if !len.is_power_of_two() || len > usize::from(max_table_len) {
        return Err(ControlError::Argument(BadArgument::Table { len, most: max_table_len }));
    }
    let used = rss.table.iter().chain([&rss.unclassified]).copied().max().unwrap_or(0);
    if used >= pairs {
        return Err(ControlError::Argument(BadArgument::Pairs { asked: used, have: pairs }));
    }
    if rss.tx_queues == 0 || rss.tx_queues > pairs {
        return Err(ControlError::Argument(BadArgument::Pairs { asked: rss.tx_queues, have: pairs }));
    }
    let queue = |pair: u16| RssQueue { vq_index_1_16: pair.into() };
    let start = RssConfig {
        hash_types: rss.types.bits().into(),
        indirection_table_mask: (len as u16 - 1).into(),
        unclassified_queue: queue(rss.unclassified),
    };
    let tail = RssConfigTail { max_tx_vq: rss.tx_queues.into(), hash_key_length };
    let mut data = start.as_bytes().to_vec();
    rss.table.iter().for_each(|&pair| data.extend_from_slice(queue(pair).as_bytes()));
    data.extend_from_slice(tail.as_bytes());
    data.extend_from_slice(rss.key);
    Ok(data)
}

/// The data of HASH_CONFIG.
pub(super) fn hash_data(info: &Info, types: HashTypes, key: &[u8]) -> Result<Vec<u8>, ControlError> {
    let limits = info.hash.ok_or(ControlError::NotNegotiated(F::HASH_REPORT))?;
    let hash_key_length = check_hash(limits, types, key)?;
    let config = HashConfig { hash_types: types.bits().into(), hash_key_length, ..HashConfig::default() };
    let mut data = config.as_bytes().to_vec();
    data.extend_from_slice(key);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        let types = HashTypes::IPV4 | HashTypes::TCPV4;
        let hash = Some(HashLimits { max_key_len: 40, types });
        Info { mac: None, mtu: None, pairs: 4, hash, rss: Some(RssLimits { max_table_len: 128 }) }
    }

    fn rss() -> Rss<'static> {
        Rss { types: HashTypes::TCPV4, table: &[0, 1, 1, 0], unclassified: 1, tx_queues: 2, key: &[9, 8] }
    }

    #[test]
    fn the_bytes_of_a_configuration_are_those_of_the_document() {
        let data = rss_data(&info(), 2, &rss()).unwrap();
        let expected = [2, 0, 0, 0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 2, 9, 8];
        assert_eq!(data, expected);
        let data = hash_data(&info(), HashTypes::IPV4, &[7]).unwrap();
        assert_eq!(data, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7]);
    }

    // drivernormative:Device Types / Network Device / Device Operation / Control Virtqueue / Receive-side scaling (RSS)
    #[test]
    fn what_the_device_does_not_take_is_refused_here() {
        let long = [0; 256];
        let bad = [
            Rss { types: HashTypes::IPV6, ..rss() },
            Rss { table: &[], ..rss() },
            Rss { table: &[0, 0, 0], ..rss() },
            Rss { table: &long, ..rss() },
            Rss { table: &[2], ..rss() },
            Rss { unclassified: 2, ..rss() },
            Rss { tx_queues: 0, ..rss() },
            Rss { tx_queues: 3, ..rss() },
            Rss { key: &[0; 41], ..rss() },
            Rss { key: &[0; 300], ..rss() },
        ];
        for rss in bad {
            assert!(matches!(rss_data(&info(), 2, &rss), Err(ControlError::Argument(_))), "{rss:?}");
        }
        let without = Info { rss: None, hash: None, ..info() };
        assert_eq!(rss_data(&without, 2, &rss()), Err(ControlError::NotNegotiated(F::RSS)));
        assert_eq!(
            hash_data(&without, HashTypes::IPV4, &[]),
            Err(ControlError::NotNegotiated(F::HASH_REPORT))
        );
    }
}
