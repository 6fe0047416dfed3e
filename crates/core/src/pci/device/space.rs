//! The function's configuration space: header, BARs, capabilities.

use super::layout::{BAR_MSIX, BAR_REGISTERS, BAR_SHARED, Layout};
use crate::device::SharedMemory;
use crate::pci::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY, COMMAND_NO_INTX};
use crate::registers::Width;
use virtio_kit_spec::DeviceId;
use virtio_kit_spec::device_id::PCI_VENDOR_ID;
use virtio_kit_spec::pci::{CAP_ID_VENDOR, CapType};

/// Bytes of it.
pub(super) const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAP: usize = 0x40;
const CAP_MSIX: u8 = 0x11;

/// Where some capabilities are.
const CAP_PCI_CFG: usize = 0x84;
const CAP_AT_MSIX: usize = 0x98;
const CAP_AT_SHARED: usize = 0xa4;
/// As many shared memory regions as there is room for.
pub(super) const MOST_REGIONS: usize = (SIZE - CAP_AT_SHARED) / 24;

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK: u16 = 1 << 14;

/// What a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The subsystem's vendor.
    pub subsystem_vendor: u16,
    /// The subsystem.
    pub subsystem: u16,
    /// The class code, 24 bits.
    pub class: u32,
}

/// The bytes, and which bits of them a driver can write.
#[derive(Clone)]
pub(super) struct Space {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
}

/// What a write has changed that others must know.
pub(super) struct Changed {
    pub(super) command: bool,
    pub(super) msix: bool,
    /// The window was written to: its data.
    pub(super) window: Option<u32>,
}

