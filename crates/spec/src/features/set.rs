//! The set type.

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not, Sub, SubAssign};

/// A set of feature bits 0 to 127 (2.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Features(u128);

impl Features {
    /// No bit.
    pub const EMPTY: Self = Self(0);
    /// Number of 32-bit words that the transports' select registers reach.
    pub const WORDS: u32 = 4;

    /// The set of the single bit `n`, 0 to 127.
    ///
    /// # Panics
    ///
    /// `n` above 127.
    pub const fn bit(n: u32) -> Self {
        assert!(n < 128, "feature bits are 0 to 127");
        Self(1 << n)
    }

    /// From all 128 bits.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// All 128 bits.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// From bits 0 to 63, as vhost-user and vDPA carry them.
    pub const fn from_low(bits: u64) -> Self {
        Self(bits as u128)
    }

    /// Bits 0 to 63.
    pub const fn low(self) -> u64 {
        self.0 as u64
    }

    /// Bits `32 * n` to `32 * n + 31`; zero for `n` above 3 (4.1.4.3, 4.2.2).
    pub const fn word(self, n: u32) -> u32 {
        if n < Self::WORDS { (self.0 >> (32 * n)) as u32 } else { 0 }
    }

    /// This set with bits `32 * n` to `32 * n + 31` replaced; unchanged for `n` above 3.
    #[must_use]
    pub const fn with_word(self, n: u32, word: u32) -> Self {
        if n < Self::WORDS {
            let shift = 32 * n;
            Self(self.0 & !((u32::MAX as u128) << shift) | (word as u128) << shift)
        } else {
            self
        }
    }

    /// Whether every bit of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether at least one bit of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is no bit in this set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of bits in this set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Bits in either set; also `|`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bits in both sets; also `&`.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Bits in this set that are not in `other`; also `-`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The number of the lowest bit in this set.
    pub const fn lowest(self) -> Option<u32> {
        if self.is_empty() { None } else { Some(self.0.trailing_zeros()) }
    }

    /// The bits one by one, lowest first, each as a set.
    pub const fn iter(self) -> Iter {
        Iter(self)
    }

    /// The bit numbers, lowest first.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        self.iter().filter_map(Self::lowest)
    }
}

/// The bits of a set one by one, lowest first.
#[derive(Clone, Debug)]
pub struct Iter(Features);

impl Iterator for Iter {
    type Item = Features;

    fn next(&mut self) -> Option<Features> {
        let bit = Features::bit(self.0.lowest()?);
        self.0 -= bit;
        Some(bit)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.0.len() as usize;
        (len, Some(len))
    }
}

impl ExactSizeIterator for Iter {}

impl IntoIterator for Features {
    type Item = Self;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl FromIterator<Self> for Features {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        sets.into_iter().fold(Self::EMPTY, Self::union)
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitAnd for Features {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        self.intersection(other)
    }
}

impl Sub for Features {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.difference(other)
    }
}

impl Not for Features {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl BitOrAssign for Features {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl BitAndAssign for Features {
    fn bitand_assign(&mut self, other: Self) {
        *self = *self & other;
    }
}

impl SubAssign for Features {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#x})", self.0)
    }
}

impl fmt::LowerHex for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{format, vec, vec::Vec};

    #[test]
    fn words_cover_all_128_bits() {
        for n in 0..128 {
            let set = Features::bit(n);
            for w in 0..6 {
                assert_eq!(set.word(w), if w == n / 32 { 1 << (n % 32) } else { 0 });
            }
            let back = (0..4).fold(Features::EMPTY, |acc, w| acc.with_word(w, set.word(w)));
            assert_eq!(back, set);
        }
    }

    #[test]
    fn a_word_replaces_only_its_own_bits() {
        let all = !Features::EMPTY;
        assert_eq!(all.with_word(2, 0x5).bits(), !(0xffff_fffa << 64));
        assert_eq!(all.with_word(4, 0), all);
    }

    #[test]
    fn low_half_and_operators() {
        let set = Features::from_low(0b1010) | Features::bit(70);
        assert_eq!(set.low(), 0b1010);
        assert_eq!(set - Features::bit(70), Features::from_bits(0b1010));
        assert_eq!(set & Features::from_low(u64::MAX), Features::from_bits(0b1010));
        assert!(set.contains(Features::bit(3)) && !set.contains(Features::from_low(0b11)));
        assert!(set.intersects(Features::from_low(0b11)) && !set.intersects(Features::bit(71)));
        assert!(set.contains(Features::EMPTY) && Features::EMPTY.is_empty() && !set.is_empty());
    }

    #[test]
    fn iterates_lowest_first_and_collects_back() {
        let set = Features::from_bits(1 | 1 << 63 | 1 << 127);
        assert_eq!(set.numbers().collect::<Vec<_>>(), vec![0, 63, 127]);
        assert_eq!(set.iter().len(), 3);
        assert_eq!(set.iter().collect::<Features>(), set);
    }

    #[test]
    fn prints_as_hex() {
        assert_eq!(format!("{:x}", Features::bit(64)), "10000000000000000");
        assert_eq!(format!("{:?}", Features::bit(5)), "Features(0x20)");
    }
}
