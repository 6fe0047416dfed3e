//! A driver that keeps no rule unless it is told to.

use super::flags;
use crate::memory::SharedMemory;
use crate::shape::Shape;
use crate::shape::area_sizes;
use virtio_kit_ring::device::RingAddrs;

/// What a descriptor says about the one after it: `next` in a split ring, buffer id in a packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The honest value.
    Honest,
    /// Any other. In a split ring, an index of the table.
    Any(u16),
    /// Split: the descriptor this many after the first of the chain. Packed: as `Any`.
    Ahead(u16),
}

/// A descriptor; `flags` are NEXT, WRITE and INDIRECT in any combination, which both layouts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Flags.
    pub flags: u16,
    /// What follows.
    pub link: Link,
}

impl Raw {
    /// A descriptor with an honest link.
    pub fn new(addr: u64, len: u32, flags: u16) -> Self {
        Self { addr, len, flags, link: Link::Honest }
    }

    /// Another link.
    pub fn link(self, link: Link) -> Self {
        Self { link, ..self }
    }
}

/// The driver's end of a ring, by hand.
pub struct ForeignDriver {
    memory: SharedMemory,
    shape: Shape,
    ring: RingAddrs,
    /// Next descriptor: index in the table (split), position (packed).
    at: u16,
    wrap: bool,
    /// Split: available index.
    index: u16,
    /// Split: used index. Packed: position.
    used: u16,
    used_wrap: bool,
}

impl ForeignDriver {
    /// A driver of a ring at the start of zeroed memory.
    pub fn new(shape: Shape, memory: SharedMemory) -> Self {
        let [desc, driver, _] = area_sizes(shape);
        let desc_at = memory.start();
        let driver_at = (desc_at + desc as u64).next_multiple_of(64);
        let device_at = (driver_at + driver as u64).next_multiple_of(64);
        let ring = RingAddrs { desc: desc_at, driver: driver_at, device: device_at };
        Self { memory, shape, ring, at: 0, wrap: true, index: 0, used: 0, used_wrap: true }
    }

    /// Where the ring is.
    pub fn ring(&self) -> RingAddrs {
        self.ring
    }

    /// First address after the ring, a multiple of 64.
    pub fn after_ring(&self) -> u64 {
        (self.ring.device + area_sizes(self.shape)[2] as u64).next_multiple_of(64)
    }

    /// The memory that it can write.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Where the next chain begins: index in the table (split), position (packed).
    pub fn at(&self) -> u16 {
        self.at
    }

    /// Split: the available index.
    pub fn index(&self) -> u16 {
        self.index
    }

    fn after(&self, at: u16, wrap: bool, by: usize) -> (u16, bool) {
        let sum = usize::from(at) + by;
        let size = usize::from(self.shape.size);
        ((sum % size) as u16, wrap == (sum / size).is_multiple_of(2))
    }

    /// Writes a chain where the next one goes and makes it available: its id.
    pub fn offer(&mut self, chain: &[Raw]) -> u16 {
        let id = self.write(chain);
        if !self.shape.packed {
            self.entry(self.index, id);
            self.index = self.index.wrapping_add(1);
            self.show(self.index);
        }
        id
    }

    /// Writes a chain where the next one goes: its id. In a packed ring that makes it available.
    pub fn write(&mut self, chain: &[Raw]) -> u16 {
        let id = self.at;
        // The first descriptor last, so that the chain appears at once.
        for (i, raw) in chain.iter().enumerate().rev() {
            let (at, wrap) = self.after(self.at, self.wrap, i);
            let (next, _) = self.after(self.at, self.wrap, i + 1);
            let link = match raw.link {
                Link::Any(link) => link,
                Link::Honest if self.shape.packed => id,
                Link::Honest => next,
                Link::Ahead(by) => self.after(self.at, self.wrap, by.into()).0,
            };
            let lap = if wrap { flags::AVAIL } else { flags::USED };
            self.descriptor(at, raw, link, if self.shape.packed { lap } else { 0 });
        }
        (self.at, self.wrap) = self.after(self.at, self.wrap, chain.len());
        id
    }

    /// Writes a descriptor.
    pub fn descriptor(&self, at: u16, raw: &Raw, link: u16, extra: u16) {
        let flags = raw.flags | extra;
        let (low, high) = if self.shape.packed { (link, flags) } else { (flags, link) };
        let second = u64::from(raw.len) | u64::from(low) << 32 | u64::from(high) << 48;
        let desc = self.ring.desc + 16 * u64::from(at);
        self.memory.write64(desc, raw.addr);
        self.memory.write64(desc + 8, second);
    }

    /// Writes a table of descriptors at an address: its length in bytes.
    pub fn table(&self, addr: u64, entries: &[Raw]) -> u32 {
        for (i, raw) in entries.iter().enumerate() {
            let link = match raw.link {
                Link::Any(link) | Link::Ahead(link) => link,
                Link::Honest => i as u16 + 1,
            };
            let (low, high) = if self.shape.packed { (link, raw.flags) } else { (raw.flags, link) };
            let at = addr + 16 * i as u64;
            self.memory.write_bytes(at, &raw.addr.to_le_bytes());
            self.memory.write_bytes(at + 8, &raw.len.to_le_bytes());
            self.memory.write_bytes(at + 12, &low.to_le_bytes());
            self.memory.write_bytes(at + 14, &high.to_le_bytes());
        }
        16 * entries.len() as u32
    }

    /// Split: writes the available ring's entry for an index.
    pub fn entry(&self, index: u16, head: u16) {
        self.memory.write16(self.ring.driver + 4 + 2 * u64::from(index % self.shape.size), head);
    }

    /// Split: writes the available index.
    pub fn show(&self, index: u16) {
        self.memory.write16(self.ring.driver + 2, index);
    }

    /// Writes event suppression: split `flags` and `used_event`, packed `flags` and `desc`.
    pub fn suppress(&self, flags: u16, event: u16) {
        if self.shape.packed {
            self.memory.write32(self.ring.driver, u32::from(flags) << 16 | u32::from(event));
        } else {
            self.memory.write16(self.ring.driver, flags);
            self.memory.write16(self.ring.driver + 4 + 2 * u64::from(self.shape.size), event);
        }
    }

    /// The next used chain, of `descs` descriptors: id and length.
    pub fn take_used(&mut self, descs: u16) -> Option<(u32, u32)> {
        if self.shape.packed {
            let desc = self.ring.desc + 16 * u64::from(self.used);
            let found = self.memory.read16(desc + 14);
            let lap = if self.used_wrap { flags::AVAIL | flags::USED } else { 0 };
            if found & (flags::AVAIL | flags::USED) != lap {
                return None;
            }
            (self.used, self.used_wrap) = self.after(self.used, self.used_wrap, descs.into());
            return Some((self.memory.read16(desc + 12).into(), self.memory.read32(desc + 8)));
        }
        if self.memory.read16(self.ring.device + 2) == self.used {
            return None;
        }
        let entry = self.ring.device + 4 + 8 * u64::from(self.used % self.shape.size);
        self.used = self.used.wrapping_add(1);
        Some((self.memory.read32(entry), self.memory.read32(entry + 4)))
    }
}
