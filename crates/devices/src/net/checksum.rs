//! The internet checksum.

use super::packet::{Ip, Layout};

/// Sum of bytes as big-endian 16-bit words, an odd last byte filled up with 0, folded to 16 bits.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut all: u64 = words.iter().map(|&word| u64::from(u32::from_be_bytes(word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    all += u64::from(u32::from_be_bytes(last));
    let halves = (all >> 32) + (all & 0xffff_ffff);
    let words = (halves >> 16) + (halves & 0xffff);
    fold((words >> 16) as u32 + (words & 0xffff) as u32)
}

fn fold(sum: u32) -> u32 {
    let once = (sum >> 16) + (sum & 0xffff);
    (once >> 16) + (once & 0xffff)
}

/// The checksum of parts whose sums are added up. Never 0, which in UDP means that there is none and otherwise
/// is the same as 0xffff.
pub(super) fn of_sum(sum: u32) -> u16 {
    match !(fold(sum) as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Sum of the pseudo header of a transport segment of `len` bytes.
pub(super) fn pseudo_header(frame: &[u8], layout: &Layout, protocol: u8, len: usize) -> u32 {
    let len = match layout.ip {
        Ip::V4 => len as u32 & 0xffff,
        Ip::V6 => fold(len as u32),
    };
    sum(layout.addresses(frame)) + u32::from(protocol) + len
}

/// The field or the range of a partial checksum is not inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outside;

/// Completes a partial checksum in place.
pub(super) fn finish(frame: &mut [u8], start: u16, offset: u16) -> Result<(), Outside> {
    let start = usize::from(start);
    let at = start + usize::from(offset);
    if at + 2 > frame.len() {
        return Err(Outside);
    }
    let checksum = of_sum(sum(&frame[start..]));
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn slow(bytes: &[u8]) -> u32 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    #[test]
    fn any_length_sums_up_as_it_does_word_by_word() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| ((i * 7919) >> 3) as u8).collect();
        for len in (0..600).chain([1499, 1500, 65_535, 65_536, 70_000]) {
            assert_eq!(of_sum(sum(&bytes[..len])), of_sum(slow(&bytes[..len])), "{len} bytes");
        }
        assert_eq!(of_sum(sum(&[0xff; 65_536])), of_sum(slow(&[0xff; 65_536])));
    }

    #[test]
    fn a_field_outside_the_frame_is_refused() {
        let mut frame = [0; 20];
        assert_eq!(finish(&mut frame, 14, 4), Ok(()));
        assert_eq!(finish(&mut frame, 14, 5), Err(Outside));
        assert_eq!(finish(&mut frame, 0xffff, 0xffff), Err(Outside));
    }
}
