//! What disks and frames contain. The host has this file too, and so can tell what it will find.

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Fills `to` with what belongs to the sectors from `first` on, under `seed`.
pub fn fill(seed: u64, first: u64, to: &mut [u8]) {
    for (sector, bytes) in (first..).zip(to.chunks_mut(SECTOR)) {
        let mut state = seed ^ sector.wrapping_mul(0xd134_2543_de82_ef95);
        for word in bytes.chunks_mut(8) {
            let value = next(&mut state).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}

/// Bytes of frame `number` behind its header: all lengths that Ethernet has, the shortest and the longest too.
pub fn frame_len(number: u64) -> usize {
    46 + (number as usize * 977) % 1455
}

/// Bytes of piece `number` of what goes over a console's port: no round numbers, and more than one buffer.
pub fn piece_len(number: u64) -> usize {
    1 + (number as usize * 1733) % 6000
}

/// Where the content of a piece begins, far from that of any other.
pub fn piece(port: u32, number: u64) -> u64 {
    1 << 40 | u64::from(port) << 32 | number << 8
}

/// Splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
