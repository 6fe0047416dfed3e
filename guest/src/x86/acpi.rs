//! As much of ACPI as is needed to find CPUs, interrupt controllers, and devices.

use alloc::vec::Vec;
use core::slice;

/// The tables that firmware left.
#[derive(Default)]
pub struct Tables(Vec<&'static [u8]>);

/// A PCI bus's configuration space in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Address of bus 0's.
    pub base: u64,
    /// The last bus that there is room for.
    pub last_bus: u8,
}

const HEADER: usize = 36;

impl Tables {
    /// Reads the tables that the root pointer leads to; none, if there is no root pointer.
    ///
    /// # Safety
    ///
    /// `rsdp` must be 0 or what the loader named as ACPI's root pointer, and nobody may write to the tables.
    pub unsafe fn read(rsdp: u64) -> Self {
        let mut tables = Vec::new();
        // SAFETY: the caller's promise; lengths are those that the tables state, and their sums are looked at.
        unsafe {
            if rsdp == 0 || at(rsdp, 8) != b"RSD PTR " {
                return Self::default();
            }
            let root = at(rsdp, 36);
            let (root, width) = if root[15] == 0 { (word(root, 16, 4), 4) } else { (word(root, 24, 8), 8) };
            let Some(root) = root.and_then(|root| table(root)) else { return Self::default() };
            for pointer in root[HEADER..].chunks_exact(width) {
                let Some(found) = word(pointer, 0, width).and_then(|at| table(at)) else { continue };
                tables.push(found);
                if found.starts_with(b"FACP") {
                    tables.extend(word(found, 40, 4).and_then(|dsdt| table(dsdt)));
                }
            }
        }
        Self(tables)
    }

    fn find(&self, signature: &[u8; 4]) -> Option<&'static [u8]> {
        self.0.iter().copied().find(|table| table.starts_with(signature))
    }

    /// Entries of the MADT of one kind.
    fn controllers(&self, kind: u8) -> impl Iterator<Item = &'static [u8]> + use<> {
        let mut rest = self.find(b"APIC").and_then(|table| table.get(HEADER + 8..)).unwrap_or(&[]);
        core::iter::from_fn(move || {
            let len = usize::from(*rest.get(1)?).max(2);
            let (entry, after) = rest.split_at_checked(len)?;
            rest = after;
            Some(entry)
        })
        .filter(move |entry| entry[0] == kind)
    }

    /// Numbers of the CPUs' local interrupt controllers.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + use<> {
        self.controllers(0).filter(|e| e.len() >= 8 && e[4] & 1 != 0).map(|e| e[3].into())
    }

    /// Address and first line of each controller of lines.
    pub fn io_apics(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        self.controllers(1).filter_map(|e| Some((word(e, 4, 4)? as u32, word(e, 8, 4)? as u32)))
    }

    /// Configuration space in memory: by its own table, or else as a method of the DSDT that gives a constant, which is
    /// how microvm tells it.
    pub fn ecam(&self) -> Option<Ecam> {
        if let Some(table) = self.find(b"MCFG") {
            return Some(Ecam { base: word(table, HEADER + 8, 8)?, last_bus: *table.get(HEADER + 19)? });
        }
        let table = self.find(b"DSDT")?;
        let value = find(table, b"_CBA\x00\xa4")? + 6;
        let base = match table.get(value)? {
            0x0c => word(table, value + 1, 4)?,
            0x0e => word(table, value + 1, 8)?,
            _ => return None,
        };
        Some(Ecam { base, last_bus: 255 })
    }

    /// The tables that describe devices.
    pub fn definitions(&self) -> impl Iterator<Item = &'static [u8]> + '_ {
        self.0.iter().copied().filter(|table| table.starts_with(b"DSDT") || table.starts_with(b"SSDT"))
    }
}

/// # Safety
///
/// `len` bytes at `address` must be there, and nobody may write to them.
unsafe fn at(address: u64, len: usize) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(address as *const u8, len) }
}

/// A table, if its sum is right.
///
/// # Safety
///
/// A table must be there, and nobody may write to it.
unsafe fn table(address: u64) -> Option<&'static [u8]> {
    // SAFETY: the caller's promise.
    let table = unsafe {
        let len = word(at(address, HEADER), 4, 4)?;
        at(address, len as usize)
    };
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    (sum == 0 && table.len() >= HEADER).then_some(table)
}

fn word(bytes: &[u8], offset: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