impl Space {
    pub(super) fn new(device: DeviceId, ids: Ids, layout: &Layout, regions: &[SharedMemory]) -> Option<Self> {
        let mut space = Self { bytes: [0; SIZE], writable: [0; SIZE] };
        space.put16(0x00, PCI_VENDOR_ID);
        space.put16(0x02, device.pci()?);
        space.allow16(COMMAND, COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX);
        space.bytes[STATUS] = STATUS_CAPABILITIES;
        // Revision 1: no legacy interface (4.1.2.1).
        space.put32(0x08, ids.class << 8 | 1);
        space.put16(0x2c, ids.subsystem_vendor);
        space.put16(0x2e, ids.subsystem);
        space.bytes[CAPABILITIES] = FIRST_CAP as u8;
        space.writable[INTERRUPT_LINE] = 0xff;
        // INTA.
        space.bytes[INTERRUPT_LINE + 1] = 1;
        for (bar, len) in layout.bars() {
            space.bar(bar, len);
        }
        space.capabilities(layout, regions);
        Some(space)
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, bits: u16) {
        self.writable[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    /// A memory BAR of 64 bits: the address bits above its length can be written.
    fn bar(&mut self, bar: u8, len: u64) {
        let at = BARS + 4 * usize::from(bar);
        self.bytes[at] = 0b100;
        self.writable[at..at + 8].copy_from_slice(&(!(len - 1)).to_le_bytes());
        self.writable[at] &= 0xf0;
    }

    fn capabilities(&mut self, layout: &Layout, regions: &[SharedMemory]) {
        let mut at = FIRST_CAP;
        for (kind, offset, length, len) in layout.capabilities() {
            self.capability(at, kind, (BAR_REGISTERS, 0), (offset, length), len);
            if kind == CapType::NOTIFY_CFG {
                self.put32(at + 16, layout.notify_multiplier());
            }
            at += len;
        }
        debug_assert_eq!(at, CAP_PCI_CFG);
        self.capability(at, CapType::PCI_CFG, (0, 0), (0, 0), CAP_AT_MSIX - CAP_PCI_CFG);
        // bar; offset and length; the data.
        self.writable[at + 4] = 0xff;
        self.writable[at + 8..at + 20].fill(0xff);
        self.bytes[CAP_AT_MSIX] = CAP_MSIX;
        self.bytes[CAP_AT_MSIX + 1] = if regions.is_empty() { 0 } else { CAP_AT_SHARED as u8 };
        self.put16(CAP_AT_MSIX + 2, layout.vectors - 1);
        self.allow16(CAP_AT_MSIX + 2, MSIX_ENABLE | MSIX_MASK);
        self.put32(CAP_AT_MSIX + 4, BAR_MSIX.into());
        self.put32(CAP_AT_MSIX + 8, layout.pending_at() | u32::from(BAR_MSIX));
        for (n, region) in regions.iter().enumerate() {
            let at = CAP_AT_SHARED + 24 * n;
            let low = (region.start as u32, region.len as u32);
            self.capability(at, CapType::SHARED_MEMORY_CFG, (BAR_SHARED, region.id), low, 24);
            self.put32(at + 16, (region.start >> 32) as u32);
            self.put32(at + 20, (region.len >> 32) as u32);
            if n + 1 == regions.len() {
                self.bytes[at + 1] = 0;
            }
        }
    }

    fn capability(&mut self, at: usize, kind: CapType, bar_id: (u8, u8), place: (u32, u32), len: usize) {
        self.bytes[at..at + 6].copy_from_slice(&[
            CAP_ID_VENDOR,
            (at + len) as u8,
            len as u8,
            kind.0,
            bar_id.0,
            bar_id.1,
        ]);
        self.put32(at + 8, place.0);
        self.put32(at + 12, place.1);
    }

    /// Whether a read is of the window's data, which is in a BAR.
    pub(super) fn is_window(offset: usize) -> bool {
        (CAP_PCI_CFG + 16..CAP_PCI_CFG + 20).contains(&offset)
    }

    /// Where the window points: BAR, offset, width; `None` if that is nowhere (4.1.4.9.2).
    pub(super) fn window(&self) -> Option<(u8, u64, Width)> {
        let width = match self.get32(CAP_PCI_CFG + 12) {
            1 => Width::U8,
            2 => Width::U16,
            4 => Width::U32,
            _ => return None,
        };
        Some((self.bytes[CAP_PCI_CFG + 4], self.get32(CAP_PCI_CFG + 8).into(), width))
    }

    /// What a read of the window found.
    pub(super) fn set_window(&mut self, data: u32) {
        self.put32(CAP_PCI_CFG + 16, data);
    }

    /// Reads aligned bytes. `interrupt` is whether the function asserts, or would, its line.
    pub(super) fn read(&self, offset: usize, width: Width, interrupt: bool) -> u32 {
        let mut bytes = [0; 4];
        for (n, byte) in bytes.iter_mut().enumerate().take(width.bytes() as usize) {
            *byte = self.bytes[offset + n];
            if offset + n == STATUS && interrupt {
                *byte |= STATUS_INTERRUPT as u8;
            }
        }
        u32::from_le_bytes(bytes)
    }

    /// Writes aligned bytes, as far as they can be written.
    pub(super) fn write(&mut self, offset: usize, width: Width, value: u32) -> Changed {
        let (command, msix) = (self.command(), self.msix());
        for (n, &byte) in value.to_le_bytes().iter().enumerate().take(width.bytes() as usize) {
            let writable = self.writable[offset + n];
            self.bytes[offset + n] = self.bytes[offset + n] & !writable | byte & writable;
        }
        Changed {
            command: command != self.command(),
            msix: msix != self.msix(),
            window: Self::is_window(offset).then(|| self.get32(CAP_PCI_CFG + 16)),
        }
    }

    fn command(&self) -> u16 {
        self.get16(COMMAND)
    }

    /// Whether the function reaches memory, and its line.
    pub(super) fn may(&self) -> (bool, bool) {
        (self.command() & COMMAND_BUS_MASTER != 0, self.command() & COMMAND_NO_INTX == 0)
    }

    /// Whether MSI-X is on, and masked as a whole.
    pub(super) fn msix(&self) -> (bool, bool) {
        let control = self.get16(CAP_AT_MSIX + 2);
        (control & MSIX_ENABLE != 0, control & MSIX_MASK != 0)
    }

    /// Where a BAR is, if the function decodes it.
    pub(super) fn bar_address(&self, bar: u8) -> Option<u64> {
        let at = BARS + 4 * usize::from(bar);
        let address = u64::from(self.get32(at) & !0xf) | u64::from(self.get32(at + 4)) << 32;
        (self.command() & COMMAND_MEMORY != 0 && address != 0).then_some(address)
    }

    pub(super) fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// Takes what a driver has written from a saved space; `false` if the rest is another function's.
    pub(super) fn restore(&mut self, saved: &[u8; SIZE]) -> bool {
        let same = |n: usize| (self.bytes[n] ^ saved[n]) & !self.writable[n] == 0;
        let all_same = (0..SIZE).all(same);
        if all_same {
            self.bytes = *saved;
        }
        all_same
    }
}
