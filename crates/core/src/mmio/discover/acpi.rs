//! ACPI: the devices of the id `LNRO0005` in a DSDT or SSDT.
//!
//! Such a device has constant resources wherever it was seen (QEMU, Firecracker, cloud-hypervisor on Arm): a block
//! of memory and an interrupt, in a buffer that no code has to run for. So the table is read and not interpreted;
//! a device whose resources are computed is not found. Finding the table (from the RSDP by way of the FADT) is
//! the caller's, who has the memory that it is in.

use crate::mmio::Place;

/// The places in the bytes of a table, with or without its header.
pub fn places(table: &[u8]) -> impl Iterator<Item = Place> + '_ {
    let mut rest = table;
    core::iter::from_fn(move || {
        loop {
            // ExtOpPrefix, DeviceOp; then the length of what belongs to the device.
            let at = rest.windows(2).position(|w| w == [0x5b, 0x82])?;
            let body = package(&rest[at + 2..]);
            rest = &rest[at + 2..];
            // A device in a device is found by itself: it begins further on.
            if let Some(place) = body.and_then(place) {
                return Some(place);
            }
        }
    })
}

const HID: &[u8] = b"\x08_HID\x0dLNRO0005\x00";
/// Name(_CRS, Buffer (...)).
const CRS: &[u8] = b"\x08_CRS\x11";

/// The place that a device's body names, if it is of the kind.
fn place(body: &[u8]) -> Option<Place> {
    // Up to the first device inside it.
    let own = body.windows(2).position(|w| w == [0x5b, 0x82]).map_or(body, |at| &body[..at]);
    find(own, HID)?;
    let buffer = package(&own[find(own, CRS)? + CRS.len()..])?;
    resources(constant(buffer)?)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|w| w == pattern)
}

/// What a PkgLength at the start counts, without the length itself.
fn package(bytes: &[u8]) -> Option<&[u8]> {
    let lead = *bytes.first()?;
    let more = usize::from(lead >> 6);
    let tail = bytes.get(1..1 + more)?;
    let len = match more {
        0 => usize::from(lead & 0x3f),
        _ => tail.iter().rev().fold(0, |len, &b| len << 8 | usize::from(b)) << 4 | usize::from(lead & 0xf),
    };
    bytes.get(1 + more..len)
}

/// What follows a constant (a buffer's size).
fn constant(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.first()? {
        0x00 | 0x01 => bytes.get(1..),
        0x0a => bytes.get(2..),
        0x0b => bytes.get(3..),
        0x0c => bytes.get(5..),
        _ => None,
    }
}

/// The first block of memory and the first interrupt of a resource template.
fn resources(mut bytes: &[u8]) -> Option<Place> {
    let (mut memory, mut interrupt) = (None, None);
    loop {
        let &tag = bytes.first()?;
        let (kind, header, len) = if tag & 0x80 == 0 {
            (tag >> 3, 1, usize::from(tag & 7))
        } else {
            let len = bytes.get(1..3)?;
            (tag, 3, usize::from(u16::from_le_bytes([len[0], len[1]])))
        };
        let body = bytes.get(header..header + len)?;
        let word = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let quad = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        match kind {
            // Memory32Fixed: flags, base, length.
            0x86 => memory = memory.or(Some((word(1)?.into(), word(5)?.into()))),
            // QWordMemory, of type memory: after flags and granularity its first address, and its length last.
            0x8a if body.first() == Some(&0) => memory = memory.or(Some((quad(11)?, quad(35)?))),
            // Extended interrupt: flags, count, the first one.
            0x89 if *body.get(1)? > 0 => interrupt = interrupt.or(Some(word(2)?)),
            // IRQ: a mask.
            0x04 => {
                let mask = u16::from_le_bytes([*body.first()?, *body.get(1)?]);
                interrupt = interrupt.or((mask != 0).then(|| mask.trailing_zeros()));
            }
            // End tag.
            0x0f => break,
            _ => {}
        }
        bytes = &bytes[header + len..];
    }
    let ((start, len), interrupt) = (memory?, interrupt?);
    Some(Place { start, len, interrupt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// What QEMU's microvm has for a device: name, _HID, _UID, _CCA, and _CRS of Memory32Fixed and one interrupt.
    fn device(name: &[u8; 4], hid: &[u8], start: u32, interrupt: u32) -> Vec<u8> {
        let mut template = vec![0x86, 9, 0, 1];
        template.extend(start.to_le_bytes());
        template.extend(512u32.to_le_bytes());
        template.extend([0x89, 6, 0, 1, 1]);
        template.extend(interrupt.to_le_bytes());
        template.extend([0x79, 0]);
        let mut buffer = vec![0x0a, template.len() as u8];
        buffer.extend(template);
        let mut body = name.to_vec();
        body.extend(b"\x08_HID\x0d");
        body.extend(hid);
        body.extend(b"\x00\x08_UID\x0a\x05\x08_CCA\x01\x08_CRS\x11");
        body.push(buffer.len() as u8 + 1);
        body.extend(buffer);
        let len = body.len() + 2;
        let mut all = vec![0x5b, 0x82, 0x40 | (len & 0xf) as u8, (len >> 4) as u8];
        all.extend(body);
        all
    }

    #[test]
    fn devices_of_the_id_are_found_among_others() {
        let mut table = vec![0; 36];
        table.extend(device(b"COM1", b"PNP0501", 0x3f8, 4));
        table.extend(device(b"VR23", b"LNRO0005", 0xfeb0_2e00, 47));
        // A scope that holds another, in a device of its own.
        let inner = device(b"VR22", b"LNRO0005", 0xfeb0_2c00, 46);
        table.extend([0x5b, 0x82, (inner.len() + 5) as u8]);
        table.extend(b"OUTR");
        table.extend(inner);
        let found: Vec<_> = places(&table).collect();
        let place = |start, interrupt| Place { start, len: 512, interrupt };
        assert_eq!(found, [place(0xfeb0_2e00, 47), place(0xfeb0_2c00, 46)]);
    }

    #[test]
    fn wide_addresses_and_short_interrupts_are_understood() {
        let mut template = vec![0x8a, 43, 0, 0, 0, 0];
        for quad in [0, 0x10_0000_0000u64, 0x10_0000_0fff, 0, 0x1000] {
            template.extend(quad.to_le_bytes());
        }
        template.extend([0x22, 0x20, 0, 0x79, 0]);
        let place = Place { start: 0x10_0000_0000, len: 0x1000, interrupt: 5 };
        assert_eq!(resources(&template), Some(place));
    }

    #[test]
    fn a_table_that_is_cut_or_broken_gives_nothing_and_comes_to_an_end() {
        let whole = device(b"VR23", b"LNRO0005", 0xfeb0_2e00, 47);
        for len in 0..whole.len() {
            assert_eq!(places(&whole[..len]).count(), 0, "{len}");
        }
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut broken = whole.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % broken.len();
                broken[at] = (seed >> 20) as u8;
            }
            assert!(places(&broken).count() <= 2);
        }
    }
}
