//! A device that keeps no rule unless it is told to.

use super::flags;
use crate::memory::SharedMemory;
use crate::shape::Shape;
use crate::shape::area_sizes;
use virtio_kit_ring::device::RingAddrs;

/// A chain as it stands in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Split: head. Packed: buffer id.
    pub id: u16,
    /// Ring descriptors.
    pub descs: u16,
}

/// The device's end of a ring, by hand.
pub struct ForeignDevice {
    memory: SharedMemory,
    shape: Shape,
    ring: RingAddrs,
    /// Split: available index. Packed: position, with the wrap counter.
    next: u16,
    next_wrap: bool,
    /// Split: used index. Packed: position, with the wrap counter.
    used: u16,
    used_wrap: bool,
}

impl ForeignDevice {
    /// A device that was just reset.
    pub fn new(shape: Shape, memory: SharedMemory, ring: RingAddrs) -> Self {
        Self { memory, shape, ring, next: 0, next_wrap: true, used: 0, used_wrap: true }
    }

    /// The memory that it can write.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// The next used index (split) or position (packed).
    pub fn used(&self) -> u16 {
        self.used
    }

    fn advance(&self, at: u16, wrap: bool, by: u16) -> (u16, bool) {
        let sum = u32::from(at) + u32::from(by);
        let size = u32::from(self.shape.size);
        if sum < size { (sum as u16, wrap) } else { ((sum - size) as u16, !wrap) }
    }

    /// The next chain that the driver made available.
    pub fn take(&mut self) -> Option<Seen> {
        if !self.shape.packed {
            if self.memory.read16(self.ring.driver + 2) == self.next {
                return None;
            }
            let slot = u64::from(self.next % self.shape.size);
            let id = self.memory.read16(self.ring.driver + 4 + 2 * slot);
            self.next = self.next.wrapping_add(1);
            return Some(Seen { id, descs: self.split_length(id) });
        }
        let mut descs = 0;
        loop {
            let at = self.ring.desc + 16 * u64::from(self.next);
            let found = self.memory.read16(at + 14);
            let available =
                (found & flags::AVAIL != 0) == self.next_wrap && (found & flags::USED != 0) != self.next_wrap;
            if !available {
                assert_eq!(descs, 0, "half a chain is available");
                return None;
            }
            let id = self.memory.read16(at + 12);
            (self.next, self.next_wrap) = self.advance(self.next, self.next_wrap, 1);
            descs += 1;
            if found & flags::NEXT == 0 {
                return Some(Seen { id, descs });
            }
        }
    }

    fn split_length(&self, head: u16) -> u16 {
        let (mut at, mut descs) = (head, 1);
        loop {
            let desc = self.ring.desc + 16 * u64::from(at);
            if self.memory.read16(desc + 12) & flags::NEXT == 0 {
                return descs;
            }
            (at, descs) = (self.memory.read16(desc + 14), descs + 1);
        }
    }

    /// Writes what says that chain `id` was used with `len` bytes written, and shows it as `chains` chains
    /// (split) or `descs` descriptors (packed). Honest if these are the chain's and `chains` is 1.
    pub fn put(&mut self, id: u32, len: u32, chains: u16, descs: u16) {
        if self.shape.packed {
            self.put_flags(id as u16, len, flags::WRITE, descs);
            return;
        }
        self.entry(self.used, id, len);
        self.used = self.used.wrapping_add(chains);
        self.index(self.used);
    }

    /// Completes a chain by the rules.
    pub fn complete(&mut self, seen: Seen, len: u32) {
        self.put(seen.id.into(), len, 1, seen.descs);
    }

    /// Split: writes the used ring's entry for index `at`.
    pub fn entry(&self, at: u16, id: u32, len: u32) {
        let entry = self.ring.device + 4 + 8 * u64::from(at % self.shape.size);
        self.memory.write32(entry, id);
        self.memory.write32(entry + 4, len);
    }

    /// Split: writes the used index.
    pub fn index(&self, index: u16) {
        self.memory.write16(self.ring.device + 2, index);
    }

    /// Packed: writes a used descriptor with these flags beside the lap bits, and moves on.
    pub fn put_flags(&mut self, id: u16, len: u32, extra: u16, descs: u16) {
        let lap = if self.used_wrap { flags::AVAIL | flags::USED } else { 0 };
        self.descriptor(self.used, id, len, extra | lap);
        (self.used, self.used_wrap) = self.advance(self.used, self.used_wrap, descs);
    }

    /// Packed: writes length, id and flags of the descriptor at a position.
    pub fn descriptor(&self, at: u16, id: u16, len: u32, flags: u16) {
        let desc = self.ring.desc + 16 * u64::from(at);
        self.memory.write64(desc + 8, u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48);
    }

    /// Packed: the flags of the descriptor at a position.
    pub fn flags_at(&self, at: u16) -> u16 {
        self.memory.read16(self.ring.desc + 16 * u64::from(at) + 14)
    }

    /// Writes event suppression: split `flags` and `avail_event`, packed `flags` and `desc`.
    pub fn suppress(&self, flags: u16, event: u16) {
        if self.shape.packed {
            self.memory.write32(self.ring.device, u32::from(flags) << 16 | u32::from(event));
        } else {
            self.memory.write16(self.ring.device, flags);
            self.memory.write16(self.ring.device + 4 + 8 * u64::from(self.shape.size), event);
        }
    }

    /// Sets every byte of the driver's own words: descriptors and driver area.
    pub fn scribble(&self, byte: u8) {
        let [desc, driver, _] = area_sizes(self.shape);
        self.memory.fill(self.ring.desc, desc, byte);
        self.memory.fill(self.ring.driver, driver, byte);
    }
}
