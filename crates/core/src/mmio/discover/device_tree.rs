//! Device trees: the nodes compatible with `virtio,mmio` (4.2.1).

use crate::mmio::Place;
use core::fmt;
use fdt::Fdt;
use fdt::node::FdtNode;

/// The places that a flattened device tree names. A node without registers or an interrupt, or that is disabled,
/// names none.
pub fn places(blob: &[u8]) -> Result<impl Iterator<Item = Place> + '_, BadTree> {
    let tree = Fdt::new(blob).map_err(|_| BadTree)?;
    let mut places = alloc::vec::Vec::new();
    for node in tree.all_nodes() {
        let suits = node.compatible().is_some_and(|all| all.all().any(|one| one == "virtio,mmio"));
        let status = node.property("status").and_then(|p| p.as_str());
        if suits && matches!(status, None | Some("okay" | "ok")) {
            places.extend(place(&node));
        }
    }
    Ok(places.into_iter())
}

fn place(node: &FdtNode<'_, '_>) -> Option<Place> {
    let registers = node.reg()?.next()?;
    let (start, len) = (registers.starting_address as usize as u64, registers.size? as u64);
    Some(Place { start, len, interrupt: interrupt(node.property("interrupts")?.value)? })
}

/// The number of a node's one interrupt, as its controller counts: alone, with flags, or with a GIC's kind of it.
fn interrupt(cells: &[u8]) -> Option<u32> {
    let cell = |n: usize| Some(u32::from_be_bytes(cells.get(4 * n..4 * n + 4)?.try_into().ok()?));
    match (cells.len(), cell(0)?) {
        (4 | 8, number) => Some(number),
        // Shared ones are counted from 32 on, those of one CPU from 16.
        (12, 0) => cell(1)?.checked_add(32),
        (12, 1) => cell(1)?.checked_add(16),
        _ => None,
    }
}

/// The bytes are no flattened device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTree;

impl fmt::Display for BadTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are no flattened device tree")
    }
}

impl core::error::Error for BadTree {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Writes a tree.
    #[derive(Default)]
    struct Writer {
        structure: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn word(&mut self, word: u32) {
            self.structure.extend(word.to_be_bytes());
        }
        fn padded(&mut self, bytes: &[u8]) {
            self.structure.extend(bytes);
            self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        }
        fn begin(&mut self, name: &str) {
            self.word(1);
            let name: Vec<u8> = name.bytes().chain([0]).collect();
            self.padded(&name);
        }
        fn end(&mut self) {
            self.word(2);
        }
        fn property(&mut self, name: &str, value: &[u8]) {
            self.word(3);
            self.word(value.len() as u32);
            self.word(self.strings.len() as u32);
            self.strings.extend(name.bytes().chain([0]));
            self.padded(value);
        }
        fn finish(mut self) -> Vec<u8> {
            self.word(9);
            let (at, strings) = (56, 56 + self.structure.len() as u32);
            let total = strings + self.strings.len() as u32;
            let header = [
                0xd00d_feed,
                total,
                at,
                strings,
                40,
                17,
                16,
                0,
                self.strings.len() as u32,
                self.structure.len() as u32,
            ];
            let mut all: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
            all.resize(56, 0);
            all.extend(self.structure);
            all.extend(self.strings);
            all
        }
    }

    fn tree(nodes: &[(u64, &str, &[u32], &str)]) -> Vec<u8> {
        let mut tree = Writer::default();
        tree.begin("");
        tree.property("#address-cells", &[0, 0, 0, 2]);
        tree.property("#size-cells", &[0, 0, 0, 2]);
        for &(start, compatible, interrupt, status) in nodes {
            tree.begin(&alloc::format!("virtio_mmio@{start:x}"));
            let compatible: Vec<u8> = compatible.bytes().chain([0]).collect();
            tree.property("compatible", &compatible);
            let reg: Vec<u8> = [start, 0x200].into_iter().flat_map(u64::to_be_bytes).collect();
            tree.property("reg", &reg);
            let cells: Vec<u8> = interrupt.iter().flat_map(|c| c.to_be_bytes()).collect();
            tree.property("interrupts", &cells);
            let status: Vec<u8> = status.bytes().chain([0]).collect();
            tree.property("status", &status);
            tree.end();
        }
        tree.end();
        tree.finish()
    }

    #[test]
    fn nodes_of_the_kind_are_found_with_their_interrupt() {
        let blob = tree(&[
            (0x0a00_0000, "virtio,mmio", &[0, 16, 1], "okay"),
            (0x0a00_0200, "virtio,mmio", &[1, 3, 4], "ok"),
            (0x0a00_0400, "virtio,mmio", &[0, 18, 1], "disabled"),
            (0x0900_0000, "arm,pl011", &[0, 1, 4], "okay"),
            (0x1000_1000, "virtio,mmio", &[8], "okay"),
            (0x1000_2000, "virtio,mmio", &[], "okay"),
        ]);
        let found: Vec<_> = places(&blob).unwrap().collect();
        let place = |start, interrupt| Place { start, len: 0x200, interrupt };
        assert_eq!(found, [place(0x0a00_0000, 48), place(0x0a00_0200, 19), place(0x1000_1000, 8)]);
        assert!(places(&[0; 64]).is_err());
    }
}
