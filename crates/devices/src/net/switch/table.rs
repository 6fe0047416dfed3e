//! Which port an address was last seen at.

use super::super::MacAddress;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};
use portable_atomic::AtomicU64;

/// Places in which an address may be kept.
const WAYS: usize = 8;

/// A bounded table that all ports read and write at once, without a lock.
///
/// An entry is one word, address and port, so it is always whole; when it was last seen is a hint beside it. Two
/// ports that learn one address at the same moment may leave two entries; the one that nobody renews ages.
pub(super) struct Table {
    entries: Box<[Entry]>,
    /// Number of groups of places less 1; a power of two of them.
    mask: usize,
    seed: u64,
    /// Ticks after which an entry that was not renewed is forgotten.
    max_age: i32,
    /// Entries of each port, and how many it may have.
    counts: Box<[AtomicU32]>,
    max_of_port: u32,
}

#[derive(Default)]
struct Entry {
    /// 0 if free: no port has that address.
    key: AtomicU64,
    seen: AtomicU32,
}

/// What came of an address that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// It was known, at this port.
    Known,
    /// It is known from now on.
    New,
    /// It was at another port before.
    Moved,
    /// There is no place for it, or the port has its share.
    Full,
}

const PORT_SHIFT: u32 = 48;

fn number(address: MacAddress) -> u64 {
    let [a, b, c, d, e, f] = address;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn port_of(key: u64) -> usize {
    (key >> PORT_SHIFT) as usize
}

impl Table {
    /// For about `addresses`, of which each of `ports` may have `max_of_port`.
    pub(super) fn new(addresses: usize, ports: usize, max_of_port: usize, max_age: i32, seed: u64) -> Self {
        let groups = addresses.div_ceil(WAYS).next_power_of_two();
        Self {
            entries: (0..groups * WAYS).map(|_| Entry::default()).collect(),
            mask: groups - 1,
            seed,
            max_age,
            counts: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            max_of_port: max_of_port.try_into().unwrap_or(u32::MAX),
        }
    }

    fn group(&self, address: u64) -> &[Entry] {
        let mixed = (address ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let group = (mixed >> 32) as usize & self.mask;
        &self.entries[group * WAYS..(group + 1) * WAYS]
    }

    fn is_old(&self, entry: &Entry, now: u32) -> bool {
        // Somebody else's clock may be a little ahead.
        let age = now.wrapping_sub(entry.seen.load(Ordering::Relaxed)).cast_signed();
        age > self.max_age
    }

    /// The port at which an address was last seen, if that is not too long ago.
    pub(super) fn find(&self, address: MacAddress, now: u32) -> Option<usize> {
        let address = number(address);
        self.group(address).iter().find_map(|entry| {
            let key = entry.key.load(Ordering::Relaxed);
            let hit = key != 0 && key << 16 >> 16 == address && !self.is_old(entry, now);
            hit.then(|| port_of(key))
        })
    }

    /// An address was seen at a port.
    pub(super) fn learn(&self, address: MacAddress, port: usize, now: u32) -> Learned {
        let address = number(address);
        let key = address | (port as u64) << PORT_SHIFT;
        let group = self.group(address);
        let mut place = None;
        for entry in group {
            let old = entry.key.load(Ordering::Relaxed);
            if old == key {
                if entry.seen.load(Ordering::Relaxed) != now {
                    entry.seen.store(now, Ordering::Relaxed);
                }
                return Learned::Known;
            }
            if old != 0 && old << 16 >> 16 == address {
                return self.put(entry, old, key, now, Learned::Moved);
            }
            if place.is_none() && (old == 0 || self.is_old(entry, now)) {
                place = Some((entry, old));
            }
        }
        match place {
            Some((entry, old)) => self.put(entry, old, key, now, Learned::New),
            None => Learned::Full,
        }
    }

    /// Puts an entry in the place of another one; somebody who was faster stays.
    fn put(&self, entry: &Entry, old: u64, key: u64, now: u32, learned: Learned) -> Learned {
        let more = |count| (count < self.max_of_port).then_some(count + 1);
        let Some(count) = self.counts.get(port_of(key)) else { return Learned::Full };
        if count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Learned::Full;
        }
        let seen = entry.seen.swap(now, Ordering::Relaxed);
        if entry.key.compare_exchange(old, key, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            entry.seen.store(seen, Ordering::Relaxed);
            self.forgotten(key);
            return Learned::Full;
        }
        self.forgotten(old);
        learned
    }

    /// An entry is no longer there.
    fn forgotten(&self, key: u64) {
        if key != 0
            && let Some(count) = self.counts.get(port_of(key))
        {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets every address at a port.
    pub(super) fn forget_port(&self, port: usize) {
        for entry in &self.entries {
            let key = entry.key.load(Ordering::Relaxed);
            if key != 0
                && port_of(key) == port
                && entry.key.compare_exchange(key, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                self.forgotten(key);
            }
        }
    }

    /// Addresses in the table, old ones too.
    pub(super) fn len(&self) -> usize {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed) as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> MacAddress {
        let [a, b, c, d] = n.to_be_bytes();
        [2, 0, a, b, c, d]
    }

    #[test]
    fn addresses_are_found_at_the_port_where_they_were_seen_last() {
        let table = Table::new(64, 4, 64, 10, 1);
        assert_eq!(table.find(address(1), 0), None);
        assert_eq!(table.learn(address(1), 2, 0), Learned::New);
        assert_eq!(table.learn(address(1), 2, 3), Learned::Known);
        assert_eq!(table.find(address(1), 3), Some(2));
        assert_eq!(table.learn(address(1), 0, 4), Learned::Moved);
        assert_eq!((table.find(address(1), 4), table.len()), (Some(0), 1));
        table.forget_port(0);
        assert_eq!((table.find(address(1), 4), table.len()), (None, 0));
    }

    #[test]
    fn an_address_that_is_not_renewed_ages_also_round_the_end_of_time() {
        for start in [0u32, u32::MAX - 3] {
            let table = Table::new(8, 1, 8, 10, 1);
            table.learn(address(1), 0, start);
            assert_eq!(table.find(address(1), start.wrapping_add(10)), Some(0));
            assert_eq!(table.find(address(1), start.wrapping_add(11)), None);
        }
    }

    #[test]
    fn a_full_group_takes_nobody_until_one_of_it_is_old() {
        let table = Table::new(WAYS, 2, 100, 10, 7);
        for n in 0..WAYS as u32 {
            assert_eq!(table.learn(address(n), 0, n), Learned::New);
        }
        assert_eq!(table.learn(address(99), 1, 9), Learned::Full);
        assert_eq!(table.learn(address(99), 1, 11), Learned::New);
        assert_eq!((table.find(address(99), 11), table.find(address(0), 11)), (Some(1), None));
        assert_eq!(table.len(), WAYS);
    }

    #[test]
    fn one_port_cannot_fill_the_table() {
        let table = Table::new(1024, 2, 16, 1000, 7);
        let learned = |port| (0..500).filter(|&n| table.learn(address(n), port, 0) == Learned::New).count();
        assert_eq!(learned(0), 16);
        let more = (1000..1016).filter(|&n| table.learn(address(n), 1, 0) == Learned::New).count();
        assert_eq!(more, 16);
    }
}
