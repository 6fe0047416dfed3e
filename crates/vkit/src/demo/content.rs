//! Known content: any piece of it can be made by itself, in any order.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The unit in which content is made.
pub(super) const BLOCK: u64 = 4096;

/// The next pseudo-random number (SplitMix64).
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What an image is to contain.
pub(super) enum Content {
    /// Made up, block by block, from a seed.
    Seed(u64),
    /// What a file contains, and zeros after its end.
    File(File),
}

impl Content {
    /// The bytes from `at` on, which is a multiple of the block.
    pub(super) fn fill(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Seed(seed) => {
                for (number, block) in (at / BLOCK..).zip(to.chunks_mut(BLOCK as usize)) {
                    let mut state = seed.rotate_left(32) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
                    for word in block.chunks_mut(8) {
                        let bytes = random(&mut state).to_le_bytes();
                        word.copy_from_slice(&bytes[..word.len()]);
                    }
                }
                Ok(())
            }
            Self::File(file) => {
                let mut got = 0;
                while got < to.len() {
                    match file.read_at(&mut to[got..], at + got as u64) {
                        Ok(0) => break,
                        Ok(count) => got += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                to[got..].fill(0);
                Ok(())
            }
        }
    }
}

/// SHA-256.
pub(super) type Hash = [u8; 32];

pub(super) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The hash of `len` bytes that `next` gives in pieces of up to 1 MiB.
pub(super) fn hash_all(len: u64, mut next: impl FnMut(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let now = (piece.len() as u64).min(len - at) as usize;
        next(at, &mut piece[..now])?;
        hasher.update(&piece[..now]);
        at += now as u64;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_is_the_same_as_in_the_whole() {
        let content = Content::Seed(7);
        let mut whole = vec![0; 64 << 10];
        content.fill(0, &mut whole).unwrap();
        for (at, len) in [(4096, 4096), (8192, 512), (0, 12288), (61440, 4096)] {
            let mut piece = vec![0; len];
            content.fill(at, &mut piece).unwrap();
            assert_eq!(piece, whole[at as usize..at as usize + len]);
        }
        let mut other = vec![0; 64 << 10];
        Content::Seed(8).fill(0, &mut other).unwrap();
        assert!(whole.chunks(512).zip(other.chunks(512)).all(|(a, b)| a != b));
        assert!(whole[..4096] != whole[4096..8192]);
    }
}
