//! What QEMU hands to firmware (`fw_cfg`), of which only the ACPI tables and the device tree are of interest here.

use virtio_kit::mmio::Place;
use virtio_kit::mmio::discover::{acpi, device_tree};
use virtio_kit::registers::Width;
use virtio_kit::transport::TransportError;

use super::codec::Command;
use super::link::Link;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
/// The key of the list of files.
const DIRECTORY: u16 = 0x19;
/// Bytes of an entry in it: size and key, both big-endian, two unused, a name.
const ENTRY: usize = 64;
const TABLES: &[u8] = b"etc/acpi/tables\0";
const TREE: &[u8] = b"etc/fdt\0";
/// A file larger than this is not believed.
const MOST: u32 = 1 << 20;

const BROKEN: TransportError =
    TransportError::Protocol("no ACPI tables and no device tree where QEMU has them");

/// The places of MMIO devices that the machine's ACPI tables name, or without ACPI its device tree.
pub(super) fn places(link: &Link) -> Result<Vec<Place>, TransportError> {
    let count = read(link, DIRECTORY, 0, 4)?;
    let count = u32::from_be_bytes(count.try_into().map_err(|_| BROKEN)?).min(64);
    let directory = read(link, DIRECTORY, 4, count as usize * ENTRY)?;
    if let Some(tables) = file(link, &directory, TABLES)? {
        // All of them one after the other; devices are only in those that have any.
        return Ok(acpi::places(&tables).collect());
    }
    let tree = file(link, &directory, TREE)?.ok_or(BROKEN)?;
    Ok(device_tree::places(&tree).map_err(|_| BROKEN)?.collect())
}

/// The file of a name, if there is one.
fn file(link: &Link, directory: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, TransportError> {
    let found = directory.chunks_exact(ENTRY).find(|entry| entry[8..].starts_with(name));
    let Some(file) = found else { return Ok(None) };
    let size = u32::from_be_bytes([file[0], file[1], file[2], file[3]]);
    let key = u16::from_be_bytes([file[4], file[5]]);
    if size > MOST {
        return Err(BROKEN);
    }
    read(link, key, 0, size as usize).map(Some)
}

/// `len` bytes of an item, after the first `skip`.
fn read(link: &Link, key: u16, skip: usize, len: usize) -> Result<Vec<u8>, TransportError> {
    link.run(&[Command::Out(SELECTOR, Width::U16, key.into())])?;
    let mut bytes = Vec::with_capacity(len);
    for at in 0..skip + len {
        let byte = link.run(&[Command::In(DATA, Width::U8)])? as u8;
        if at >= skip {
            bytes.push(byte);
        }
    }
    Ok(bytes)
}
