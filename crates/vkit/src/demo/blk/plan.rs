//! How an image is cut into requests.

use super::super::content::{BLOCK, random};

/// The longest request.
const LONGEST: u64 = 256 << 10;

/// A request's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) len: u64,
    /// In how many buffers, if the device takes as many.
    pub(super) pieces: usize,
}

/// Cuts `size` bytes into requests of 4 KiB to 256 KiB, in random order, each byte in exactly one.
pub(super) fn cut(size: u64, longest: u64, seed: u64) -> Vec<Extent> {
    let longest = longest.min(LONGEST) / BLOCK * BLOCK;
    let longest = longest.max(BLOCK);
    let mut state = seed;
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        // Runs of one length, so that short requests are frequent and long ones carry most bytes.
        let len = (BLOCK << (random(&mut state) % 7)).min(longest);
        let end = (at + LONGEST).min(size);
        while at < end {
            let now = len.min(end - at);
            extents.push(Extent { at, len: now, pieces: 1 + (random(&mut state) % 4) as usize });
            at += now;
        }
    }
    for last in (1..extents.len()).rev() {
        let other = (random(&mut state) % (last as u64 + 1)) as usize;
        extents.swap(last, other);
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_exactly_one_request() {
        for size in [512, 4096, 5120, 1 << 20, (3 << 20) + 512] {
            let mut extents = cut(size, 1 << 20, 1);
            extents.sort_by_key(|extent| extent.at);
            let mut end = 0;
            for extent in extents {
                assert_eq!(extent.at, end);
                assert!(extent.len > 0 && extent.len <= LONGEST);
                end += extent.len;
            }
            assert_eq!(end, size);
        }
        assert!(cut(1 << 20, 5000, 1).iter().all(|extent| extent.len <= 4096));
    }

    #[test]
    fn the_order_is_random_and_lengths_are_mixed() {
        let extents = cut(64 << 20, 1 << 20, 3);
        let ups = extents.windows(2).filter(|w| w[0].at < w[1].at).count();
        assert!((extents.len() * 2 / 5..extents.len() * 3 / 5).contains(&ups));
        for shift in 0..7 {
            assert!(extents.iter().any(|extent| extent.len == BLOCK << shift));
        }
    }
}
